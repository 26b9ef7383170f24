"""Rows that are nothing but a number of tokens, for the tests of batches."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from lightrail.datamodules.batches.batching import BatchLoader


class CountedRows:
    """Row `n` has `lengths[n]` tokens."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths = np.array(lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    def row(self, index: int) -> dict[str, Any]:
        return {"length": int(self.lengths[index])}


def collate(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"id": [row["id"] for row in rows], "lengths": torch.tensor([row["length"] for row in rows])}


def many_lengths(number: int = 20_000) -> np.ndarray:
    """Lengths as of sentences: many short ones, a long tail, at most 400."""
    return np.clip(np.random.default_rng(0).lognormal(3.0, 0.8, number), 1, 400).astype(np.int64)


def ids(batches: BatchLoader) -> list[list[int]]:
    return [batch["id"] for batch in batches]
