"""Metrics of how well probabilities rank positive examples above negative ones. Needs no torch.

Shapes: N examples, L labels.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightrail.lightning_modules.metrics.scores import Columns, StoredScore, Values, one_hot


def auroc(scores: NDArray[np.floating], is_positive: NDArray[np.bool_]) -> float:
    """Return the fraction of pairs of a positive and a negative example in which the positive scores higher.

    Ties count half. NaN without positives, without negatives, or where a score is not a number.

    >>> auroc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]))
    0.75
    """
    positives, negatives = _counts(scores, is_positive)
    if not positives.sum() or not negatives.sum() or np.isnan(scores).any():
        return math.nan
    num_below = np.cumsum(negatives) - negatives / 2
    return float(positives @ num_below / (positives.sum() * negatives.sum()))


def average_precision(scores: NDArray[np.floating], is_positive: NDArray[np.bool_]) -> float:
    """Return the mean over the positives of the precision among all that score at least as high, not interpolated.

    NaN without positives, or where a score is not a number.

    >>> round(average_precision(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True])), 4)
    0.8333
    """
    positives, negatives = _counts(scores, is_positive)
    if not positives.sum() or np.isnan(scores).any():
        return math.nan
    hits, predicted = np.cumsum(positives[::-1]), np.cumsum((positives + negatives)[::-1])
    return float(positives[::-1] @ (hits / predicted) / positives.sum())


def _counts(scores: NDArray[np.floating], is_positive: NDArray[np.bool_]) -> tuple[Values, Values]:
    """Count positives and negatives with each of the different scores, the lowest first."""
    _, place = np.unique(scores, return_inverse=True)
    positives = np.bincount(place, weights=is_positive).astype(
        np.float64
    )  # without scores it returns integers (numpy 2)
    return positives, np.bincount(place) - positives


@dataclass(frozen=True, kw_only=True)
class LabelRanking(StoredScore):
    """A metric of each label against the rest, averaged over the labels.

    Where each example has one of two labels, the second is the positive one and the only one that counts. A label for
    which the metric is undefined does not count; where all are, so is the mean.
    """

    labels: tuple[str, ...]
    separator: str | None = None
    """Separates the labels of an example that may have several, or none; None: each has one."""

    def statistics(self, columns: Columns) -> NDArray[np.floating]:
        """Return the probability of each label, then whether it is a target, [N, 2L]."""
        is_target = one_hot(columns["target"], self.labels, self.separator)
        probabilities = np.array(list(columns["probabilities"]), np.float32).reshape(is_target.shape)
        return np.concatenate([probabilities, is_target], axis=1, dtype=np.float32)

    def of_rows(self, rows: NDArray[np.floating]) -> float:
        """Return the mean over the labels for which the metric is defined, [N, 2L] to a number; NaN without any."""
        probabilities, is_target = rows[:, : len(self.labels)], rows[:, len(self.labels) :] > 0
        is_binary = self.separator is None and len(self.labels) == 2
        counted = [1] if is_binary else range(len(self.labels))
        values = [self.measure(probabilities[:, number], is_target[:, number]) for number in counted]
        defined = [value for value in values if not math.isnan(value)]
        return float(np.mean(defined)) if defined else math.nan

    @abstractmethod
    def measure(self, scores: NDArray[np.floating], is_positive: NDArray[np.bool_]) -> float:
        """Return the metric of one label from its probabilities and targets, [N] each; NaN where undefined."""


@dataclass(frozen=True, kw_only=True)
class MacroAuroc(LabelRanking):
    """Area under the receiver operating characteristic."""

    def measure(self, scores: NDArray[np.floating], is_positive: NDArray[np.bool_]) -> float:
        """Return the area of one label, [N] each."""
        return auroc(scores, is_positive)


@dataclass(frozen=True, kw_only=True)
class MacroAveragePrecision(LabelRanking):
    """Area under the curve of precision against recall, as steps."""

    def measure(self, scores: NDArray[np.floating], is_positive: NDArray[np.bool_]) -> float:
        """Return the average precision of one label, [N] each."""
        return average_precision(scores, is_positive)
