"""What a run has to tell its store, kept on local disk until the store has it, in a file that lines are added to.

One JSON object a line, in one of three forms: `{"time": ms, "step": n, "metrics": {key: value}}` for measurements,
`{"time": ms, "tags": {key: text}}`, and `{"time": ms, "status": "FAILED", "error": "..."}` for the end of the run.
Beside it lies a file with one number: how many bytes of the journal the store has confirmed. A line is written by one
system call before anything is sent, so whatever ends the process (`kill -9` included) leaves at most lines that are not
sent yet. A line may be sent twice when the process dies between the store's answer and the new mark; its time makes it
the same row of the store.
"""

import io
import json
import logging
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from lightrail.project.basics.durable import replacing, write_whole

log = logging.getLogger(__name__)


MAX_TAGS = 50
"""In one batch; MLflow takes 100."""


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


class Point(NamedTuple):
    """One value of one metric."""

    key: str
    value: float
    step: int
    time: int
    """Milliseconds since 1970."""


class Ending(NamedTuple):
    """How and when a run ended."""

    status: str
    error: str | None
    time: int
    """Milliseconds since 1970."""


@dataclass
class Batch:
    """What is sent at once, and the mark to set afterwards."""

    points: list[Point] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    ending: Ending | None = None
    end: int = 0


class Journal:
    """An append-only file of one run, and how much of it the store has."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = AppendedFile(path)
        self._mark = path.with_suffix(".sent")
        self._unwritten_mark: int | None = None

    def append_metrics(self, metrics: dict[str, float], step: int, time: int) -> None:
        self._append({"time": time, "step": step, "metrics": metrics})

    def append_tags(self, tags: dict[str, str], time: int) -> None:
        self._append({"time": time, "tags": tags})

    def append_ending(self, ending: Ending) -> None:
        self._append({"time": ending.time, "status": ending.status, "error": ending.error})

    def batches(self, max_points: int) -> Iterator[Batch]:
        """Yield what is not sent yet, at most `max_points` at once (more when a single line holds more)."""
        batch = Batch()
        for end, record in self._unsent():
            points = [
                Point(key, value, record["step"], record["time"]) for key, value in record.get("metrics", {}).items()
            ]
            if batch.points and len(batch.points) + len(points) > max_points:
                yield batch
                batch = Batch()
            batch.points += points
            batch.tags |= record.get("tags", {})
            batch.end = end
            if "status" in record:
                batch.ending = Ending(record["status"], record["error"], record["time"])
            if batch.ending is not None or len(batch.tags) > MAX_TAGS:
                yield batch
                batch = Batch()
        if batch.end:
            yield batch

    def last_steps(self) -> dict[str, int]:
        """Return the last step of each metric, sent or not."""
        steps: dict[str, int] = {}
        for _, record in self._records(0):
            for key in record.get("metrics", ()):
                steps[key] = max(record["step"], steps.get(key, record["step"]))
        return steps

    def series(self) -> dict[str, list[tuple[int, float]]]:
        """Return the (step, value) pairs of each metric, sent or not, in the order in which they were measured."""
        series: dict[str, list[tuple[int, float]]] = {}
        for _, record in self._records(0):
            for key, value in record.get("metrics", {}).items():
                series.setdefault(key, []).append((record["step"], value))
        return series

    def count_unsent(self) -> int:
        return sum(len(record.get("metrics", ())) for _, record in self._unsent())

    @property
    def is_sent(self) -> bool:
        return self._sent() >= self._file.size or next(self._unsent(), None) is None

    @property
    def num_bytes_in_memory(self) -> int:
        """How much a full disk did not take: lost when this process ends before it is sent."""
        return self._file.num_waiting_bytes

    def mark_sent(self, end: int) -> None:
        """Note that the store has the first `end` bytes. The note is whole or not there."""
        try:
            write_whole(self._mark, str(end), is_synced=False)
        except OSError:  # a full disk; without the note all is sent once more, which changes nothing
            self._unwritten_mark = end
        else:
            self._unwritten_mark = None

    def restore(self, points: Iterable[Point]) -> None:
        """Put what the store has in place of what is here; all of it counts as sent."""
        records: dict[tuple[int, int], dict[str, float]] = {}
        for point in points:
            records.setdefault((point.time, point.step), {})[point.key] = point.value
        self._mark.unlink(missing_ok=True)  # it counts bytes of the lines that go
        self._file.rewrite(
            _line({"time": time, "step": step, "metrics": metrics}) for (time, step), metrics in sorted(records.items())
        )
        self.mark_sent(self._file.size)

    def sync(self) -> None:
        """Ask the disk for what was written: past this a power cut loses nothing either."""
        self._file.sync()

    def remove(self) -> None:
        self._file.remove()
        self._mark.unlink(missing_ok=True)
        self._unwritten_mark = None

    def _append(self, record: dict[str, Any]) -> None:
        self._file.append(_line(record))

    def _unsent(self) -> Iterator[tuple[int, dict[str, Any]]]:
        return self._records(min(self._sent(), self._file.size))

    def _records(self, start: int) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield each record from byte `start` on with the byte behind it."""
        for end, line in self._file.lines(start):
            try:
                record = json.loads(line)
            except ValueError:
                log.warning("%s: skipped %d bytes that are no record", self.path, len(line))
                record = {}
            yield end, record

    def _sent(self) -> int:
        if self._unwritten_mark is not None:
            return self._unwritten_mark
        try:
            return int(self._mark.read_text())
        except (FileNotFoundError, ValueError):
            return 0


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(record).encode() + b"\n"
