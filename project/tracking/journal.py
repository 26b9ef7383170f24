"""What a run has to tell its store, kept on local disk until the store has it.

One JSON object a line, in one of two forms: `{"time": ms, "step": n, "metrics": {key: value}}` for measurements and
`{"time": ms, "status": "FAILED", "error": "..."}` for the end of the run. Beside it lies a file with one number: how
many bytes of the journal the store has confirmed. A line is written by one system call before anything is sent, so
whatever ends the process (`kill -9` included) leaves at most lines that are not sent yet. A line may be sent twice when
the process dies between the store's answer and the new mark; its time makes it the same row of the store.
"""

import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

log = logging.getLogger(__name__)


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
    ending: Ending | None = None
    end: int = 0


class Journal:
    """An append-only file of one run, and how much of it the store has."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mark = path.with_suffix(".sent")
        self._file: tuple[int, int] | None = None  # process, descriptor: a forked process opens its own

    def append_metrics(self, metrics: dict[str, float], step: int, time: int) -> None:
        self._append({"time": time, "step": step, "metrics": metrics})

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
            batch.end = end
            if "status" in record:
                batch.ending = Ending(record["status"], record["error"], record["time"])
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
        return self._sent() >= self._size()

    def mark_sent(self, end: int) -> None:
        """Note that the store has the first `end` bytes. The note is whole or not there."""
        draft = self._mark.with_suffix(".draft")
        draft.write_text(str(end))
        draft.replace(self._mark)

    def sync(self) -> None:
        """Ask the disk for what was written: past this a power cut loses nothing either."""
        if self._file is not None and self._file[0] == os.getpid():
            os.fsync(self._file[1])

    def remove(self) -> None:
        self.close()
        self.path.unlink(missing_ok=True)
        self._mark.unlink(missing_ok=True)

    def close(self) -> None:
        if self._file is not None and self._file[0] == os.getpid():
            os.close(self._file[1])
        self._file = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def _append(self, record: dict[str, Any]) -> None:
        os.write(self._descriptor(), json.dumps(record).encode() + b"\n")

    def _descriptor(self) -> int:
        if self._file is None or self._file[0] != os.getpid():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                os.write(descriptor, b"\n")  # a full disk left half a line: what follows begins on its own
            self._file = (os.getpid(), descriptor)
        return self._file[1]

    def _unsent(self) -> Iterator[tuple[int, dict[str, Any]]]:
        return self._records(min(self._sent(), self._size()))

    def _records(self, start: int) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield each record from byte `start` on with the byte behind it."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(start)
            for line in file:
                start += len(line)
                if not line.endswith(b"\n"):
                    return  # still being written
                try:
                    record = json.loads(line)
                except ValueError:
                    log.warning("%s: skipped %d bytes that are no record", self.path, len(line))
                    record = {}
                yield start, record

    def _sent(self) -> int:
        try:
            return int(self._mark.read_text())
        except (FileNotFoundError, ValueError):
            return 0

    def _size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0
