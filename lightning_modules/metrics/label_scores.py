"""The metrics of classification, as computed from stored predictions. Needs no torch.

Shapes: N examples, L labels, K bins.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightrail.lightning_modules.metrics.scores import (
    Columns,
    LabelCounts,
    MacroF1,
    Score,
    ShareEqual,
    StoredScore,
    Values,
    WeightedMean,
    mean_over_labels,
    one_hot,
)


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


SEPARATOR = "|"
"""Separates the labels of an example that has several."""


@dataclass(frozen=True, kw_only=True)
class MicroF1(LabelCounts):
    """F1 of all labels' counts together; where each example has one label it is the accuracy."""

    def value(self, sums: Values) -> Values:
        """Return F1 of the summed counts, [..., 3L] to [...]; 0 without labels."""
        true_positives, predicted, expected = (own.sum(-1) for own in self.counts(sums))
        return np.asarray(2 * true_positives / np.maximum(predicted + expected, 1), np.float64)


@dataclass(frozen=True, kw_only=True)
class WeightedF1(LabelCounts):
    """Mean of F1 over labels, each weighted by how often it is expected."""

    def value(self, sums: Values) -> Values:
        """Return the mean, [..., 3L] to [...]; 0 where no label is expected."""
        true_positives, predicted, expected = self.counts(sums)
        f1 = 2 * true_positives / np.maximum(predicted + expected, 1)
        return np.asarray((f1 * expected).sum(-1) / np.maximum(expected.sum(-1), 1), np.float64)


@dataclass(frozen=True, kw_only=True)
class MacroPrecision(LabelCounts):
    """Mean of precision over the labels that are expected or predicted anywhere; 0 for one never predicted."""

    def value(self, sums: Values) -> Values:
        """Return the mean precision, [..., 3L] to [...]."""
        true_positives, predicted, expected = self.counts(sums)
        return mean_over_labels(true_positives, predicted, predicted + expected > 0)


@dataclass(frozen=True, kw_only=True)
class MacroRecall(LabelCounts):
    """Mean of recall over the labels that are expected or predicted anywhere; 0 for one never expected."""

    def value(self, sums: Values) -> Values:
        """Return the mean recall, [..., 3L] to [...]."""
        true_positives, predicted, expected = self.counts(sums)
        return mean_over_labels(true_positives, expected, predicted + expected > 0)


@dataclass(frozen=True, kw_only=True)
class Matthews(LabelCounts):
    """Matthews' correlation coefficient of several labels, of which each example has one.

    0 where it would be 0 / 0: one label only is predicted, or expected.

    Source: Gorodkin (2004), "Comparing two K-category assignments by a K-category correlation coefficient".
    """

    def value(self, sums: Values) -> Values:
        """Return the coefficient, [..., 3L] to [...], in [-1, 1]."""
        true_positives, predicted, expected = self.counts(sums)
        total = predicted.sum(-1)
        covariance = true_positives.sum(-1) * total - (predicted * expected).sum(-1)
        variances = (total**2 - (predicted**2).sum(-1)) * (total**2 - (expected**2).sum(-1))
        return np.where(variances > 0, covariance / np.sqrt(np.where(variances > 0, variances, 1)), 0.0)


@dataclass(frozen=True, kw_only=True)
class CalibrationError(Score):
    """Mean distance between confidence and accuracy over equal bins of confidence, weighted by their size.

    Source: Naeini, Cooper and Hauskrecht (2015), "Obtaining Well Calibrated Probabilities Using Bayesian Binning".
    """

    num_bins: int = 10
    higher_is_better: bool = False

    def statistics(self, columns: Columns) -> Values:
        """Return the bins of the column `score` against whether predictions are right, [N, 3K]."""
        is_right = columns["prediction"] == columns["target"]
        return self.rows(columns["score"].astype(np.float64), is_right)

    def rows(self, confidences: Values, is_right: NDArray[Any]) -> Values:
        """Return per bin the number of an example in it, its confidence and whether it is right, [N, 3K]."""
        places = np.minimum(np.nan_to_num(confidences * self.num_bins).astype(np.int64), self.num_bins - 1)
        is_in = places[:, None] == np.arange(self.num_bins)  # [N, K]
        parts = [np.where(is_in, own[:, None], 0) for own in (np.ones_like(confidences), confidences, is_right)]
        return np.concatenate(parts, axis=1).astype(np.float64)

    def value(self, sums: Values) -> Values:
        """Return the error, [..., 3K] to [...], in [0, 1]; NaN without examples."""
        counts, confidences, right = np.moveaxis(sums.reshape(*sums.shape[:-1], 3, self.num_bins), -2, 0)
        with np.errstate(invalid="ignore"):
            return np.asarray(np.abs(confidences - right).sum(-1) / counts.sum(-1), np.float64)


def label_scores(labels: Sequence[str], *, has_many: bool) -> Mapping[str, StoredScore]:
    """Return every metric of a classification by its name.

    Args:
        has_many: whether an example may have several labels, or none. Accuracy is then the fraction of examples whose
            whole set is right, and the calibration error is that of the probability of the whole set.
    """
    names: dict[str, Any] = {"labels": tuple(labels), "separator": SEPARATOR if has_many else None}
    return {
        "accuracy": ShareEqual(),
        "f1_macro": MacroF1(**names),
        "f1_micro": MicroF1(**names),
        "f1_weighted": WeightedF1(**names),
        "precision_macro": MacroPrecision(**names),
        "recall_macro": MacroRecall(**names),
        **({} if has_many else {"mcc": Matthews(**names)}),
        "auroc": MacroAuroc(**names),
        "average_precision": MacroAveragePrecision(**names),
        "ece": CalibrationError(),
        "loss": WeightedMean(column="loss", higher_is_better=False),
    }
