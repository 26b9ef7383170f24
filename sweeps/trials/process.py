"""The processes of trials: started on devices of their own, and ended together with their child processes."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil

from lightrail.project.basics.errors import ConfigError, first_line
from lightrail.project.tracking.processes import Owner
from lightrail.sweeps.trials.forked import answer, lead
from lightrail.sweeps.trials.messages import Assignment, Failed, Finished, Message, clear_failure, first_failure

SECONDS_TO_STOP = 60.0
"""How long a trial may take to stop, which includes writing its checkpoint."""
PRELOADED = ["lightrail.sweeps.trials.preloaded"]
CONTEXT = multiprocessing.get_context("forkserver")
MOST_STARTS, MOST_CALLS = 20, 2
_NUM_LAST_LINES = 20
_STARTING = threading.Lock()
_SECONDS_BETWEEN_LOOKS = 0.05


def warm_up() -> None:
    """Start the process that trials are forked from; it imports everything while the driver does other things."""
    from multiprocessing import forkserver

    CONTEXT.set_forkserver_preload(PRELOADED)
    forkserver.ensure_running()


class TrialProcess:
    """The driver's end of a trial's process.

    Args:
        num_processes: of the trial. A single one is forked, which is faster than a command.
    """

    def __init__(self, assignment: Assignment, num_processes: int) -> None:
        self.log = Path(assignment.log)
        self._connection, theirs = CONTEXT.Pipe()
        self._liveness, their_liveness = CONTEXT.Pipe()
        clear_failure(assignment.log)
        start = _fork if num_processes == 1 else _command  # Lightning starts further ones by the first's command line
        self._process = start(assignment, theirs, their_liveness)
        self.owner = _owner(self._process.pid)
        theirs.close()
        their_liveness.close()

    def messages(self) -> Iterator[Message]:
        """Yield the messages of the process; the last is its outcome."""
        while True:
            try:
                message: Message = self._connection.recv()
            except (EOFError, OSError):
                message = first_failure(str(self.log)) or Failed("its process was ended from outside", "killed")
            yield message
            if isinstance(message, Finished | Failed):
                return

    def answer(self, continues: bool) -> None:
        """Reply to a report: False prunes the trial."""
        with suppress(OSError):  # it has died, which the next message reports
            self._connection.send(continues)

    def stop(self) -> None:
        """Ask the process to stop at its next step, with a checkpoint."""
        if self.owner.lives:
            os.kill(self.owner.number, signal.SIGTERM)

    def close(self) -> None:
        """Wait for the end of the process, and kill the processes that it leaves behind."""
        self._liveness.close()
        deadline = time.monotonic() + SECONDS_TO_STOP
        if isinstance(self._process, subprocess.Popen):
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(SECONDS_TO_STOP)
        else:
            self._process.join(deadline - time.monotonic())
        _kill_group(self.owner.number)
        self._connection.close()
        self._process.wait() if isinstance(self._process, subprocess.Popen) else self._process.join()

    def last_lines(self) -> str:
        """Return the last lines of the trial's log."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(lines[-_NUM_LAST_LINES:])


def end_group(process: Owner, seconds: float) -> None:
    """Wait for the end of a trial's process whose driver has died; then kill it with its child processes."""
    deadline = time.monotonic() + seconds
    while process.lives and time.monotonic() < deadline:
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    if process.lives:
        _kill_group(process.number)
    while process.lives:
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def _owner(number: int | None) -> Owner:
    assert number is not None, "it was started"
    try:
        return Owner.of(psutil.Process(number))
    except psutil.NoSuchProcess:  # it has ended already
        return Owner.of(psutil.Process())._replace(number=number)


def _kill_group(number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(number, signal.SIGKILL)  # a trial leads a group of its own


def _fork(assignment: Assignment, connection: Connection, liveness: Connection) -> ForkServerProcess:
    return _started(lead, assignment, connection, liveness)


def _started(target: Callable[..., object], *arguments: Any) -> ForkServerProcess:
    """Start a forked process, also where the one that it is forked from is ended at this moment.

    Raises: ConfigError when it cannot be started.
    """
    for _ in range(MOST_STARTS):
        process = CONTEXT.Process(target=target, args=(dict(os.environ), *arguments))
        try:
            with _without_main():
                process.start()  # starts another one to fork from where that has ended
        except (EOFError, OSError) as error:
            failure = error
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        else:
            return process
    raise ConfigError(f"no process can be started: {first_line(failure)}. Free memory, and repeat the command.")


@contextmanager
def _without_main() -> Iterator[None]:
    """Have processes that are started in the block not run the program's file, as multiprocessing does."""
    # Nothing that they are given is defined there, and a script would start its sweep again in each.
    with _STARTING:
        main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


def _command(assignment: Assignment, connection: Connection, liveness: Connection) -> "subprocess.Popen[bytes]":
    file = Path(assignment.log).with_suffix(".json")
    file.write_text(json.dumps(asdict(assignment)), encoding="utf-8")
    descriptors = (connection.fileno(), liveness.fileno())
    command = [sys.executable, "-m", "lightrail.sweeps.trials.trial", str(file), *map(str, descriptors)]
    return subprocess.Popen(command, pass_fds=descriptors)


def call_forked(function: Callable[..., str], *arguments: Any) -> str:
    """Call a function in a process forked from the one that has imported everything; return its result.

    Raises: ConfigError when the process ends without a result, twice.
    """
    for _ in range(MOST_CALLS):
        connection, theirs = CONTEXT.Pipe()
        process = _started(answer, theirs, function, arguments)
        theirs.close()
        try:
            return str(connection.recv())
        except (EOFError, OSError):
            continue
        finally:
            process.join()
            connection.close()
    raise ConfigError(
        f"the process that checks the sweep was ended from outside {MOST_CALLS} times, as the system does when memory "
        f"runs out, or by an error above. Free memory, and repeat the command."
    )
