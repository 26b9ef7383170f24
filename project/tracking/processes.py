"""Which process a run belongs to: a tag that tells it to everybody, and a lock that ends with the process."""

import fcntl
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from lightrail.project.basics.errors import ConfigError

SECONDS_TO_SETTLE = 60.0
"""How long a process that begins may take to close the run of another one, which it found dead."""
_SECONDS_BETWEEN_TRIES = 0.05

PROCESS_TAG = "lightrail.process"
CLOCK_TOLERANCE_SECONDS = 5
"""A process's start is reckoned from the machine's, which moves when the clock is set."""


class Owner(NamedTuple):
    """A process, as the tag of its run names it."""

    machine: str
    number: int
    created: int
    """Seconds since 1970."""

    @classmethod
    def of(cls, process: psutil.Process) -> "Owner":
        """A process of this machine."""
        return cls(this_machine(), process.pid, int(process.create_time()))

    @property
    def tag(self) -> str:
        """What `owner_of` reads."""
        return f"{self.machine} {self.number} {self.created}"

    @property
    def is_here(self) -> bool:
        return self.machine == this_machine()

    @property
    def lives(self) -> bool:
        """Whether the process still runs on this machine; of another machine that is not known, and False."""
        try:
            found = psutil.Process(self.number)
            is_same = abs(found.create_time() - self.created) < CLOCK_TOLERANCE_SECONDS
            return self.is_here and is_same and found.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def __str__(self) -> str:
        return f"process {self.number} on {'this machine' if self.is_here else self.machine.partition('/')[0]}"


def process_tag() -> dict[str, str]:
    """Return the tag by which this machine can tell later whether the process of a run still lives."""
    return {PROCESS_TAG: Owner.of(psutil.Process()).tag}


def owner_of(tag: str) -> Owner | None:
    """Return the process that a tag's value names, None when it names none."""
    parts = tag.rsplit(" ", 2)
    if len(parts) < 3 or not (parts[1].isdecimal() and parts[2].isdecimal()):
        return None
    return Owner(parts[0], int(parts[1]), int(parts[2]))


def this_machine() -> str:
    """Return a name that two machines do not share, even where all are called localhost."""
    path = Path("/etc/machine-id")
    number = path.read_text().strip()[:8] if path.exists() else ""
    return f"{socket.gethostname()}/{number}"


class RunLock:
    """Held by one process from the start of a run to its end; the kernel frees it when the process dies.

    It is a record lock, which forked processes (the workers of a data loader) do not inherit.
    """

    _held: dict[Path, int] = {}  # noqa: RUF012 - path to process: opening a file that is locked here would free it

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Take the lock, and return whether this process has it now and had not before."""
        if self._held.get(self.path) == os.getpid():
            return False
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # one or the other, by the system
            os.close(descriptor)
            return False
        self._descriptor, self._held[self.path] = descriptor, os.getpid()
        with suppress(OSError):  # a full disk: the name of the holder is for a message
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, process_tag()[PROCESS_TAG].encode(), 0)
        return True

    def release(self) -> None:
        if self._descriptor is not None and self._held.get(self.path) == os.getpid():
            del self._held[self.path]
            os.close(self._descriptor)
        self._descriptor = None

    def holder(self) -> str:
        """Say who has the lock that could not be taken."""
        if self._held.get(self.path) == os.getpid():
            return f"process {os.getpid()} on this machine"
        with suppress(OSError):
            return str(owner_of(self.path.read_text()) or "another process")
        return "another process"


def lock_run(run_id: str, lock: RunLock, owner: Owner | None = None) -> None:
    """Take the lock of a run for this process.

    Args:
        owner: the process that the run belonged to last. When that is dead, who has the lock is putting right what it
            left, and is waited for.

    Raises:
        ConfigError: another process has it, or this one for the same run.
    """
    seconds = 0.0 if owner is None or owner.lives else SECONDS_TO_SETTLE
    deadline = time.monotonic() + seconds
    while not lock.acquire():
        if time.monotonic() >= deadline:
            raise ConfigError(f"run {run_id} is still running ({lock.holder()}). Wait for its end, or end it.")
        time.sleep(_SECONDS_BETWEEN_TRIES)
