"""A driver of a sweep on another machine: the command that a person would give there."""

import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

SECONDS_BETWEEN_LOOKS = 0.5


class DriverProcess:
    """Runs `lightrail sweep` in a process of its own, and ends it with a checkpoint when it is itself to end.

    Args:
        arguments: of the command.
        folder: the current one, from which what the arguments name is found.
    """

    def __init__(self, arguments: list[str], folder: Path) -> None:
        self.arguments, self.folder = arguments, folder
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> str:
        """Work on the study until it is full; give the command's last line.

        Raises: RuntimeError when it ends otherwise.
        """
        command = [sys.executable, "-m", "lightrail", "sweep", *self.arguments]
        with tempfile.TemporaryFile() as output:
            process = self._process = subprocess.Popen(command, cwd=self.folder, env=_environment(), stdout=output)
            try:
                while process.poll() is None:  # wait() would hold a lock that `checkpoint` needs, in a signal's handler
                    time.sleep(SECONDS_BETWEEN_LOOKS)
            finally:
                self._stop()
            if process.returncode:
                raise RuntimeError(f"a driver of the sweep ended with status {process.returncode}; its log says why")
            output.seek(0)
            return output.read().decode().strip().rpartition("\n")[2]

    def checkpoint(self) -> "DelayedSubmission":
        """Stop, and give what is to be done when the job begins again: submitit asks before the job's time is over."""
        from submitit.helpers import DelayedSubmission

        self._stop()
        return DelayedSubmission(DriverProcess(self.arguments, self.folder))

    def _stop(self) -> None:
        """Have its trials write their checkpoints, and wait for its end."""
        if self._process is None or self._process.returncode is not None:
            return
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self._process.pid)
            process.terminate()
            process.wait()


def run_driver(driver: DriverProcess) -> str:
    """Ray takes functions."""
    return driver()


def _environment() -> dict[str, str]:
    """What the cluster set without what says that this is a job: a trial would take itself for a rank of it."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SUBMITIT_"))}
