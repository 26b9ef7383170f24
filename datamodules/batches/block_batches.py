"""Collation of rows of documents into batches of a causal language model.

Shapes: B rows, T positions of the longest row.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lightrail.datamodules.batches.batching import Batch, pad
from lightrail.datamodules.batches.blocks import NO_TARGET

PADDING = 0
"""Token id after the last token of a row; no position attends to it, so that any id would do."""


def collate_blocks(rows: Sequence[Mapping[str, Any]], decode: Callable[[NDArray[Any]], str]) -> Batch:
    """Pad rows of documents into a batch.

    `input_ids` and `labels` are [B, T]; a label is the next token, or NO_TARGET. If a row has several documents,
    `document_ids` numbers those of each row, and its padding as one more, [B, T]. In evaluation `num_characters`,
    `num_bytes` and `text` are lists of B about the text that the targets cover.

    Args:
        decode: function from token ids to text.
    """
    labels = pad([row["labels"] for row in rows], NO_TARGET)
    batch = {
        "id": [row["id"] for row in rows],
        "input_ids": pad([row["input_ids"] for row in rows], PADDING),
        "labels": labels,
        "num_tokens": sum(len(row["input_ids"]) for row in rows),
        "num_targets": int((labels != NO_TARGET).sum()),
    }
    if any("document_ids" in row for row in rows):
        batch["document_ids"] = _document_ids(rows, labels.shape[1])
    if "num_characters" in rows[0]:
        for name in ("num_characters", "num_bytes"):
            batch[name] = [row[name] for row in rows]
        batch["text"] = [decode(row["labels"][row["labels"] != NO_TARGET]) for row in rows]
    return batch


def _document_ids(rows: Sequence[Mapping[str, Any]], length: int) -> torch.Tensor:
    numbers = np.zeros((len(rows), length), np.int64)
    for own, row in zip(numbers, rows, strict=True):
        size = len(row["input_ids"])
        if "document_ids" in row:
            own[:size] = row["document_ids"]
        own[size:] = own[size - 1] + 1
    return torch.from_numpy(numbers)
