"""Predictions of a trained task for inputs in memory, without files or a Trainer."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, final

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from lightrail.datamodules.base import DataModule
from lightrail.datamodules.batches.batching import (
    Batch,
    BatchConfig,
    BucketSampler,
    MeasuredRows,
    Shares,
    row_for_batch,
)
from lightrail.lightning_modules.base import TaskModule
from lightrail.project.models.answer_files import with_named_lists
from lightrail.project.models.in_memory import OffersCandidates, ReadsTyping, encode_inputs
from lightrail.project.models.predictions import table_of

ServingPrecision = Literal["32-true", "bf16-mixed", "16-mixed"]
_FORMATS = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


MOST_PADDING = 128
"""Positions of padding that take a CPU as long as a batch of its own would, roughly: what calling a network costs."""


def similar(lengths: NDArray[np.int64], batch: BatchConfig, most_padding: int) -> Iterator[list[int]]:
    """Divide examples into batches of similar lengths, the shortest first.

    >>> list(similar(np.array([9, 2, 8, 2]), BatchConfig(size=3), most_padding=4))
    [[1, 3], [2, 0]]
    """
    numbers: list[int] = []
    total = 0
    for number in np.argsort(lengths, kind="stable").tolist():
        length, count = int(lengths[number]), len(numbers) + 1
        is_full = count > (batch.size or count) or count * length > (batch.max_tokens or count * length)
        if numbers and (is_full or len(numbers) * length - total > most_padding):
            yield numbers
            numbers, total = [], 0
        numbers.append(number)
        total += length
    yield numbers


@final
class Engine:
    """A task and its data side: encodes inputs as `predict` does, and predicts those of several callers together.

    Args:
        data: encodes with the facts of the task, see `DataModule.adopt`; it needs no source.
        task: in evaluation mode, on the device that is to compute.
        batch: limits of a batch; examples of similar length are in one.
        precision: number format. In half precision the score of an example depends on its batch.
    """

    def __init__(
        self, data: DataModule, task: TaskModule, batch: BatchConfig, precision: ServingPrecision = "32-true"
    ) -> None:
        self.data, self.task = data, task
        self._batch, self._format = batch, _FORMATS.get(precision)
        self._most_padding = MOST_PADDING if task.device.type == "cpu" else 100 * MOST_PADDING

    def encode(self, inputs: Sequence[Any]) -> MeasuredRows | None:
        """Return the encoded examples of a caller's inputs, texts or mappings by column; None where there are none.

        Raises: ConfigError, DataError for an input that cannot be predicted.
        """
        return encode_inputs(self.data, inputs)

    def predict(self, requests: Sequence[MeasuredRows | None]) -> list[list[dict[str, Any]]]:
        """Return the rows that `lightrail predict` writes as JSON lines, for each request."""
        given = [(number, rows) for number, rows in enumerate(requests) if rows is not None]
        found: list[list[dict[str, Any]]] = [[] for _ in requests]
        if given:
            owners = [number for number, rows in given for _ in range(len(rows))]
            for owner, row in zip(owners, self._table([rows for _, rows in given]).to_pylist(), strict=True):
                found[owner].append(row)
        return found

    @property
    def offers_candidates(self) -> bool:
        """Whether somebody may choose among several predictions for what is typed."""
        return "candidates" in self.task.column_types()

    @torch.inference_mode()
    def candidates(self, typed: str) -> list[dict[str, Any]]:
        """Return what somebody who types may choose, the best first.

        Returns: for each `text`, and `parts`: what is written for each part of the letters, and where that ends.
        """
        found: Sequence[Sequence[tuple[str, int]]] = ()
        if isinstance(self.data, ReadsTyping) and isinstance(self.task, OffersCandidates):
            found = self.task.typed_candidates(self.data.typed_edges(typed))
        if not found:  # the model reads whole texts alone
            rows = self.predict([self.encode([typed])])[0]
            texts = rows[0]["candidates"] if len(rows) == 1 else ["".join(row["prediction"] for row in rows)]
            found = [[(text, len(typed))] for text in texts]
        return [{"text": "".join(text for text, _ in parts), "parts": parts} for parts in found]

    def table(self, rows: MeasuredRows) -> pa.Table:
        """Return the predictions for a caller's inputs alone, in the batches of `lightrail predict`: the same bits."""
        columns: dict[str, list[Any]] = defaultdict(list)
        shares = Shares(rows, self.data.collate)
        for share in BucketSampler(self.data.lengths(rows), self._batch):
            for name, values in self._predicted(shares[share]).items():
                columns[name].extend(values)
        table = table_of(columns, self.task).sort_by("id")
        lines = pa.array(rows.values("line")[table["id"].to_numpy()], pa.int64())
        return with_named_lists(table.add_column(1, "line", lines), self.task.column_labels())

    def _table(self, requests: Sequence[MeasuredRows]) -> pa.Table:
        """Return the predictions of all requests in order, `id` and `line` counted in each."""
        places = [(rows, index) for rows in requests for index in range(len(rows))]
        columns: dict[str, list[Any]] = defaultdict(list)
        lengths = np.concatenate([self.data.lengths(rows) for rows in requests])
        for numbers in similar(lengths.reshape(len(lengths), -1).sum(1), self._batch, self._most_padding):
            examples = [
                {**row_for_batch(rows, index), "id": number} for number in numbers for rows, index in (places[number],)
            ]
            for name, values in self._predicted({**self.data.collate(examples), "is_filler": False}).items():
                columns[name].extend(values)
        numbers = columns.pop("id")
        order = sorted(range(len(places)), key=numbers.__getitem__)
        lines = np.concatenate([rows.values("line") for rows in requests])
        ordered = {name: [values[place] for place in order] for name, values in columns.items()}
        table = {"id": [index for _, index in places], "line": lines.tolist(), **ordered}
        return with_named_lists(table_of(table, self.task), self.task.column_labels())

    @torch.inference_mode()
    def _predicted(self, batch: Batch) -> Mapping[str, Sequence[Any]]:
        device = self.task.device
        if device.type != "cpu":
            batch = {name: own.to(device) if isinstance(own, torch.Tensor) else own for name, own in batch.items()}
        with self._autocast():
            return self.task.predict_step(batch, 0)

    def _autocast(self) -> AbstractContextManager[object]:
        return nullcontext() if self._format is None else torch.autocast(self.task.device.type, self._format)
