"""Padding of rows into tensors."""

from collections.abc import Sequence

import numpy as np
import torch


def pad(rows: Sequence[np.ndarray], value: int) -> torch.Tensor:
    """Lay rows of different lengths side by side in an int64 tensor, [B, longest], filled up with `value`."""
    padded = np.full((len(rows), max(map(len, rows))), value, dtype=np.int64)
    for row, values in zip(padded, rows, strict=True):
        row[: len(values)] = values
    return torch.from_numpy(padded)
