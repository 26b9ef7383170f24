"""Metrics as sums over examples, so that stored predictions are enough to compute, resample and compare them.

A score turns each example into a row of statistics, and the sum of rows into the metric. Whatever is a function of sums
fits: a mean, a ratio, an F1 from counts, the exponential of a weighted mean. Needs no torch.

Shapes: N examples, S statistics, L labels.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from project.errors import ConfigError, DataError

Columns: TypeAlias = Mapping[str, NDArray[Any]]
"""The columns of stored predictions, [N] each."""
Values: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Score(ABC):
    """One metric; a frozen dataclass of plain values, so that it can be stored beside the predictions."""

    is_binary: ClassVar[bool] = False
    """Whether each example is either right or wrong and the metric is the share of the right ones. The first statistic
    then tells which, by 1 or 0."""
    higher_is_better: bool = True

    @abstractmethod
    def statistics(self, columns: Columns) -> Values:
        """A row for each example, [N, S]."""

    @abstractmethod
    def value(self, sums: Values) -> Values:
        """The metric of examples whose rows add up to `sums`, [..., S] to [...]; NaN where it is undefined."""


@dataclass(frozen=True, kw_only=True)
class ShareEqual(Score):
    """Share of the examples in which two columns are equal: accuracy."""

    is_binary: ClassVar[bool] = True
    column: str = "prediction"
    other: str = "target"

    def statistics(self, columns: Columns) -> Values:
        return _with_count(columns[self.column] == columns[self.other])

    def value(self, sums: Values) -> Values:
        return _ratio(sums)


@dataclass(frozen=True, kw_only=True)
class ShareZero(Score):
    """Share of the examples in which a column is zero: whole sentences without an edit."""

    is_binary: ClassVar[bool] = True
    column: str

    def statistics(self, columns: Columns) -> Values:
        return _with_count(columns[self.column] == 0)

    def value(self, sums: Values) -> Values:
        return _ratio(sums)


@dataclass(frozen=True, kw_only=True)
class WeightedMean(Score):
    """Mean of a column in which each example counts as often as another column says: a loss over targets."""

    column: str
    weight: str | None = None
    """None: each example counts once."""

    def statistics(self, columns: Columns) -> Values:
        values = columns[self.column].astype(np.float64)
        weights = np.ones_like(values) if self.weight is None else columns[self.weight].astype(np.float64)
        return np.stack([values * weights, weights], axis=1)

    def value(self, sums: Values) -> Values:
        return _ratio(sums)


@dataclass(frozen=True, kw_only=True)
class SumRatio(Score):
    """Sum of a column over the sum of another, or what that lacks to 1: an error rate, or its accuracy."""

    numerator: str
    denominator: str
    is_complement: bool = False

    def statistics(self, columns: Columns) -> Values:
        return np.stack([columns[self.numerator], columns[self.denominator]], axis=1).astype(np.float64)

    def value(self, sums: Values) -> Values:
        return 1 - _ratio(sums) if self.is_complement else _ratio(sums)


@dataclass(frozen=True, kw_only=True)
class MacroF1(Score):
    """Mean over labels of 2 TP / (2 TP + FP + FN), as torchmetrics' MulticlassF1Score(average="macro") counts it: a
    label that is neither expected nor predicted anywhere does not count, one that is only predicted counts as 0.
    """

    labels: tuple[str, ...]

    def statistics(self, columns: Columns) -> Values:
        predicted, expected = self._one_hot(columns["prediction"]), self._one_hot(columns["target"])
        return np.concatenate([predicted & expected, predicted, expected], axis=1).astype(np.float64)  # [N, 3L]

    def value(self, sums: Values) -> Values:
        true_positives, predicted, expected = np.moveaxis(sums.reshape(*sums.shape[:-1], 3, len(self.labels)), -2, 0)
        occurrences = predicted + expected  # 2 TP + FP + FN
        f1 = 2 * true_positives / np.maximum(occurrences, 1)
        return np.asarray(f1.sum(-1) / np.maximum((occurrences > 0).sum(-1), 1), np.float64)

    def _one_hot(self, names: NDArray[Any]) -> NDArray[np.bool_]:
        numbers = {label: number for number, label in enumerate(self.labels)}
        unknown = set(names.tolist()) - numbers.keys()
        if unknown:
            raise DataError(f"predictions: {sorted(unknown)[0]!r} is none of the {len(numbers)} labels of the model.")
        one_hot = np.zeros((len(names), len(self.labels)), np.bool_)
        one_hot[np.arange(len(names)), [numbers[name] for name in names.tolist()]] = True
        return one_hot  # [N, L]


KINDS: Mapping[str, type[Score]] = {
    kind.__name__: kind for kind in (ShareEqual, ShareZero, WeightedMean, SumRatio, MacroF1)
}


def scores_to_json(scores: Mapping[str, Score]) -> str:
    """Scores by the name of their metric, as text that `scores_from_json` reads."""
    plain = {name: {"kind": type(score).__name__, **asdict(score)} for name, score in scores.items()}
    return json.dumps(plain, ensure_ascii=False)


def scores_from_json(text: str) -> dict[str, Score]:
    """Raises: ConfigError when there is a kind of score that this version does not know."""
    return {name: _score(name, dict(plain)) for name, plain in json.loads(text).items()}


def _score(name: str, plain: dict[str, Any]) -> Score:
    kind = plain.pop("kind")
    if kind not in KINDS:
        raise ConfigError(f"metric {name} is counted by {kind!r}, which this version of lightrail does not know.")
    settings: dict[str, Any] = {key: tuple(own) if isinstance(own, list) else own for key, own in plain.items()}
    return KINDS[kind](**settings)


def _with_count(is_right: NDArray[np.bool_]) -> Values:
    return np.stack([is_right, np.ones_like(is_right)], axis=1).astype(np.float64)


def _ratio(sums: Values) -> Values:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(sums[..., 0] / sums[..., 1], np.float64)
