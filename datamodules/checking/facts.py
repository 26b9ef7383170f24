"""Facts of each split that a check collects, and statistics of them, without judgement."""

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightrail.datamodules.cache.building import text_digest
from lightrail.datamodules.reading.rows import ReadingNotes

Pairs = NDArray[np.int64]
"""Pairs of related rows, as (row, row) indices, [P, 2]."""


class Inspected(NamedTuple):
    """Facts of one example for `lightrail check`."""

    length: int
    """Length before anything is cut, in `length_unit`."""
    target: str = ""
    """The complete target; equal texts with different targets are a conflict."""
    labels: tuple[str, ...] = ()
    """Labels for the histogram."""
    num_windows: int = 1
    """Number of overlapping windows that cover it."""


class SplitFacts:
    """Collects the rows of one split in about 30 bytes each, however long they are."""

    def __init__(self, name: str, source: str, notes: ReadingNotes | None = None) -> None:
        self.name = name
        self.source = source
        self.notes = notes or ReadingNotes()
        self.label_counts: Counter[str] = Counter()
        self.num_unlabelled = self.most_labels = 0
        """Number of rows without any label, and the maximum number of labels of a row."""
        self.num_in_windows = self.num_windows = 0
        """Number of rows that are read in several windows, and of the windows of all rows."""
        self.num_left_out = 0
        self.remarks: list[str] = []
        """What else a note says about the rows, such as how many of their characters are rare."""
        self._files: dict[str, int] = {}
        self._names: list[str] = []
        self._file_of_row = array("L")
        self._lines = array("Q")
        self._digests = array("Q")
        self._targets = array("Q")
        self._lengths = array("L")

    def add(
        self,
        text: str,
        *,
        file: str,
        line: int,
        length: int,
        target: str = "",
        labels: Iterable[str] = (),
        num_windows: int = 1,
    ) -> None:
        """Add a row.

        Args:
            length: length in the unit of the report, before anything is cut.
            target: the complete target of this text; equal texts with different targets are a conflict.
            labels: labels to count: the label of a text, or the types of its entities.
            num_windows: number of windows that cover the text.
        """
        number = self._files.setdefault(file, len(self._files))
        if number == len(self._names):
            self._names.append(file)
        self._file_of_row.append(number)
        self._lines.append(line)
        self._digests.append(text_digest(text))
        self._targets.append(text_digest(target))
        self._lengths.append(length)
        labels = list(labels)
        self.label_counts.update(labels)
        self.num_unlabelled += not labels
        self.most_labels = max(self.most_labels, len(labels))
        self.num_in_windows += num_windows > 1
        self.num_windows += num_windows

    def add_all(
        self,
        digests: NDArray[np.uint64],
        *,
        files: Sequence[str],
        file_of_row: NDArray[np.integer[Any]],
        lines: NDArray[np.integer[Any]],
        lengths: NDArray[np.integer[Any]],
        num_left_out: int = 0,
    ) -> None:
        """Add many rows without labels, by the `text_digest`, file, line and length of each, [N].

        Args:
            num_left_out: number of rows of the split that are omitted, to save memory.
        """
        assert not len(self), "files are numbered in order of appearance"
        self._names = list(files)  # a file that two sources name is there twice
        self._file_of_row.frombytes(file_of_row.astype(self._file_of_row.typecode).tobytes())
        self._lines.frombytes(lines.astype(np.uint64).tobytes())
        self._digests.frombytes(digests.tobytes())
        self._targets.frombytes(np.full(len(digests), text_digest(""), np.uint64).tobytes())
        self._lengths.frombytes(lengths.astype(self._lengths.typecode).tobytes())
        self.num_unlabelled = self.num_windows = len(digests)
        self.num_left_out = num_left_out

    def __len__(self) -> int:
        return len(self._digests)

    @property
    def digests(self) -> NDArray[np.uint64]:
        """Digest of each text, [N]."""
        return _numbers(self._digests, np.uint64)

    @property
    def targets(self) -> NDArray[np.uint64]:
        """Digest of each target, [N]."""
        return _numbers(self._targets, np.uint64)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Length of each row before anything is cut, [N]."""
        return _numbers(self._lengths, np.int64)

    def place(self, row: int) -> str:
        """Return `file:line` of row `row`."""
        return f"{self._names[self._file_of_row[row]]}:{self._lines[row]}"


def _numbers(values: "array[int]", dtype: type[Any]) -> NDArray[Any]:
    return np.array(values, dtype=dtype)


def repeats(digests: NDArray[np.uint64]) -> Pairs:
    """Pair each row that repeats an earlier text with the first row that has it.

    >>> repeats(np.array([7, 8, 7, 7], np.uint64)).tolist()
    [[0, 2], [0, 3]]
    """
    _, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
    firsts = first[inverse]
    later = np.flatnonzero(firsts != np.arange(len(digests)))
    return np.stack([firsts[later], later], axis=1)


def shared(digests: NDArray[np.uint64], others: NDArray[np.uint64]) -> Pairs:
    """Pair each row of `others` whose text also occurs in `digests` with the first row there.

    >>> shared(np.array([7, 8, 8], np.uint64), np.array([9, 8], np.uint64)).tolist()
    [[1, 1]]
    """
    distinct, first = np.unique(digests, return_index=True)
    position = np.searchsorted(distinct, others).clip(max=max(len(distinct) - 1, 0))
    later = np.flatnonzero(distinct[position] == others) if len(distinct) else np.empty(0, np.int64)
    return np.stack([first[position[later]], later], axis=1)


def conflicts(digests: NDArray[np.uint64], targets: NDArray[np.uint64]) -> Pairs:
    """Pair each row with the first row that has the same text but another target.

    >>> conflicts(np.array([7, 7, 7], np.uint64), np.array([1, 1, 2], np.uint64)).tolist()
    [[0, 2]]
    """
    pairs = repeats(digests)
    differs: NDArray[np.bool_] = targets[pairs[:, 0]] != targets[pairs[:, 1]]
    return pairs[differs]


def shared_conflicts(earlier: SplitFacts, later: SplitFacts) -> Pairs:
    """Pair each row of `later` with the first row of `earlier` that has its text, if their targets differ."""
    pairs = shared(earlier.digests, later.digests)
    differs: NDArray[np.bool_] = earlier.targets[pairs[:, 0]] != later.targets[pairs[:, 1]]
    return pairs[differs]


def imbalance(counts: Counter[str]) -> float:
    """Compute the ratio of the most frequent label's count to the least frequent's; 1 without labels."""
    return max(counts.values(), default=1) / max(min(counts.values(), default=1), 1)


def length_percentiles(lengths: NDArray[np.int64]) -> dict[int, int]:
    """Compute the 50th, 95th, 99th and 100th percentile of the lengths of rows.

    >>> length_percentiles(np.arange(1, 101))
    {50: 50, 95: 95, 99: 99, 100: 100}
    """
    percents = (50, 95, 99, 100)
    values = np.percentile(lengths, percents, method="inverted_cdf") if len(lengths) else np.zeros(len(percents))
    return {percent: int(value) for percent, value in zip(percents, values, strict=True)}


def cut_shares(lengths: NDArray[np.int64], max_length: int) -> tuple[float, float]:
    """Compute the fraction of rows that is cut at a length, and the fraction of all content that is lost by it.

    >>> cut_shares(np.array([2, 4, 10]), max_length=4)
    (0.3333333333333333, 0.375)
    """
    if not lengths.sum():
        return 0.0, 0.0
    lost = (lengths - max_length).clip(min=0)
    return float((lost > 0).mean()), float(lost.sum() / lengths.sum())
