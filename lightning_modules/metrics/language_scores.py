"""Scores of language models from stored predictions: functions of nats, targets and characters. Needs no torch."""

import math
from dataclasses import dataclass

import numpy as np

from lightrail.lightning_modules.metrics.scores import Columns, Ratio, Score, Values


@dataclass(frozen=True, kw_only=True)
class Perplexity(Score):
    """Exponential of the mean nats per target: exp(sum of `loss` x `num_targets` / sum of `num_targets`)."""

    def statistics(self, columns: Columns) -> Values:
        """Return the nats and the targets of each example, [N, 2]."""
        counts = columns["num_targets"].astype(np.float64)
        return np.stack([columns["loss"].astype(np.float64) * counts, counts], axis=1)

    def value(self, sums: Values) -> Values:
        """Return exp of nats per target, [..., 2] to [...]; NaN without targets."""
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return np.asarray(np.exp(sums[..., 0] / sums[..., 1]), np.float64)


@dataclass(frozen=True, kw_only=True)
class BitsPerUnit(Ratio):
    """Bits of all targets over the characters or bytes that they decode to.

    Source: S. Mielke (2019), "Can you compare perplexity across different segmentations?"
    """

    units: str
    """The column of counts: `num_characters` or `num_bytes`."""

    def statistics(self, columns: Columns) -> Values:
        """Return the bits and the characters or bytes of each example, [N, 2]."""
        nats = columns["loss"].astype(np.float64) * columns["num_targets"].astype(np.float64)
        return np.stack([nats / math.log(2), columns[self.units].astype(np.float64)], axis=1)


@dataclass(frozen=True, kw_only=True)
class JointLoss(Ratio):
    """Mean loss over masked tokens and decisions on next sentences, each of which counts as several tokens.

    (sum of `loss` x `num_targets` + weight x sum of `next_sentence_loss`) / (sum of `num_targets` + weight x examples).
    """

    weight: int

    def statistics(self, columns: Columns) -> Values:
        """Return the weighted nats and the weights of each example, [N, 2]."""
        counts = columns["num_targets"].astype(np.float64)
        nats = columns["loss"].astype(np.float64) * counts
        nats += self.weight * columns["next_sentence_loss"].astype(np.float64)
        return np.stack([nats, counts + self.weight], axis=1)
