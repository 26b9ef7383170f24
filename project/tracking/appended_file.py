"""A file that grows by whole lines, and that a full disk neither spoils nor stops."""

import io
import logging
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightrail.project.basics.durable import replacing

log = logging.getLogger(__name__)


class AppendedFile:
    """Writes each line by one system call. What the disk does not take waits in memory, and goes on where it stopped.

    Offsets count the bytes on disk and behind them those that wait. The object may be pickled or forked into other
    processes: each opens the file for itself, and what waits stays with the process that has it.
    """

    _descriptor: int | None
    _waiting: bytearray

    def __init__(self, path: Path) -> None:
        self.path = path
        self._begin()

    def append(self, line: bytes) -> None:
        """Take a line with its end. Never raises: a full disk is warned of once, and tried again by `sync`."""
        with self._guard():
            is_first = not self._waiting
            self._waiting += line
            if is_first:
                self._write()

    def lines(self, start: int) -> Iterator[tuple[int, bytes]]:
        """Yield each whole line from byte `start` on, with the byte behind it."""
        with self._guard():
            size, waiting = self._size_on_disk(), bytes(self._waiting)
        half = b""
        if start < size:
            with self.path.open("rb") as file:
                file.seek(start)
                while start < size and not half:
                    line = file.readline(size - start)
                    if line.endswith(b"\n"):
                        start += len(line)
                        yield start, line
                    else:
                        half = line
        for line in io.BytesIO(half + waiting[max(0, start - size) :]):
            if not line.endswith(b"\n"):
                return  # another process is still writing it, or died at it
            start += len(line)
            yield start, line

    @property
    def size(self) -> int:
        with self._guard():
            return self._size_on_disk() + len(self._waiting)

    @property
    def num_waiting_bytes(self) -> int:
        """How much only this process has."""
        with self._guard():
            return len(self._waiting)

    def sync(self) -> None:
        """Write what waits, and ask the disk for all of it: past this a power cut loses nothing either."""
        with self._guard():
            if self._waiting:
                self._write()
            descriptor = self._descriptor
        if descriptor is not None:
            with suppress(OSError):  # of a disk that is full as well; the next call asks again
                os.fsync(descriptor)

    def rewrite(self, lines: Iterable[bytes]) -> None:
        """Put other lines in the place of all that is here, in one step."""
        with self._guard():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self.path) as stream:
                stream.writelines(lines)
            self._forget()

    def remove(self) -> None:
        with self._guard():
            self.path.unlink(missing_ok=True)
            self._forget()

    def _forget(self) -> None:
        """Let go of the file that had the name, and of what it did not take."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None
        self._waiting.clear()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._descriptor = None
        self._waiting = bytearray()
        self._is_full = False

    def _guard(self) -> threading.Lock:
        if self._process != os.getpid():  # forked: another thread may have held the lock at that moment
            self._begin()
        return self._lock

    def _write(self) -> None:
        try:
            descriptor = self._open()
            while self._waiting:
                written = os.write(descriptor, self._waiting)  # fewer bytes than asked when the disk fills up
                del self._waiting[:written]
        except OSError as error:
            if not self._is_full:
                log.warning("%s cannot be written (%s); what is logged waits in memory", self.path, error.strerror)
            self._is_full = True
        else:
            if self._is_full:
                log.info("%s is written again, nothing is missing", self.path)
            self._is_full = False

    def _open(self) -> int:
        if self._descriptor is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            size = os.fstat(self._descriptor).st_size
            if size and os.pread(self._descriptor, 1, size - 1) != b"\n":
                self._waiting[:0] = b"\n"  # a process died within a line: what follows begins on its own
        return self._descriptor

    def _size_on_disk(self) -> int:
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path,)
