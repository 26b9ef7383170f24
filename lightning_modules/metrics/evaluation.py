"""Metrics of an evaluation, added up over its batches and over all processes."""

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from lightrail.lightning_modules.metrics.scores import Score, StoredScore


class MeanLoss(Metric):
    """Adds up losses in float64 over batches and processes, each weighted by its number of targets.

    torchmetrics' MeanMetric (1.9) either waits for the device to look for NaN, or ignores the weights.
    """

    full_state_update = False
    total: Tensor
    num_targets: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("total", "num_targets"):
            self.add_state(name, torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, mean: Tensor, num_targets: int) -> None:
        """Count a batch: its mean loss, and how many targets that is a mean over."""
        if num_targets:
            self.total += mean.double() * num_targets
            self.num_targets += num_targets

    def compute(self) -> Tensor:
        """Return the mean loss per target; NaN without targets."""
        return self.total / self.num_targets


class ScoreSums:
    """Computes scores from batches of predictions, equal to those of the stored predictions.

    Of scores that follow from sums, only the sums are kept; of the others, such as an area under a curve, every row.
    It is no torchmetrics `Metric` (1.9), whose states need a size before anything is counted, and a device.
    """

    def __init__(self, scores: Mapping[str, StoredScore]) -> None:
        self.scores = dict(scores)
        self.groups: dict[Hashable, list[StoredScore]] = defaultdict(list)
        for score in self.scores.values():
            self.groups[score.rows_key()].append(score)
        self._rows: dict[int, list[NDArray[np.floating]]] = defaultdict(list)

    def update(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """Add a batch of columns: those of `TaskModule.decode`, or at least those that the scores read."""
        arrays = {name: as_column(values) for name, values in columns.items()}
        for number, scores in enumerate(self.groups.values()):
            self._rows[number].append(scores[0].statistics(arrays))
            if all(isinstance(score, Score) for score in scores):  # else every row is needed at the end
                self._rows[number] = [np.concatenate(self._rows[number]).sum(0, np.float64, keepdims=True)]

    def compute(self) -> dict[str, float]:
        """Return each score over all processes, all of which must call this; NaN where no example was counted."""
        parts: list[dict[int, list[NDArray[np.floating]]]] = [dict(self._rows)]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            parts = [{} for _ in range(torch.distributed.get_world_size())]
            torch.distributed.all_gather_object(parts, dict(self._rows))
        joined: dict[Hashable, NDArray[np.floating]] = {}
        for number, key in enumerate(self.groups):
            if rows := [own for part in parts for own in part.get(number, ())]:
                joined[key] = np.concatenate(rows)
        keys = {name: score.rows_key() for name, score in self.scores.items()}
        return {name: self.scores[name].of_rows(joined[key]) if key in joined else np.nan for name, key in keys.items()}

    def reset(self) -> None:
        """Remove all sums and rows."""
        self._rows.clear()


def as_column(values: Sequence[Any]) -> NDArray[Any]:
    """Return values of examples as a stored column has them, [N]: numbers, or objects such as text and lists.

    >>> as_column([1, 2.5]).dtype, as_column(["a", "b"]).dtype
    (dtype('float64'), dtype('O'))
    """
    if all(isinstance(value, int | float) for value in values):
        return np.asarray(values)
    return np.fromiter(values, dtype=object, count=len(values))
