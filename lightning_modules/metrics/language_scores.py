"""Scores of language models from stored predictions: functions of nats, targets and what they spell. Needs no torch."""

import math
from dataclasses import dataclass

import numpy as np

from lightrail.lightning_modules.metrics.scores import Columns, Score, Values


@dataclass(frozen=True, kw_only=True)
class Perplexity(Score):
    """Exponential of the mean nats per target: exp(sum of `loss` x `num_targets` / sum of `num_targets`)."""

    def statistics(self, columns: Columns) -> Values:
        counts = columns["num_targets"].astype(np.float64)
        return np.stack([columns["loss"].astype(np.float64) * counts, counts], axis=1)

    def value(self, sums: Values) -> Values:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return np.asarray(np.exp(sums[..., 0] / sums[..., 1]), np.float64)


@dataclass(frozen=True, kw_only=True)
class BitsPerUnit(Score):
    """Bits that all targets cost together, over the characters or bytes that they spell.

    Source: S. Mielke (2019), "Can you compare perplexity across different segmentations?"
    """

    units: str
    """The column of what is counted: `num_characters` or `num_bytes`."""

    def statistics(self, columns: Columns) -> Values:
        nats = columns["loss"].astype(np.float64) * columns["num_targets"].astype(np.float64)
        return np.stack([nats / math.log(2), columns[self.units].astype(np.float64)], axis=1)

    def value(self, sums: Values) -> Values:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(sums[..., 0] / sums[..., 1], np.float64)
