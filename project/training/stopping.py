"""Stopping without loss: signals noted during training, raised after a checkpoint, and left process groups."""

import atexit
import logging
import os
import signal
import subprocess
import threading
import time
from contextlib import suppress
from functools import cache
from types import FrameType
from typing import Any

import torch.distributed

from lightrail.project.tracking.logger import is_process_zero
from lightrail.project.tracking.processes import ENDING, exception_for, leave_terminal, not_ignored

log = logging.getLogger(__name__)

STOPPING = (
    "\nlightrail: {}: stopping after this step, and a validation if one is due, with a checkpoint. "
    "Send it again to stop immediately, without one.\n"
)
SECONDS_OF_ONE_SIGNAL = 1.0
"""Supervisors deliver a request twice (to the process and its group); a signal after this time is a second request."""


class StopRequest:
    """Notes the first SIGINT, SIGTERM or SIGHUP between `listen` and `ignore`, and raises on the second.

    Under SLURM the warning signal SIGUSR1 (`sbatch --signal=USR1@90`) is noted as well: the job is requeued.
    """

    def __init__(self) -> None:
        self.number = 0
        """Number of the received signal, 0 for none."""
        self._since = 0.0
        self._process = 0
        self._previous: dict[int, Any] = {}

    def listen(self) -> None:
        """Install the signal handlers; does nothing outside of the main thread."""
        self.number, self._process = 0, os.getpid()
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in _listened()}

    def ignore(self) -> None:
        """Restore the previous signal handlers."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a data loader's worker forked at this moment: its batches are needed for the step
        if number == signal.SIGHUP:
            leave_terminal()
        if not self.number:
            self.number, self._since = number, time.monotonic()
            if is_process_zero():
                # Not logged: the signal may have come in the middle of a log line.
                with suppress(OSError):
                    os.write(2, STOPPING.format(signal.Signals(number).name).encode())
        elif time.monotonic() - self._since > SECONDS_OF_ONE_SIGNAL:
            raise exception_for(number)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_previous": {}}


def queue_again() -> None:
    """Have SLURM requeue this job."""
    job = slurm_job()
    done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
    if done.returncode:
        log.warning("scontrol requeue %s failed: %s", job, done.stderr.strip())
    else:
        log.info("SLURM job %s is requeued and will resume this run", job)


def slurm_job() -> str:
    """Return the id of this process's SLURM job in scontrol's form; "" outside of a job."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ.get("SLURM_JOB_ID", "")


def _listened() -> list[int]:
    return not_ignored([*ENDING, *([signal.SIGUSR1] if slurm_job() else [])])


@cache
def leave_at_exit() -> None:
    """Have this process leave its process group, if it is in one, before the interpreter shuts down."""
    # Gloo's threads free tensors shortly after each operation. One that does so during shutdown aborts the process
    # (pytorch/pytorch#179291), and Lightning's launcher then kills the first process, which still writes the run's end.
    atexit.register(_leave)


def _leave() -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
