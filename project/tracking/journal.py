"""Write-ahead log of a run's metrics, tags and end: an append-only file on local disk from which the store is fed.

One JSON object per line, in one of three forms: `{"time": ms, "step": n, "metrics": {key: value}}` for metrics,
`{"time": ms, "tags": {key: text}}`, and `{"time": ms, "status": "FAILED", "error": "..."}` for the end of the run.
Beside it is a file with one number: how many bytes of the journal the store has confirmed. A line is written by one
system call before anything is sent, so that a killed process (`kill -9` included) leaves at most lines that are not
sent yet. A line may be sent twice when the process dies between the store's reply and the new mark; with its time it is
the same row of the store.
"""

import io
import json
import logging
import os
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from lightrail.project.basics.durable import read_note, replacing, write_whole

log = logging.getLogger(__name__)


MLFLOW_NAME = re.compile(r"[/\w.\- :]{1,250}")
"""Names that MLflow accepts for metrics and tags. For any other, the store would refuse the whole batch."""
MAX_TAGS = 50
"""Maximum number of tags per batch; MLflow accepts 100."""


class AppendedFile:
    """Append-only file, each line written by one system call; on a full disk, lines wait in memory and are retried.

    Offsets count the bytes on disk, then those waiting in memory. The object may be pickled or forked into other
    processes: each opens the file for itself, and waiting bytes stay with their process.
    """

    _descriptor: int | None
    _waiting: bytearray

    def __init__(self, path: Path) -> None:
        self.path = path
        self._begin()

    def append(self, line: bytes) -> None:
        """Append a line, line break included. Never raises: a full disk is logged once, and retried by `sync`."""
        with self._guard():
            is_first = not self._waiting
            self._waiting += line
            if is_first:
                self._write()

    def lines(self, start: int) -> Iterator[tuple[int, bytes]]:
        """Yield each complete line from byte `start` on, with the offset of its end."""
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
                return  # another process is still writing it, or died while it did
            start += len(line)
            yield start, line

    @property
    def size(self) -> int:
        """Number of bytes on disk and waiting in memory."""
        with self._guard():
            return self._size_on_disk() + len(self._waiting)

    @property
    def num_waiting_bytes(self) -> int:
        """Number of bytes that are only in this process's memory."""
        with self._guard():
            return len(self._waiting)

    def sync(self) -> None:
        """Write waiting bytes, and sync to disk, so that they survive a power cut."""
        with self._guard():
            if self._waiting:
                self._write()
            descriptor = self._descriptor
        if descriptor is not None:
            with suppress(OSError):  # also when the disk is full; the next call retries
                os.fsync(descriptor)

    def rewrite(self, lines: Iterable[bytes]) -> None:
        """Replace the whole content by other lines, in one atomic step."""
        with self._guard():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self.path) as stream:
                stream.writelines(lines)
            self._forget()

    def remove(self) -> None:
        """Delete the file and the waiting bytes."""
        with self._guard():
            self.path.unlink(missing_ok=True)
            self._forget()

    def _forget(self) -> None:
        """Close the old file, and drop the waiting bytes."""
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
        if self._process != os.getpid():  # forked, perhaps while another thread held the lock
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
                log.warning("%s cannot be written (%s); metrics are kept in memory", self.path, error.strerror)
            self._is_full = True
        else:
            if self._is_full:
                log.info("%s can be written again, nothing was lost", self.path)
            self._is_full = False

    def _open(self) -> int:
        if self._descriptor is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            size = os.fstat(self._descriptor).st_size
            if size and os.pread(self._descriptor, 1, size - 1) != b"\n":
                self._waiting[:0] = b"\n"  # a process died within a line: start a new one
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
    """Status, error and time of the end of a run."""

    status: str
    error: str | None
    time: int
    """Milliseconds since 1970."""


@dataclass
class Batch:
    """Records that are sent in one request, and the mark to set afterwards."""

    points: list[Point] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    ending: Ending | None = None
    end: int = 0


class Journal:
    """The write-ahead log of one run, and the mark up to which the store has it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = AppendedFile(path)
        self._mark = path.with_suffix(".sent")
        self._unwritten_mark: int | None = None

    def append_metrics(self, metrics: dict[str, float], step: int, time: int) -> None:
        """Append metrics of a step. `time` is in milliseconds since 1970."""
        self._append({"time": time, "step": step, "metrics": metrics})

    def append_tags(self, tags: dict[str, str], time: int) -> None:
        """Append tags. `time` is in milliseconds since 1970."""
        self._append({"time": time, "tags": tags})

    def append_ending(self, ending: Ending) -> None:
        """Append the end of the run."""
        self._append({"time": ending.time, "status": ending.status, "error": ending.error})

    def batches(self, max_points: int) -> Iterator[Batch]:
        """Yield the unsent records in batches of at most `max_points` points (more when a single line has more)."""
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
                batch.ending = Ending(record["status"], record.get("error"), record["time"])
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
        """Return the (step, value) pairs of each metric, sent or not, in the order of logging."""
        series: dict[str, list[tuple[int, float]]] = {}
        for _, record in self._records(0):
            for key, value in record.get("metrics", {}).items():
                series.setdefault(key, []).append((record["step"], value))
        return series

    def count_unsent(self) -> int:
        """Return the number of unsent metric values."""
        return sum(len(record.get("metrics", ())) for _, record in self._unsent())

    @property
    def is_sent(self) -> bool:
        """Whether the store has all records."""
        return self._sent() >= self._file.size or next(self._unsent(), None) is None

    @property
    def num_bytes_in_memory(self) -> int:
        """Number of bytes not on disk because it is full: lost when this process ends before they are sent."""
        return self._file.num_waiting_bytes

    def mark_sent(self, end: int) -> None:
        """Record, in one atomic write, that the store has the first `end` bytes."""
        try:
            write_whole(self._mark, str(end), is_synced=False)
        except OSError:  # a full disk; without the mark all is sent again, which changes nothing
            self._unwritten_mark = end
        else:
            self._unwritten_mark = None

    def restore(self, points: Iterable[Point]) -> None:
        """Replace all records by the points of the store, which count as sent."""
        records: dict[tuple[int, int], dict[str, float]] = {}
        for point in points:
            records.setdefault((point.time, point.step), {})[point.key] = point.value
        self._mark.unlink(missing_ok=True)  # it refers to the old lines
        self._file.rewrite(
            _line({"time": time, "step": step, "metrics": metrics}) for (time, step), metrics in sorted(records.items())
        )
        self.mark_sent(self._file.size)

    def sync(self) -> None:
        """Sync the file to disk, so that its records survive a power cut."""
        self._file.sync()

    def remove(self) -> None:
        """Delete the file and its mark."""
        self._file.remove()
        self._mark.unlink(missing_ok=True)
        self._unwritten_mark = None

    def _append(self, record: dict[str, Any]) -> None:
        self._file.append(_line(record))

    def _unsent(self) -> Iterator[tuple[int, dict[str, Any]]]:
        return self._records(self._sent())

    def _records(self, start: int) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield each record from byte `start` on, with the offset of its end."""
        for end, line in self._file.lines(start):
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                record = None
            if not _is_whole(record):
                log.warning("%s: skipped an invalid record of %d bytes", self.path, len(line))
                record = {}
            yield end, record

    def _sent(self) -> int:
        if self._unwritten_mark is not None:
            return self._unwritten_mark
        try:
            mark = int(read_note(self._mark))
        except (OSError, ValueError):
            return 0
        # Beyond the end, records that follow would count as sent: it is damaged, or counts bytes that a full disk lost.
        return mark if 0 <= mark <= self._file.size else 0


def _is_whole(record: Any) -> bool:
    """Whether a line of a journal, as it was parsed, is one of the three forms with values that a store accepts."""
    if not isinstance(record, dict) or not _is_integer(record.get("time")):
        return False
    metrics, tags = record.get("metrics", {}), record.get("tags", {})
    return (
        isinstance(metrics, dict)
        and isinstance(tags, dict)
        and all(MLFLOW_NAME.fullmatch(name) is not None for name in (*metrics, *tags))
        and all(isinstance(value, float) or _is_integer(value) for value in metrics.values())
        and all(isinstance(value, str) for value in tags.values())
        and (not metrics or _is_integer(record.get("step")))
        and record.get("status", "FAILED") in ("FINISHED", "FAILED", "KILLED")
        and isinstance(record.get("error"), str | None)
    )


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(record).encode() + b"\n"
