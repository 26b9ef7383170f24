"""Documents as rows of bounded length: blocks for training, pieces for evaluation.

A document of n positions, start and end included, has n - 1 pairs: the token at a position, and the target after it.
A row of k positions has k pairs. Pieces of a document share the token at their border: the last target of a piece is
the first input of the next. So every target is learned exactly once per epoch (but see `sliding`).

Shapes: N documents, P pieces, R rows, T positions of a row.
"""

import logging
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from lightrail.datamodules.batches.packing import pack
from lightrail.project.basics.annotations import NaturalInt, PositiveInt, Ranged
from lightrail.project.basics.errors import ConfigError

log = logging.getLogger(__name__)

NO_TARGET = -100
"""Label of a position without a target."""

BlockRow = dict[str, Any]
Values = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class BlockConfig(Ranged):
    """Settings for arranging documents in rows."""

    length: PositiveInt = 256
    """Maximum number of positions of a row, in training and in evaluation."""
    method: Literal["packed", "sliding", "separate"] = "packed"
    """Content of a training row. packed: several whole documents side by side, none of which sees another; a longer
    document is cut into pieces. sliding: a window of all documents concatenated, where a position also sees earlier
    text of other documents (as nanoGPT trains). separate: one document, or one piece of it, padded. Evaluation always
    takes one document, or one piece of it, per row."""
    stride: PositiveInt | None = None
    """For sliding: number of positions from one row's start to the next, at most `length`. null: `length`, each target
    once per epoch; 1: a row at every position, each target `length` times per epoch. Not read by other methods."""
    overlap: NaturalInt = 0
    """In evaluation, number of positions of context at the start of the second and later pieces of a document, less
    than `length`. They are read but not counted: each target counts once."""

    def check(self) -> None:
        """Check stride and overlap. Raises: ConfigError when text would be omitted, or no room left for targets."""
        if self.stride is not None and self.stride > self.length:
            raise ConfigError(
                f"data.blocks.stride is {self.stride}. Give 1 to data.blocks.length ({self.length}): a larger one "
                f"omits text."
            )
        if self.overlap >= self.length:
            raise ConfigError(
                f"data.blocks.overlap is {self.overlap}. Give 0 to {self.length - 1}, less than data.blocks.length: "
                f"a row needs room for targets."
            )


class Documents(Protocol):
    """Tokenised documents, by number."""

    @property
    def columns(self) -> list[str]:
        """Names of columns: `input_ids`; optionally `is_target`, `num_characters` and `num_bytes`, with a number for
        each position, and `source`, with one for each document."""

    def __len__(self) -> int: ...

    def cell(self, column: str, index: int) -> Any:
        """Return one document's values in a column."""

    def lengths(self, column: str) -> Values:
        """Return the number of values of each document in a column, [N]."""

    def values(self, column: str) -> Values:
        """Return the values of all documents in a column, concatenated."""


class Pieces(NamedTuple):
    """Pieces of documents, by document, start and length."""

    documents: NDArray[np.uint32]
    """Index of the document of each piece, [P]."""
    starts: Values
    """Position in its document at which each begins, [P]."""
    lengths: Values
    """Number of positions, and of pairs, of each, [P]."""

    def take(self, order: Values) -> "Pieces":
        """Return the pieces in another order."""
        return Pieces(self.documents[order], self.starts[order], self.lengths[order])


def cut(num_pairs: Values, length: int, step: int) -> Pieces:
    """Cut documents into pieces of at most `length` pairs that begin every `step` pairs and cover all of them.

    Args:
        num_pairs: number of pairs of each document, [N].

    >>> pieces = cut(np.array([3, 9]), length=4, step=3)
    >>> pieces.documents.tolist(), pieces.starts.tolist(), pieces.lengths.tolist()
    ([0, 1, 1, 1], [0, 0, 3, 6], [3, 4, 4, 3])
    """
    counts = np.where(num_pairs > length, 1 - (length - num_pairs) // step, num_pairs > 0)
    documents = np.repeat(np.arange(len(num_pairs), dtype=np.uint32), counts)
    first = (np.cumsum(counts) - counts)[documents]
    starts = (np.arange(len(documents)) - first) * step
    lengths = np.minimum(num_pairs[documents] - starts, length)
    farthest = int(num_pairs.max(initial=0))
    return Pieces(documents, starts.astype(np.min_scalar_type(farthest)), lengths.astype(np.min_scalar_type(length)))


def training_blocks(documents: Documents, config: BlockConfig, seed: int = 0) -> "PackedBlocks | SlidingBlocks":
    """Arrange documents in training rows; those of different sources never share one.

    Args:
        seed: seed of the choice of documents that share a row.
    """
    config.check()
    sources = documents.values("source") if "source" in documents.columns else None
    if config.method == "sliding":
        return SlidingBlocks(documents, config, sources)
    pieces = cut(documents.lengths("input_ids") - 1, config.length, config.length)
    if config.method == "separate":
        return PackedBlocks(documents, pieces, np.arange(len(pieces.documents) + 1))
    blocks = _packed(pieces.lengths, None if sources is None else sources[pieces.documents], config.length, seed)
    bounds = np.concatenate([[0], np.cumsum(np.bincount(blocks))])
    num_positions = config.length * (len(bounds) - 1)
    log.info(
        "packed %d documents into %d blocks of %d positions, %.2f %% of them padding",
        len(documents),
        len(bounds) - 1,
        config.length,
        100 - 100 * int(pieces.lengths.sum(dtype=np.int64)) / max(1, num_positions),
    )
    return PackedBlocks(documents, pieces.take(np.argsort(blocks, kind="stable")), bounds)


def _packed(lengths: Values, sources: Values | None, capacity: int, seed: int) -> NDArray[np.int32]:
    """Return the block of each piece, with separate blocks for each source, [P]."""
    generator = np.random.default_rng(seed)
    if sources is None:
        return pack(lengths, capacity, generator)
    blocks = np.empty(len(lengths), np.int32)
    num_blocks = 0
    for source in np.unique(sources):
        own = np.flatnonzero(sources == source)
        blocks[own] = pack(lengths[own], capacity, generator) + num_blocks
        num_blocks = int(blocks[own].max()) + 1
    return blocks


class PackedBlocks:
    """Rows of whole pieces side by side, each piece a document of its own to the network.

    Args:
        pieces: pieces in the order of the rows.
        bounds: index of the first piece of each row, and the number of pieces, [R + 1].
    """

    def __init__(self, documents: Documents, pieces: Pieces, bounds: Values) -> None:
        self.documents, self.pieces = documents, pieces
        self.bounds = bounds.astype(np.uint32)
        self.has_marks = "is_target" in documents.columns

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def lengths(self, column: str) -> Values:
        """Return the number of positions of each row, for any column, [R]."""
        if not len(self):
            return np.zeros(0, np.int64)
        return np.add.reduceat(self.pieces.lengths, self.bounds[:-1].astype(np.intp), dtype=np.int64)

    def values(self, column: str) -> Values:
        """Return a column's integer of each row's first document, such as its `source`, [R]."""
        return self.documents.values(column)[self.pieces.documents[self.bounds[:-1]]]

    def row(self, index: int) -> BlockRow:
        """Return `input_ids` and `labels`, and `document_ids` if there are several pieces, [T]."""
        own = slice(int(self.bounds[index]), int(self.bounds[index + 1]))
        lengths = self.pieces.lengths[own]
        inputs, labels = [], []
        for document, start, length in zip(
            self.pieces.documents[own].tolist(), self.pieces.starts[own].tolist(), lengths.tolist(), strict=True
        ):
            ids = self.documents.cell("input_ids", document)
            marks = self.documents.cell("is_target", document) if self.has_marks else None
            after = slice(start + 1, start + length + 1)
            inputs.append(ids[start : start + length])
            labels.append(ids[after] if marks is None else _labels(ids[after], marks[after]))
        if len(inputs) == 1:
            return {"input_ids": inputs[0], "labels": labels[0]}
        return {
            "input_ids": np.concatenate(inputs),
            "labels": np.concatenate(labels),
            "document_ids": np.repeat(np.arange(len(lengths)), lengths),
        }


class SlidingBlocks:
    """Rows of equal length from all documents of a source concatenated; attention crosses document borders.

    The first position of a document is never a target.

    Args:
        sources: index of each document's source, [N]; None if there is only one.
    """

    def __init__(self, documents: Documents, config: BlockConfig, sources: Values | None) -> None:
        self.documents = documents
        self.length, stride = config.length, config.stride or config.length
        lengths = documents.lengths("input_ids")
        self.order = None if sources is None else np.argsort(sources, kind="stable")
        sizes = np.array([lengths.sum()]) if sources is None else _sums(lengths, sources)
        strung = lengths if self.order is None else lengths[self.order]
        self.offsets = np.concatenate([[0], np.cumsum(strung)])  # of each document in the concatenation, [N + 1]
        # A row is a piece of its source's concatenation, which has a pair for each position but the last.
        rows = cut(sizes - 1, self.length, stride)
        self.starts = (np.cumsum(sizes) - sizes)[rows.documents] + rows.starts
        self.row_lengths = rows.lengths
        self.has_marks = "is_target" in documents.columns

    def __len__(self) -> int:
        return len(self.starts)

    def lengths(self, column: str) -> Values:
        """Return the number of positions of each row, for any column; all but a source's last are full, [R]."""
        return self.row_lengths.astype(np.int64)

    def values(self, column: str) -> Values:
        """Return a column's integer of each row's first document, such as its `source`, [R]."""
        places = np.searchsorted(self.offsets, self.starts, side="right") - 1
        return np.asarray(self.documents.values(column)[places if self.order is None else self.order[places]])

    def row(self, index: int) -> BlockRow:
        """Return `input_ids` and `labels`, [T]."""
        start = int(self.starts[index])
        ids, marks = self._stretch(start, start + int(self.row_lengths[index]) + 1)
        return {"input_ids": ids[:-1], "labels": _labels(ids[1:], marks[1:])}

    def _stretch(self, start: int, stop: int) -> tuple[Values, Values]:
        """Return the tokens from `start` to `stop` of the concatenation, and which of them are targets."""
        place = int(np.searchsorted(self.offsets, start, side="right")) - 1
        ids, marks = [], []
        while start < stop:
            first, last = int(self.offsets[place]), int(self.offsets[place + 1])
            own = slice(start - first, min(stop, last) - first)
            document = place if self.order is None else int(self.order[place])
            ids.append(self.documents.cell("input_ids", document)[own])
            marks.append(self._marks(document, own))
            start, place = min(stop, last), place + 1
        return (ids[0], marks[0]) if len(ids) == 1 else (np.concatenate(ids), np.concatenate(marks))

    def _marks(self, document: int, own: slice) -> Values:
        if self.has_marks:
            marks: Values = self.documents.cell("is_target", document)[own]
            return marks
        marks = np.ones(own.stop - own.start, np.uint8)
        marks[: own.start == 0] = 0
        return marks


class EvaluationPieces:
    """Rows of one document each, or of one piece of it: every target counts once, and no document sees another."""

    def __init__(self, documents: Documents, config: BlockConfig) -> None:
        config.check()
        self.documents, self.overlap = documents, config.overlap
        self.pieces = cut(documents.lengths("input_ids") - 1, config.length, config.length - config.overlap)
        self.has_marks = "is_target" in documents.columns

    def __len__(self) -> int:
        return len(self.pieces.documents)

    def lengths(self, column: str) -> Values:
        """Return the number of positions of each row, for any column, [R]."""
        return self.pieces.lengths.astype(np.int64)

    def values(self, column: str) -> Values:
        """Return a column's integer of each row's document, such as its `line`, [R]."""
        return self.documents.values(column)[self.pieces.documents]

    def row(self, index: int) -> BlockRow:
        """Return `input_ids` and `labels`, [T], and the numbers of characters and bytes that the targets cover."""
        document, start = int(self.pieces.documents[index]), int(self.pieces.starts[index])
        stop = start + int(self.pieces.lengths[index])
        ids, after = self.documents.cell("input_ids", document), slice(start + 1, stop + 1)
        is_target = np.ones(stop - start, np.bool_)
        if self.has_marks:
            is_target &= self.documents.cell("is_target", document)[after] > 0
        is_target[: self.overlap if start else 0] = False
        covered = {
            name: int(self.documents.cell(name, document)[after].sum(where=is_target, dtype=np.int64))
            for name in ("num_characters", "num_bytes")
        }
        return {"input_ids": ids[start:stop], "labels": _labels(ids[after], is_target), **covered}


def _labels(ids: Values, is_target: Values) -> Values:
    return np.where(is_target, ids.astype(np.int32), NO_TARGET)


def _sums(lengths: Values, sources: Values) -> Values:
    """Positions of each source, [S]."""
    return np.array([lengths[sources == source].sum() for source in np.unique(sources)])
