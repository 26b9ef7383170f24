"""Collation of sentences with entities into batches.

Shapes: B texts, N windows, T positions of a window, W units, S entities. Tag ids are 0 for O and, for the type with id
k, 1 + 4 k for the unit that begins an entity, 2 + 4 k inside, 3 + 4 k for its end, 4 + 4 k for a single unit.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightrail.datamodules.batches.batching import Batch, pad
from lightrail.datamodules.batches.spelling import collate_words

NO_TAG = -1
"""Tag id of padding."""
_ROLES_PER_TYPE = 4


class UnitOffsets:
    """First character and end (exclusive) of each unit of a text."""

    # Neither list nor array, which loaders convert number by number: 20 ms per batch.

    def __init__(self, borders: NDArray[np.integer[Any]]) -> None:
        self._borders = np.array(borders, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._borders) // 2

    def __getitem__(self, unit: int) -> tuple[int, int]:
        start, end = self._borders.reshape(-1, 2)[unit].tolist()
        return start, end


def collate_entities(rows: Sequence[Mapping[str, Any]], pad_id: int, *, has_nested: bool) -> Batch:
    """Pad encoded sentences into a batch; a row's `spans` are missing to predict.

    Returns: `input_ids` and `attention_mask` [N, T]; `text_of_window` [N] if a text has several windows; `word_mask`
        [B, W]; `word_places` [B, W], the index of each unit in the states flattened to [N T, D], unless units and
        positions are the same; `spans` [S, 4] of text, first unit, end and type; `tags` [B, W] unless entities may
        be nested; the lists `id`, `text` and `offsets`, the first character and end of each unit; words and
        characters as by `collate_words`.
    """
    windows = [window for row in rows for window in _windows(row, row["input_ids"])]
    input_ids = pad(windows, pad_id)  # [N, T]
    lengths = torch.tensor([len(window) for window in windows])
    num_units = torch.tensor([len(row["offsets"]) // 2 for row in rows])
    batch: Batch = {
        "id": [row["id"] for row in rows],
        "input_ids": input_ids,
        "attention_mask": torch.arange(input_ids.shape[1]) < lengths[:, None],
        "word_mask": torch.arange(int(num_units.max())) < num_units[:, None],
        "text": [row["text"] for row in rows],
        "offsets": [UnitOffsets(row["offsets"]) for row in rows],
        "num_tokens": int(lengths.sum()),
        "num_targets": int(num_units.sum()),
        **collate_words(rows, _windows),
    }
    if len(windows) > len(rows):
        batch["text_of_window"] = torch.arange(len(rows)).repeat_interleave(_num_windows(rows))
    if any(len(row["places"]) for row in rows):
        batch["word_places"] = _places(rows, input_ids.shape[1])
    return {**batch, **_targets(rows, has_nested=has_nested)} if "spans" in rows[0] else batch


def _windows(row: Mapping[str, Any], values: NDArray[np.integer[Any]]) -> list[NDArray[np.integer[Any]]]:
    """Divide the values of a row's positions by windows."""
    return np.split(values, row["window_lengths"].cumsum()[:-1])


def _num_windows(rows: Sequence[Mapping[str, Any]]) -> Tensor:
    return torch.tensor([len(row["window_lengths"]) for row in rows])


def _places(rows: Sequence[Mapping[str, Any]], width: int) -> Tensor:
    """Convert each row's places in its concatenated windows to indices in the padded windows of all rows, [B, W]."""
    firsts = _num_windows(rows).cumsum(0) - _num_windows(rows)
    placed = []
    for row, first in zip(rows, firsts.tolist(), strict=True):
        places = row["places"] if len(row["places"]) else np.arange(len(row["offsets"]) // 2)
        ends = row["window_lengths"].cumsum()
        window = np.searchsorted(ends, places, side="right")
        placed.append((first + window) * width + places - (ends - row["window_lengths"])[window])
    return pad(placed, 0)


def _targets(rows: Sequence[Mapping[str, Any]], *, has_nested: bool) -> Batch:
    spans = [row["spans"].astype(np.int64).reshape(-1, 3) for row in rows]
    numbered = [np.insert(own, 0, text, axis=1) for text, own in enumerate(spans)]
    targets: Batch = {"spans": torch.from_numpy(np.concatenate(numbered))}  # [S, 4]
    if not has_nested:
        tags = [number_tags(own, len(row["offsets"]) // 2) for row, own in zip(rows, spans, strict=True)]
        targets["tags"] = pad(tags, NO_TAG)  # [B, W]
    return targets


def number_tags(spans: NDArray[np.int64], num_units: int) -> NDArray[np.int64]:
    """Compute the tag ids of non-overlapping entities, given as rows of first unit, end and type, [S, 3].

    >>> number_tags(np.array([[0, 2, 0], [3, 4, 1]]), 4).tolist()
    [1, 3, 0, 8]
    """
    tags = np.zeros(num_units, dtype=np.int64)
    for start, end, kind in spans.tolist():
        first = 1 + _ROLES_PER_TYPE * kind
        tags[start:end] = first + 1
        tags[start], tags[end - 1] = (first, first + 2) if end - start > 1 else (first + 3, first + 3)
    return tags  # [W]
