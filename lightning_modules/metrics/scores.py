"""Metrics that stored predictions are enough to compute, resample and compare.

A score turns each example into a row of statistics, and the sum of rows into the metric. Whatever is a function of sums
fits: a mean, a ratio, an F1 from counts, the exponential of a weighted mean. A metric that needs all rows at once, such
as an area under a curve, is a `StoredScore` alone. A metric has one class for validation, test, stored predictions and
comparisons, which also states the direction in which it is better. Needs no torch.

Shapes: N examples, S statistics, L labels.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol, TypeAlias, final, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from lightrail.project.basics.errors import DataError

Columns: TypeAlias = Mapping[str, NDArray[Any]]
"""The columns of stored predictions, [N] each."""
Values: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class StoredScore(ABC):
    """One metric; a frozen dataclass of plain values, so that it can be stored beside the predictions."""

    higher_is_better: bool = True
    chosen_by: ClassVar[frozenset[str]] = frozenset()
    """Fields that no row depends on: scores that differ in these alone share their rows, which are computed once."""

    @abstractmethod
    def statistics(self, columns: Columns) -> NDArray[np.floating]:
        """Return a row for each example, [N, S]."""

    @abstractmethod
    def of_rows(self, rows: NDArray[np.floating]) -> float:
        """Return the metric of examples with these rows, [N, S] of float32 or finer; NaN where it is undefined."""

    def signature(self) -> str | None:
        """Return all that the value depends on beside the texts, as authors state it. None: the name says it."""
        return None

    @final
    def of(self, columns: Columns) -> float:
        """Return the metric of all examples; NaN where it is undefined."""
        return self.of_rows(self.statistics(columns))

    @final
    def rows_key(self) -> Hashable:
        """Return a key that is equal for scores whose rows are equal."""
        left_out = {"higher_is_better", *self.chosen_by}
        settings = ((field.name, getattr(self, field.name)) for field in fields(self) if field.name not in left_out)
        return (type(self).statistics, *settings)


@dataclass(frozen=True, kw_only=True)
class Score(StoredScore):
    """A metric that follows from sums over examples."""

    is_binary: ClassVar[bool] = False
    """Whether each example is right or wrong and the metric is the fraction of the right ones. The first statistic is
    then 1 or 0."""

    @final
    def of_rows(self, rows: NDArray[np.floating]) -> float:
        """Return the metric of rows, [N, S], added up in float64."""
        return float(self.value(rows.sum(0, dtype=np.float64)))

    @abstractmethod
    def statistics(self, columns: Columns) -> Values:
        """Return a row for each example, [N, S]; the metric follows from their sum."""

    @abstractmethod
    def value(self, sums: Values) -> Values:
        """Return the metric of examples whose rows add up to `sums`, [..., S] to [...]; NaN where it is undefined."""


@runtime_checkable
class CountsByLabel(Protocol):
    """A metric that knows how often each class is predicted and expected."""

    def by_label(self, columns: Columns) -> Mapping[str, tuple[int, int]]:
        """Return how often each class is predicted, and how often expected."""


@runtime_checkable
class HasBaselines(Protocol):
    """A task that states what is reached without learning."""

    def baselines(self) -> Mapping[str, float]:
        """Return the value of a metric of `scores`, by its name, that a network which knows nothing reaches."""


@dataclass(frozen=True, kw_only=True)
class Ratio(Score):
    """A metric that is the sum of the first statistic over the sum of the second."""

    def value(self, sums: Values) -> Values:
        """Return the ratio, [..., 2] to [...]; NaN for 0 / 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(sums[..., 0] / sums[..., 1], np.float64)


@dataclass(frozen=True, kw_only=True)
class ShareEqual(Ratio):
    """Fraction of the examples in which two columns are equal: accuracy.

    >>> ShareEqual().of({"prediction": np.array(["a", "b"]), "target": np.array(["a", "c"])})
    0.5
    """

    is_binary: ClassVar[bool] = True
    column: str = "prediction"
    other: str = "target"

    def statistics(self, columns: Columns) -> Values:
        """Return whether the columns are equal, and 1, for each example, [N, 2]."""
        return _with_count(columns[self.column] == columns[self.other])


@dataclass(frozen=True, kw_only=True)
class ShareZero(Ratio):
    """Fraction of the examples in which a column is zero: whole sentences without an edit."""

    is_binary: ClassVar[bool] = True
    column: str

    def statistics(self, columns: Columns) -> Values:
        """Return whether the column is zero, and 1, for each example, [N, 2]."""
        return _with_count(columns[self.column] == 0)


@dataclass(frozen=True, kw_only=True)
class WeightedMean(Ratio):
    """Mean of a column weighted by another: a loss over targets."""

    column: str
    weight: str | None = None
    """None: each example counts once."""

    def statistics(self, columns: Columns) -> Values:
        """Return value x weight, and the weight, of each example, [N, 2]."""
        values = columns[self.column].astype(np.float64)
        weights = np.ones_like(values) if self.weight is None else columns[self.weight].astype(np.float64)
        return np.stack([values * weights, weights], axis=1)


@dataclass(frozen=True, kw_only=True)
class SumRatio(Ratio):
    """Sum of a column over the sum of another, or 1 minus that: an error rate, or its accuracy."""

    numerator: str
    denominator: str
    is_complement: bool = False

    def statistics(self, columns: Columns) -> Values:
        """Return numerator and denominator of each example, [N, 2]."""
        return np.stack([columns[self.numerator], columns[self.denominator]], axis=1).astype(np.float64)

    def value(self, sums: Values) -> Values:
        """Return the ratio, [..., 2] to [...]; NaN where the denominators are 0."""
        ratio = super().value(sums)
        return 1 - ratio if self.is_complement else ratio


@dataclass(frozen=True, kw_only=True)
class LabelCounts(Score):
    """A metric of how often each label is predicted rightly (TP), predicted at all and expected at all.

    Precision is TP / predicted, recall TP / expected, F1 2 TP / (predicted + expected); each 0 where it would be 0 / 0.
    """

    labels: tuple[str, ...]
    separator: str | None = None
    """Separates the labels of an example that may have several, or none; None: each has one."""

    def statistics(self, columns: Columns) -> Values:
        """Return for each example which labels are TP, predicted and expected, [N, 3L]."""
        names = self.labels, self.separator
        predicted, expected = one_hot(columns["prediction"], *names), one_hot(columns["target"], *names)
        return np.concatenate([predicted & expected, predicted, expected], axis=1).astype(np.float64)  # [N, 3L]

    def counts(self, sums: Values) -> tuple[Values, Values, Values]:
        """Return TP, predicted and expected, [..., 3L] to [..., L] each."""
        each = np.moveaxis(sums.reshape(*sums.shape[:-1], 3, len(self.labels)), -2, 0)
        return each[0], each[1], each[2]

    def by_label(self, columns: Columns) -> dict[str, tuple[int, int]]:
        """Return how often each label is predicted, and how often expected."""
        _, predicted, expected = self.counts(self.statistics(columns).sum(0))
        return by_name(self.labels, predicted, expected)


@dataclass(frozen=True, kw_only=True)
class MacroF1(LabelCounts):
    """Mean of F1 over labels, as torchmetrics' MulticlassF1Score(average="macro") counts it.

    A label that is neither expected nor predicted anywhere does not count, one that is only predicted counts as 0.
    """

    def value(self, sums: Values) -> Values:
        """Return the mean F1, [..., 3L] to [...]."""
        true_positives, predicted, expected = self.counts(sums)
        return mean_over_labels(2 * true_positives, predicted + expected, predicted + expected > 0)


def one_hot(entries: NDArray[Any], labels: Sequence[str], separator: str | None) -> NDArray[np.bool_]:
    """Return which labels each entry names, [N, L].

    Raises: DataError when one is none of the labels.

    >>> one_hot(np.array(["a|b", ""]), ["a", "b"], "|").tolist()
    [[True, True], [False, False]]
    """
    numbers = {label: number for number, label in enumerate(labels)}
    is_named = np.zeros((len(entries), len(numbers)), np.bool_)
    for row, entry in enumerate(entries.tolist()):
        for label in [entry] if separator is None else filter(None, entry.split(separator)):
            if label not in numbers:
                raise DataError(f"predictions: {label!r} is none of the {len(numbers)} labels of the model.")
            is_named[row, numbers[label]] = True
    return is_named


def mean_over_labels(numerators: Values, denominators: Values, is_counted: NDArray[np.bool_]) -> Values:
    """Return the mean of ratios over the labels that count, [..., L] to [...]; 0 / 0 is 0, as is the mean of none."""
    ratios = np.where(is_counted, numerators / np.maximum(denominators, 1), 0)
    return np.asarray(ratios.sum(-1) / np.maximum(is_counted.sum(-1), 1), np.float64)


def by_name(names: Sequence[str], predicted: Values, expected: Values) -> dict[str, tuple[int, int]]:
    """Return the two counts of each class, [L] each, by its name."""
    return {name: (int(one), int(two)) for name, one, two in zip(names, predicted, expected, strict=True)}


def _with_count(is_right: NDArray[np.bool_]) -> Values:
    return np.stack([is_right, np.ones_like(is_right)], axis=1).astype(np.float64)
