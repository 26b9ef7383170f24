"""The process that owns a run: a tag that names it, a lock that ends with it, and the signals that end it."""

import fcntl
import os
import signal
import socket
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import psutil

from lightrail.project.basics.durable import read_note
from lightrail.project.basics.errors import ConfigError
from lightrail.project.basics.reading import quoted_path

SECONDS_TO_SETTLE = 60.0
"""Maximum time for a starting process to close the run of a dead one."""
_SECONDS_BETWEEN_TRIES = 0.05

PROCESS_TAG = "lightrail.process"
MAX_DIGITS = 18
"""Of the numbers in the tag, which a store may have made up."""
CLOCK_TOLERANCE_SECONDS = 5
"""Tolerance for a process's start time, which the system computes from its boot time and shifts with the clock."""


class Owner(NamedTuple):
    """The process that owns a run, as stored in the run's tag."""

    machine: str
    number: int
    created: int
    """Start of the process, in seconds since 1970."""

    @classmethod
    def of(cls, process: psutil.Process) -> "Owner":
        """Return the owner for a process of this machine."""
        return cls(this_machine(), process.pid, int(process.create_time()))

    @property
    def tag(self) -> str:
        """The value of the tag, which `owner_of` reads."""
        return f"{self.machine} {self.number} {self.created}"

    @property
    def is_here(self) -> bool:
        """Whether the process is or was on this machine."""
        return self.machine == this_machine()

    @property
    def lives(self) -> bool:
        """Whether the process is running on this machine; False for other machines, where it is unknown."""
        if not self.is_here:
            return False
        try:
            found = psutil.Process(self.number)
            is_same = abs(found.create_time() - self.created) < CLOCK_TOLERANCE_SECONDS
            return is_same and found.status() != psutil.STATUS_ZOMBIE
        except (psutil.NoSuchProcess, OverflowError):  # no number of a process is so large
            return False

    def __str__(self) -> str:
        return f"process {self.number} on {'this machine' if self.is_here else self.machine.partition('/')[0]}"


def process_tag() -> dict[str, str]:
    """Return the tag that names this process as owner, by which this machine can later check that it is alive."""
    return {PROCESS_TAG: Owner.of(psutil.Process()).tag}


def owner_of(tag: str) -> Owner | None:
    """Parse the value of an owner tag; None when it is not valid."""
    parts = tag.rsplit(" ", 2)
    if len(parts) < 3 or not all(part.isdecimal() and len(part) <= MAX_DIGITS for part in parts[1:]):
        return None
    return Owner(parts[0], int(parts[1]), int(parts[2]))


def this_machine() -> str:
    """Return a name that is unique to this machine, even where all are called localhost."""
    path = Path("/etc/machine-id")
    number = path.read_text().strip()[:8] if path.exists() else ""
    return f"{socket.gethostname()}/{number}"


class RunLock:
    """Lock held by one process from the start to the end of a run; the kernel releases it when the process dies.

    It is a record lock, which forked processes (the workers of a data loader) do not inherit.
    """

    _held: dict[Path, int] = {}  # noqa: RUF012 - path to process: closing another descriptor of a file frees its lock

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Acquire the lock. Returns: whether this process has it now and did not have it before.

        Raises: ConfigError when its file is a folder.
        """
        if self._held.get(self.path) == os.getpid():
            return False
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        except IsADirectoryError as error:
            raise ConfigError(f"{quoted_path(self.path)}, the lock of a run, is a folder. Remove it.") from error
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # which of them depends on the system
            os.close(descriptor)
            return False
        self._descriptor, self._held[self.path] = descriptor, os.getpid()
        with suppress(OSError):  # a full disk: the holder is only recorded for messages
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, process_tag()[PROCESS_TAG].encode(), 0)
        return True

    def release(self) -> None:
        """Release the lock, if this process holds it."""
        if self._descriptor is not None and self._held.get(self.path) == os.getpid():
            del self._held[self.path]
            os.close(self._descriptor)
        self._descriptor = None

    def holder(self) -> str:
        """Describe the process that holds the lock."""
        if self._held.get(self.path) == os.getpid():
            return f"process {os.getpid()} on this machine"
        with suppress(OSError):
            return str(owner_of(read_note(self.path)) or "another process")
        return "another process"


def lock_run(run_id: str, lock: RunLock, owner: Owner | None = None) -> None:
    """Acquire the lock of a run for this process.

    Args:
        owner: the last owner of the run. When it is dead, the holder of the lock is closing the run, and is waited for.

    Raises:
        ConfigError: another process has the lock, or this one already has it.
    """
    seconds = 0.0 if owner is None or owner.lives else SECONDS_TO_SETTLE
    deadline = time.monotonic() + seconds
    while not lock.acquire():
        if time.monotonic() >= deadline:
            raise ConfigError(f"run {run_id} is still running ({lock.holder()}). Wait for its end, or end it.")
        time.sleep(_SECONDS_BETWEEN_TRIES)


ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Terminated(SystemExit):
    """SIGTERM or SIGHUP was received. Exit status 143 or 129, as shells report for a process ended by it."""

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__(128 + number)


def exception_for(number: int) -> BaseException:
    """Return the exception to raise for a signal: KeyboardInterrupt for SIGINT, else Terminated."""
    if number == signal.SIGINT:
        return KeyboardInterrupt()
    return Terminated(signal.SIGHUP) if number == signal.SIGHUP else Terminated()


def not_ignored(numbers: Iterable[int]) -> list[int]:
    """Return the signals without SIGHUP where this process was started to ignore it, by `nohup`."""
    return [own for own in numbers if own != signal.SIGHUP or signal.getsignal(own) is not signal.SIG_IGN]


def leave_terminal() -> None:
    """Have this process write nowhere instead of to a closed terminal, where each line would raise an error."""
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for descriptor in (1, 2):
            if stat.S_ISCHR(os.fstat(descriptor).st_mode):
                os.dup2(nowhere, descriptor)
        os.close(nowhere)


@contextmanager
def handling(numbers: Iterable[int], handler: Any) -> Iterator[None]:
    """Install a handler for signals within the block; does nothing outside of the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, handler) for number in not_ignored(numbers)}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, signal.SIG_DFL if before is None else before)  # None: not installed from Python


class SignalNote:
    """Notes a signal and raises its exception, which C code (of matplotlib, for one) may swallow: the note stays."""

    def __init__(self) -> None:
        self.number = 0
        """Number of the first signal, 0 for none."""
        self._process = os.getpid()

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """Raise, unless another handler is installed over this one."""
        if number == signal.SIGHUP:
            if os.getpid() != self._process:
                return  # a data loader's worker, which ends with this process: its batches are needed for the step
            leave_terminal()
        self.number = self.number or number
        # Inside fit, test etc. Lightning installs its own handler in front of this one, which raises at the end of the
        # batch on all processes at once.
        if signal.getsignal(number) == self.handle:
            raise exception_for(number)

    def raise_again(self) -> None:
        """Raise the exception of a signal whose first one was swallowed."""
        if self.number:
            raise exception_for(self.number)
