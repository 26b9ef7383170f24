"""The metrics of classification, as computed from stored predictions. Needs no torch.

Shapes: N examples, L labels, K bins.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightrail.lightning_modules.metrics.ranking import LabelRanking, MacroAuroc, MacroAveragePrecision
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
"""Stands between the labels of a text that has several."""


@dataclass(frozen=True, kw_only=True)
class MicroF1(LabelCounts):
    """F1 of all labels' counts together; where each example has one label it is the accuracy."""

    def value(self, sums: Values) -> Values:
        true_positives, predicted, expected = (own.sum(-1) for own in self.counts(sums))
        return np.asarray(2 * true_positives / np.maximum(predicted + expected, 1), np.float64)


@dataclass(frozen=True, kw_only=True)
class WeightedF1(LabelCounts):
    """Mean of F1 over labels, each as often as it is expected."""

    def value(self, sums: Values) -> Values:
        true_positives, predicted, expected = self.counts(sums)
        f1 = 2 * true_positives / np.maximum(predicted + expected, 1)
        return np.asarray((f1 * expected).sum(-1) / np.maximum(expected.sum(-1), 1), np.float64)


@dataclass(frozen=True, kw_only=True)
class MacroPrecision(LabelCounts):
    """Mean of precision over the labels that are expected or predicted anywhere; 0 for one never predicted."""

    def value(self, sums: Values) -> Values:
        true_positives, predicted, expected = self.counts(sums)
        return mean_over_labels(true_positives, predicted, predicted + expected > 0)


@dataclass(frozen=True, kw_only=True)
class MacroRecall(LabelCounts):
    """Mean of recall over the labels that are expected or predicted anywhere; 0 for one never expected."""

    def value(self, sums: Values) -> Values:
        true_positives, predicted, expected = self.counts(sums)
        return mean_over_labels(true_positives, expected, predicted + expected > 0)


@dataclass(frozen=True, kw_only=True)
class Matthews(LabelCounts):
    """Matthews' correlation coefficient of several labels, of which each example has one.

    0 where it would be 0 / 0: one label only is predicted, or expected.

    Source: Gorodkin (2004), "Comparing two K-category assignments by a K-category correlation coefficient".
    """

    def value(self, sums: Values) -> Values:
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
        is_right = columns["prediction"] == columns["target"]
        return self.rows(columns["score"].astype(np.float64), is_right)

    def rows(self, confidences: Values, is_right: NDArray[Any]) -> Values:
        """For each bin the number of examples in it, the sum of their confidences and how many are right, [N, 3K]."""
        places = np.minimum(np.nan_to_num(confidences * self.num_bins).astype(np.int64), self.num_bins - 1)
        is_in = places[:, None] == np.arange(self.num_bins)  # [N, K]
        parts = [np.where(is_in, own[:, None], 0) for own in (np.ones_like(confidences), confidences, is_right)]
        return np.concatenate(parts, axis=1).astype(np.float64)

    def value(self, sums: Values) -> Values:
        counts, confidences, right = np.moveaxis(sums.reshape(*sums.shape[:-1], 3, self.num_bins), -2, 0)
        with np.errstate(invalid="ignore"):
            return np.asarray(np.abs(confidences - right).sum(-1) / counts.sum(-1), np.float64)


def label_scores(labels: Sequence[str], *, has_many: bool) -> Mapping[str, StoredScore]:
    """Every metric of a classification by its name.

    Args:
        has_many: whether an example may have several labels, or none. Accuracy is then the share of examples whose
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


class LabelMetrics(Metric):
    """Adds up over batches and processes what the scores of stored predictions add up over examples.

    The values are theirs: torchmetrics' own classes (1.9) differ from them, and from scikit-learn, where a label is
    missing. Probabilities are kept, 8 L bytes for each example, for the measures that rank.
    """

    full_state_update = False
    counts: Tensor
    answers: Tensor
    bins: Tensor
    rows: list[Tensor]

    def __init__(self, labels: Sequence[str], *, has_many: bool) -> None:
        super().__init__()
        self.num_labels = len(labels)
        self.scores: Mapping[str, StoredScore] = label_scores(labels, has_many=has_many)
        self.error = CalibrationError()
        sizes = {"counts": (3, len(labels)), "answers": (2,), "bins": (3, self.error.num_bins)}
        for name, size in sizes.items():
            self.add_state(name, torch.zeros(size, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("rows", [], dist_reduce_fx="cat")

    def update(self, probabilities: Tensor, is_predicted: Tensor, is_target: Tensor, confidences: Tensor) -> None:
        """Count a batch.

        Args:
            probabilities: of each label, [B, L].
            is_predicted: whether it is in the answer, [B, L] bool.
            is_target: whether it should be, [B, L] bool.
            confidences: probability that the answer is right, [B].
        """
        is_right = (is_predicted == is_target).all(-1)  # [B]
        self.counts += torch.stack([(is_predicted & is_target).sum(0), is_predicted.sum(0), is_target.sum(0)])
        self.answers += torch.stack([is_right.sum(), is_right.new_ones(len(is_right), dtype=torch.long).sum()])
        confidences = confidences.double()  # as the stored ones are binned: float32 would round across an edge
        num_bins = self.error.num_bins
        places = (confidences * num_bins).nan_to_num().long().clamp(max=num_bins - 1)
        values = torch.stack([torch.ones_like(confidences), confidences, is_right.double()])  # [3, B]
        self.bins.index_add_(1, places, values)
        # Flat: a process without an example then has a state of as many dimensions as the others.
        self.rows.append(torch.cat([probabilities.float(), is_target.float()], dim=1).flatten())

    def compute(self) -> dict[str, Tensor]:
        """Each metric but the loss, 0-dimensional."""
        flat = dim_zero_cat(self.rows) if len(self.rows) else torch.zeros(0)
        rows = flat.reshape(-1, 2, self.num_labels).cpu().numpy()
        probabilities, is_target = rows[:, 0], rows[:, 1] > 0
        sums = {name: getattr(self, name).flatten().cpu().numpy() for name in ("counts", "answers", "bins")}
        values: dict[str, float] = {}
        for name, score in self.scores.items():
            if isinstance(score, LabelRanking):
                values[name] = score.mean(probabilities, is_target)
            elif isinstance(score, LabelCounts | ShareEqual | CalibrationError):
                values[name] = float(score.value(_sums_for(score, sums)))
        return {name: self.bins.new_tensor(value) for name, value in values.items()}


def _sums_for(score: LabelCounts | ShareEqual | CalibrationError, sums: Mapping[str, Values]) -> Values:
    if isinstance(score, LabelCounts):
        return sums["counts"]
    return sums["answers"] if isinstance(score, ShareEqual) else sums["bins"]
