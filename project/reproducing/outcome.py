"""A run beside the one it was to reproduce: each point of each metric, each prediction, and the verdict."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import pyarrow as pa

from lightrail.project.basics.tables import aligned

if TYPE_CHECKING:
    from mlflow import MlflowClient


TIMING = ("throughput/", "system/")
"""Beginnings of metrics that tell the time or the machine's load, which no run has twice."""
ANSWER_COLUMNS = ("id", "target", "prediction")
NUMBER_COLUMNS = ("score", "loss")

History: TypeAlias = list[tuple[int, float]]
"""(step, value) in the order of the steps."""


HEAD = ("metric", "then", "now", "equal")


@dataclass(frozen=True)
class MetricPair:
    """A metric of both runs."""

    name: str
    then: History
    now: History

    @property
    def first_difference(self) -> int | None:
        """The first step at which the runs have other values, or only one has any; None when all are equal."""
        for one, other in zip(self.then, self.now, strict=False):
            if one[0] != other[0] or not _is_equal(one[1], other[1]):
                return min(one[0], other[0])
        shorter, longer = sorted((self.then, self.now), key=len)
        return longer[len(shorter)][0] if len(longer) > len(shorter) else None


class PredictionPair(NamedTuple):
    """What both runs answered on the test data."""

    num_rows: int
    num_different: int
    """Rows with another target or answer, and rows that only one of the runs has."""
    largest_differences: Mapping[str, float]
    """Of score and loss, where they are not equal."""


@dataclass(frozen=True)
class Outcome:
    """How equal two runs are."""

    metrics: list[MetricPair]
    predictions: PredictionPair

    @property
    def differing(self) -> dict[str, int]:
        """Metrics that are not equal, with the first step at which they are not."""
        found = {pair.name: pair.first_difference for pair in self.metrics}
        return {name: step for name, step in found.items() if step is not None}

    @property
    def is_equal(self) -> bool:
        return not (self.differing or self.predictions.num_different or self.predictions.largest_differences)


def compare(client: "MlflowClient", run_ids: tuple[str, str], tables: tuple[pa.Table, pa.Table]) -> Outcome:
    """Compare two runs of a store, and the tables of their predictions."""
    names = sorted({name for run_id in run_ids for name in client.get_run(run_id).data.metrics})
    pairs = [
        MetricPair(name, *(history(client, run_id, name) for run_id in run_ids))
        for name in names
        if not name.startswith(TIMING)
    ]
    return Outcome(pairs, compare_predictions(*tables))


def history(client: "MlflowClient", run_id: str, name: str) -> History:
    """Return every point of a metric of a run."""
    points = sorted(client.get_metric_history(run_id, name), key=lambda point: (point.step, point.timestamp))
    return [(point.step, point.value) for point in points]


def compare_predictions(then: pa.Table, now: pa.Table) -> PredictionPair:
    """Compare answers row by row, and the numbers beside them."""
    common = min(len(then), len(now))
    one, other = then.slice(0, common).to_pydict(), now.slice(0, common).to_pydict()
    answers = [[table.get(name, [None] * common) for name in ANSWER_COLUMNS] for table in (one, other)]
    rows = zip(*(zip(*columns, strict=True) for columns in answers), strict=True)
    differing = sum(first != second for first, second in rows) + abs(len(then) - len(now))
    largest = {
        name: _largest_difference(one[name], other[name])
        for name in NUMBER_COLUMNS
        if {name} <= one.keys() & other.keys()
    }
    return PredictionPair(
        max(len(then), len(now)), differing, {name: value for name, value in largest.items() if value}
    )


def _largest_difference(then: list[float], now: list[float]) -> float:
    pairs = zip(then, now, strict=True)
    found = [abs(one - other) for one, other in pairs if not _is_equal(one, other)]
    return max((math.inf if math.isnan(value) else value for value in found), default=0.0)


def _is_equal(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))


def table(outcome: Outcome) -> str:
    """Return a line for each metric, with its last value then and now, and one for the predictions."""
    return "\n".join(aligned([HEAD, *map(_metric_row, outcome.metrics), _prediction_row(outcome.predictions)]))


def in_few_words(outcome: Outcome) -> str:
    """Return `equal`, or what is not: `train/loss from step 3, 4 other metrics, 2 of 11 predictions`."""
    names, predictions = outcome.differing, outcome.predictions
    found = [f"train/loss from step {names['train/loss']}"] if "train/loss" in names else []
    if others := len(names.keys() - {"train/loss"}):
        found.append(f"{others} {'other ' if found else ''}metric{'s' if others > 1 else ''}")
    if predictions.num_different:
        found.append(f"{predictions.num_different} of {predictions.num_rows} predictions")
    else:
        numbers = predictions.largest_differences.items()
        found += [f"the predictions' {name} by up to {most:.1g}" for name, most in numbers]
    return ", ".join(found) or "equal"


def _metric_row(pair: MetricPair) -> tuple[str, ...]:
    step = pair.first_difference
    is_curve = max(len(pair.then), len(pair.now)) > 1
    verdict = "yes" if step is None else f"no, from step {step}" if is_curve else "no"
    return (pair.name, *_last_values(pair.then, pair.now), verdict)


def _last_values(then: History, now: History) -> tuple[str, str]:
    """In as many digits as it takes to tell them apart."""
    one, other = then[-1][1] if then else None, now[-1][1] if now else None
    short = ["-" if value is None else f"{value:.6g}" for value in (one, other)]
    if short[0] == short[1] and one != other:
        short = [repr(one), repr(other)]
    return short[0], short[1]


def _prediction_row(pair: PredictionPair) -> tuple[str, ...]:
    found = [f"{pair.num_different} differ"] if pair.num_different else []
    found += [f"{name} by up to {most:.1g}" for name, most in pair.largest_differences.items()]
    return ("predictions", f"{pair.num_rows} rows", "", f"no, {', '.join(found)}" if found else "yes")
