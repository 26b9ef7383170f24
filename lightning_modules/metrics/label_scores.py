"""The metrics of classification, as computed from stored predictions. Needs no torch.

Shapes: N examples, L labels, K bins.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightrail.lightning_modules.metrics.ranking import MacroAuroc, MacroAveragePrecision
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
)

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
