"""Processes of the tests: each is forked from one that has imported everything, which saves it five seconds of imports.

That `python -m project` and the installed command begin as they should is tested in `tests/project/test_cli.py`.
"""

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from lightrail.project.basics.catalogue import ROOT
from lightrail.project.cli import run
from lightrail.sweeps.trials.forked import begin_as_any_process
from lightrail.sweeps.trials.process import CONTEXT, warm_up
from tests.support import blank_figures, unsynced  # noqa: F401 - in each process

SECONDS_TO_HANG = 600.0
"""No process of a test takes a tenth of this on the slowest machine seen: after it, one hangs."""
ALIVE: "set[Child]" = set()
"""Those that nobody has waited for."""


class Child:
    """A process of its own that runs a command of lightrail, or a program; used like `subprocess.Popen`.

    Args:
        arguments: of the command, or of the program, where they are `sys.argv[1:]`.
        program: Python source to run in the place of the command.
        folder: where it works; left out: where this process works.
        environment: further variables.
        starts_session: whether it leads a session of its own, so that signals can be sent to all of it.
    """

    def __init__(
        self,
        arguments: Iterable[object],
        *,
        program: str | None = None,
        folder: Path | None = None,
        starts_session: bool = False,
    ) -> None:
        with contextlib.chdir(ROOT):  # the server stays where it is started: in no folder that a test looks into
            warm_up()
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))  # for what it starts in turn
        environment = {**os.environ, "PYTHONWARNINGS": "ignore", "PYTHONPATH": path}
        self._outputs = [_Output(), _Output()]
        theirs = [output.begin() for output in self._outputs]
        task = (environment, str(folder or Path.cwd()), theirs, starts_session, program, [*map(str, arguments)])
        self._process = CONTEXT.Process(target=_run, args=task)
        self._process.start()
        for end in theirs:
            end.close()
        ALIVE.add(self)

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs; minus the number of the signal that ended it."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float = SECONDS_TO_HANG) -> int:
        """Raises: subprocess.TimeoutExpired, when it has been killed."""
        self._process.join(timeout)
        if (status := self.returncode) is None:
            self.close()
            raise subprocess.TimeoutExpired(self._process.name, timeout, *self._written())
        ALIVE.discard(self)
        return status

    def communicate(self, timeout: float = SECONDS_TO_HANG) -> tuple[str, str]:
        """Wait for its end, and return what it wrote to standard output and to standard error."""
        self.wait(timeout)
        return self._written()

    def first_line(self) -> str:
        """Wait until it has written a line, and return that."""
        wait_for(lambda: "\n" in self._outputs[0].text, self)
        return self._outputs[0].text.splitlines()[0]

    def close(self) -> None:
        """End it, and wait for that."""
        self.kill()
        self._process.join()
        ALIVE.discard(self)

    def _written(self) -> tuple[str, str]:
        out, err = (output.whole() for output in self._outputs)
        return out, err


class _Output:
    """What a process writes into a pipe. No file: some tests allow a process small files only."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def begin(self) -> Connection:
        """Return the end to write to, which is to be closed here once the process has it."""
        reader, writer = os.pipe()
        self._thread = threading.Thread(target=self._read, args=(reader,), daemon=True)
        self._thread.start()
        return Connection(writer, readable=False)

    def _read(self, descriptor: int) -> None:
        while part := os.read(descriptor, 65536):
            self._parts.append(part)
        os.close(descriptor)

    @property
    def text(self) -> str:
        """As far as it has come."""
        return b"".join(self._parts).decode("utf-8", errors="replace")

    def whole(self) -> str:
        """Wait for its end, which something that the process left behind may put off."""
        self._thread.join(10)
        return self.text


def wait_for(holds: Callable[[], bool], process: "Child | subprocess.Popen[str]") -> None:
    """Wait until something holds that a process brings about; kill it when that does not come."""
    deadline = time.monotonic() + SECONDS_TO_HANG
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if holds():
                return
        except (KeyError, ValueError, IndexError):  # it has not come so far
            pass
        time.sleep(0.1)
    process.kill()
    raise AssertionError(f"it did not come about: {process.communicate()}")


def _run(
    environment: Mapping[str, str],
    folder: str,
    outputs: list[Connection],
    starts_session: bool,
    program: str | None,
    arguments: list[str],
) -> None:
    """In the new process: be what `python -m project ARGUMENTS` or `python -c PROGRAM ARGUMENTS` is."""
    begin_as_any_process(environment)
    if starts_session:
        os.setsid()
    os.chdir(folder)
    for descriptor, output in zip((1, 2), outputs, strict=True):
        os.dup2(output.fileno(), descriptor)
        output.close()
    sys.path.insert(0, folder)
    warnings.simplefilter("ignore")
    status: Any = 0
    try:
        if program is None:
            import lightrail.project.__main__ as command

            sys.modules["__main__"] = command  # Lightning starts further processes as the first was started
            sys.argv = [str(command.__file__), *arguments]
            status = run(arguments)
        else:
            sys.argv = ["-c", *arguments]
            exec(compile(program, "<program>", "exec"), {"__name__": "__main__"})
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
        status = 1
    atexit._run_exitfuncs()  # multiprocessing leaves them out
    raise SystemExit(status)
