"""Examples that a caller gives in memory, encoded as those of a file to predict."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from lightrail.datamodules.base import DataModule
from lightrail.datamodules.batches.batching import MeasuredRows
from lightrail.datamodules.cache import TokenisedSplit


@runtime_checkable
class ReadsImages(Protocol):
    """Data whose examples are images of one size."""

    def image_shape(self) -> tuple[int, int, int]:
        """Return channels, height and width."""


@runtime_checkable
class ReadsTyping(Protocol):
    """Data that reads letters while they are typed."""

    def typed_edges(self, typed: str) -> Sequence[Any]:
        """Return all readings of typed letters."""


@runtime_checkable
class OffersCandidates(Protocol):
    """A task that offers candidates for letters while they are typed."""

    def typed_candidates(self, edges: Sequence[Any]) -> Sequence[Sequence[tuple[str, int]]]:
        """Return candidates for the readings of letters, in parts: what is written, and where that ends in them."""


class RowsInMemory:
    """Encoded rows, with what `TokenisedSplit` offers of those on disk."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def columns(self) -> list[str]:
        """Names of the columns; every row has the same."""
        return list(self._rows[0])

    def row(self, index: int) -> dict[str, Any]:
        """Return row `index`, from 0."""
        return dict(self._rows[index])

    def cell(self, column: str, index: int) -> Any:
        """Return one column of row `index`."""
        return self._rows[index][column]

    def lengths(self, column: str) -> NDArray[np.int64]:
        """Return the number of values of each row in a column, for texts the bytes of UTF-8, [N]."""
        return np.array([len(values) for values in map(_values, self._cells(column))], np.int64)

    def values(self, column: str) -> NDArray[Any]:
        """Return a column's values of all rows concatenated."""
        return np.concatenate([_values(cell) for cell in self._cells(column)])

    def _cells(self, column: str) -> list[Any]:
        return [row[column] for row in self._rows]


def _values(cell: Any) -> NDArray[Any]:
    if isinstance(cell, str):
        return np.frombuffer(cell.encode("utf-8", "surrogatepass"), np.uint8)
    return np.atleast_1d(cell)


def encode_inputs(data: DataModule, inputs: Sequence[Any]) -> MeasuredRows | None:
    """Return the examples of inputs, encoded and arranged as those of a file to predict; None where there are none.

    Args:
        data: it has the facts that it encodes with, see `DataModule.adopt`.
        inputs: texts, or mappings by column.

    Raises: DataError, ConfigError for an input that cannot be predicted.
    """
    facts = data.facts()
    rows = [
        {**data.encode(example, facts), "file": 0, "line": example.line}
        for row in data.given(inputs)
        for example in data.examples(row, "predict")
    ]
    return data.arrange(cast(TokenisedSplit, RowsInMemory(rows)), "predict") if rows else None
