"""Rows of documents as the batches of a causal language model.

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
"""Stands behind the last token of a row, where nothing looks at it: any number does."""


def collate_blocks(rows: Sequence[Mapping[str, Any]], decode: Callable[[NDArray[Any]], str]) -> Batch:
    """`input_ids` and `labels` are [B, T]; a label is the token to follow, or NO_TARGET. Where some row holds several
    documents, `document_ids` numbers those of each row, and its padding as one more, [B, T]. In evaluation
    `num_characters`, `num_bytes` and `text` are lists of B that say what the targets spell.

    Args:
        decode: token numbers to text.
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
