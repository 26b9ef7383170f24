"""A process for each input: forked from this one, which has imported everything, and bounded in memory and time."""

import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from lightrail.lightning_modules.transfer.exported import load_exported
from lightrail.project import cli, last_resort
from lightrail.project.basics.errors import Refusal, for_terminal

LOAD = "load_exported"
"""Stands in the place of a command: read an exported model in Python."""
COMMAND, LOG = "command.json", "log.txt"
"""The arguments, and what the command wrote, in the folder of an input."""
NOT_PREPARED = 77
"""Status of a process that failed before the command was called: a mistake of this program."""
MOST_BYTES_OF_FILE = 64 * 2**20


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of a process."""

    seconds: float = 60.0
    """Processor time: on a busy machine a command may take ten times as long, and is not to blame."""
    waiting: float = 600.0
    """Wall-clock time, which ends what waits for ever."""
    memory: int = 3 * 2**30
    """Bytes of address space, above those of this process."""


@dataclass(frozen=True)
class Ended:
    """The end of a process."""

    status: int
    """The exit status; minus the number of the signal that ended it."""
    is_late: bool
    """Whether it was killed after `Limits.waiting`."""
    at: float = 0.0
    """Seconds since 1970."""


class Sandbox:
    """A running process.

    Args:
        folder: where it works; home, caches and state are there as well.
        prepare: called in the process; returns the arguments of the command.
    """

    def __init__(self, folder: Path, prepare: Callable[[], list[str]], limits: Limits | None = None) -> None:
        self.folder = folder = folder.absolute()
        self._limits = limits or Limits()
        self._deadline = time.monotonic() + self._limits.waiting
        sys.stdout.flush()
        sys.stderr.flush()
        self._process = os.fork()
        if not self._process:
            _run(folder, prepare, self._limits)

    def poll(self) -> Ended | None:
        """Return how it ended; None while it runs."""
        is_late = time.monotonic() > self._deadline
        if is_late:
            self._kill()
        found, status = os.waitpid(self._process, 0 if is_late else os.WNOHANG)
        if not found:
            return None
        self._kill()  # what it has started
        return Ended(os.waitstatus_to_exitcode(status), is_late, time.time())

    def wait(self) -> Ended:
        """Wait for its end."""
        while (ended := self.poll()) is None:
            time.sleep(0.01)
        return ended

    def _kill(self) -> None:
        for kill in (os.killpg, os.kill):
            with suppress(ProcessLookupError, PermissionError):
                kill(self._process, signal.SIGKILL)


def world(folder: Path) -> Mapping[str, str]:
    """Return the environment of a command that leaves its folder alone."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LANG", "LC_ALL") if name in os.environ}
    places = {"HOME": "home", "TMPDIR": "tmp", "LIGHTRAIL_CACHE": "cache", "XDG_STATE_HOME": "state", "HF_HOME": "hub"}
    own = {name: str(folder / place) for name, place in places.items()}
    return {**kept, **own, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def _run(folder: Path, prepare: Callable[[], list[str]], limits: Limits) -> NoReturn:
    status = NOT_PREPARED
    try:
        os.setsid()
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(world(folder))
        (folder / "tmp").mkdir(exist_ok=True)
        log = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for number, target in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(number, target)
        sys.stdout, sys.stderr = (os.fdopen(own, "w", encoding="utf-8", closefd=False) for own in (1, 2))
        words = prepare()
        Path(COMMAND).write_text(json.dumps(words), "utf-8")
        sys.argv = [str(Path(cli.__file__).with_name("__main__.py")), *words]
        _limit(limits)
        status = _call(words)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _limit(limits: Limits) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    memory = pages * resource.getpagesize() + limits.memory
    seconds = max(1, int(limits.seconds))
    for kind, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, MOST_BYTES_OF_FILE),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))  # SIGXCPU, which tells it from other ends


def _call(words: list[str]) -> int:
    if words[:1] != [LOAD]:
        return cli.main(words)
    try:
        load_exported(words[1])
    except Refusal as refusal:
        sys.stderr.write(f"lightrail: error: {for_terminal(str(refusal))}\n")
        return 2
    except BaseException as error:
        last_resort.report(error, words, shows_traceback=False)
        return 1
    return 0
