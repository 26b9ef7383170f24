"""Scores of predicted entities against expected ones, from counts that add up. Needs no torch.

An entity is (start, end exclusive, type). It is right when all three are those of an expected one: strict scoring.

Shapes: N examples, L types.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lightrail.lightning_modules.metrics.scores import Columns, Score, Values, by_name
from lightrail.project.basics.errors import DataError

Entity: TypeAlias = tuple[int, int, str]
Outcome = Literal["correct", "boundary", "type", "boundary_and_type", "missing", "spurious"]
"""Outcome of an entity: the right words and type; the right type, but other words; the right words, but another
type; neither, though it shares a word; expected and not predicted; predicted where nothing is expected."""
ERRORS: tuple[Outcome, ...] = ("boundary", "type", "boundary_and_type", "missing", "spurious")


def written(entities: Iterable[Entity]) -> str:
    """Return entities as one text, in an order that does not depend on how they were found.

    >>> written([(4, 6, "ORG"), (0, 2, "PER")])
    '0:2:PER 4:6:ORG'
    """
    return " ".join(f"{start}:{end}:{kind}" for start, end, kind in sorted(entities))


def read(text: str) -> list[Entity]:
    """Return the entities of a text that `written` made. A type may hold spaces and colons.

    >>> read("0:2:PER 4:6:ORG")
    [(0, 2, 'PER'), (4, 6, 'ORG')]
    """
    return [(int(start), int(end), kind) for start, end, kind in _ENTITY.findall(text)]


_ENTITY = re.compile(r"(\d+):(\d+):(.*?)(?= \d+:\d+:|$)", re.DOTALL)


def outcomes(
    predicted: Iterable[Entity], expected: Iterable[Entity]
) -> list[tuple[Outcome, Entity | None, Entity | None]]:
    """Return the outcome of each entity, as (outcome, predicted, expected), in the order of the text.

    A wrong entity is paired with the first expected one that it shares a word with and that is neither found nor paired
    yet, as the strict evaluation of nervaluate does.
    """
    predicted, expected = sorted(set(predicted)), sorted(set(expected))
    right = set(predicted) & set(expected)
    found: list[tuple[Outcome, Entity | None, Entity | None]] = [("correct", own, own) for own in right]
    left = [own for own in expected if own not in right]
    for own in predicted:
        if own in right:
            continue
        other = next((each for each in left if each[0] < own[1] and own[0] < each[1]), None)
        if other is not None:
            left.remove(other)
        found.append((_outcome(own, other), own, other))
    found += [("missing", None, own) for own in left]
    return sorted(found, key=lambda item: item[1] or item[2] or (0, 0, ""))


def _outcome(predicted: Entity, expected: Entity | None) -> Outcome:
    if expected is None:
        return "spurious"
    if predicted[2] == expected[2]:
        return "boundary"
    return "type" if predicted[:2] == expected[:2] else "boundary_and_type"


def counts_by_type(predicted: Iterable[Entity], expected: Iterable[Entity], types: Sequence[str]) -> NDArray[np.int64]:
    """Count right, predicted and expected entities of each type, [3, L].

    Raises: DataError for an entity of another type.
    """
    predicted, expected = set(predicted), set(expected)
    counts = np.zeros((3, len(types)), np.int64)
    numbers = {kind: number for number, kind in enumerate(types)}
    for row, entities in enumerate((predicted & expected, predicted, expected)):
        for start, end, kind in entities:
            if kind not in numbers:
                raise DataError(f"predictions: {start}:{end}:{kind} is of none of the {len(types)} types of the model.")
            counts[row, numbers[kind]] += 1
    return counts


def error_counts(predicted: Iterable[Entity], expected: Iterable[Entity]) -> NDArray[np.int64]:
    """Count the entities with each of `ERRORS`, [5]."""
    found = [outcome for outcome, _, _ in outcomes(predicted, expected)]
    return np.array([found.count(error) for error in ERRORS], np.int64)


def precision(counts: Values) -> Values:
    """Return right / predicted of counts [..., 3, L]; 0 where nothing is predicted, as seqeval counts it."""
    return _share(counts[..., 0, :], counts[..., 1, :])


def recall(counts: Values) -> Values:
    """Return right / expected of counts [..., 3, L]; 0 where nothing is expected."""
    return _share(counts[..., 0, :], counts[..., 2, :])


def f1(counts: Values) -> Values:
    """Return F1 of counts [..., 3, L]; 0 where nothing is predicted or expected."""
    return _share(2 * counts[..., 0, :], counts[..., 1, :] + counts[..., 2, :])


def macro_f1(counts: Values) -> Values:
    """Return the mean F1 over types that are predicted or expected somewhere, [..., 3, L] to [...]; 0 without any."""
    occurs = counts[..., 1, :] + counts[..., 2, :] > 0
    return _share(f1(counts).sum(-1), occurs.sum(-1).astype(np.float64))


MICRO = {"f1": f1, "precision": precision, "recall": recall}


@dataclass(frozen=True, kw_only=True)
class EntityScore(Score):
    """Precision, recall or F1 of entities, strictly: over all types together, their mean, or of one type."""

    types: tuple[str, ...]
    chosen_by: ClassVar[frozenset[str]] = frozenset({"figure", "type_name"})
    figure: Literal["f1", "precision", "recall", "f1_macro", "f1_of_type"]
    type_name: str | None = None
    """Which type, for `f1_of_type`."""

    def statistics(self, columns: Columns) -> Values:
        """Return right, predicted and expected entities of each type for each example, [N, 3L]."""
        counts = [
            counts_by_type(read(predicted), read(expected), self.types)
            for predicted, expected in zip(columns["prediction"], columns["target"], strict=True)
        ]
        return np.array(counts, np.float64).reshape(len(counts), 3 * len(self.types))

    def by_label(self, columns: Columns) -> dict[str, tuple[int, int]]:
        """Return how many entities of each type are predicted, and how many expected."""
        _, predicted, expected = self.statistics(columns).sum(0).reshape(3, len(self.types))
        return by_name(self.types, predicted, expected)

    def value(self, sums: Values) -> Values:
        """Return the score that `figure` names, of counts added up, [..., 3L] to [...]."""
        counts = sums.reshape(*sums.shape[:-1], 3, len(self.types))
        if self.figure == "f1_macro":
            return macro_f1(counts)
        if self.figure == "f1_of_type":
            return np.asarray(f1(counts)[..., self.types.index(str(self.type_name))])
        return MICRO[self.figure](counts.sum(-1, keepdims=True))[..., 0]


@dataclass(frozen=True, kw_only=True)
class EntityErrors(Score):
    """Number of entities with one type of error."""

    chosen_by: ClassVar[frozenset[str]] = frozenset({"error"})
    error: Outcome
    higher_is_better: bool = False

    def statistics(self, columns: Columns) -> Values:
        """Count the entities with each of `ERRORS` in each example, [N, 5]."""
        pairs = zip(columns["prediction"], columns["target"], strict=True)
        counts = [error_counts(read(predicted), read(expected)) for predicted, expected in pairs]
        return np.array(counts, np.float64).reshape(len(counts), len(ERRORS))

    def value(self, sums: Values) -> Values:
        """Return the number of this type of error, [..., 5] to [...]."""
        return np.asarray(sums[..., ERRORS.index(self.error)])


def entity_scores(types: Sequence[str]) -> Mapping[str, Score]:
    """Return every score of entities by the name of its metric, `f1` first."""
    every = tuple(types)
    scores: dict[str, Score] = {
        figure: EntityScore(types=every, figure=figure) for figure in ("f1", "precision", "recall", "f1_macro")
    }
    names = metric_names(types)
    scores |= {name: EntityScore(types=every, figure="f1_of_type", type_name=kind) for kind, name in names.items()}
    return scores | {error_metric(error): EntityErrors(error=error) for error in ERRORS}


def error_metric(error: Outcome) -> str:
    """Return the name of the metric that counts an error: `boundary_errors`, `missing_entities`."""
    return f"{error}_entities" if error in ("missing", "spurious") else f"{error}_errors"


def metric_names(types: Sequence[str]) -> dict[str, str]:
    """Return the name of each type's F1, in letters that MLflow takes; a number tells names apart that would be equal.

    >>> metric_names(["PER", "B&B", "B+B"])
    {'PER': 'f1_PER', 'B&B': 'f1_B-B', 'B+B': 'f1_B-B_2'}
    """
    names: dict[str, str] = {}
    for kind in types:
        name = plain = "f1_" + _NOT_IN_A_METRIC.sub("-", kind)
        number = 1
        while name in names.values() or name == "f1_macro":
            number += 1
            name = f"{plain}_{number}"
        names[kind] = name
    return names


_NOT_IN_A_METRIC = re.compile(r"[^\w. -]")


def _share(part: Values, whole: Values) -> Values:
    return np.asarray(part / np.maximum(whole, 1), np.float64)
