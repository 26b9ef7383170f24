"""Comparison of a reproduction with the original run: every point of each metric, every prediction, and the verdict."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import pyarrow as pa

from lightrail.project.basics.tables import aligned
from lightrail.project.tracking.lookup import metric_history

if TYPE_CHECKING:
    from mlflow import MlflowClient


TIMING = ("throughput/", "system/")
"""Prefixes of metrics of time or machine load, which differ in every run."""
COMPARED_COLUMNS = ("id", "target", "prediction")
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
        """The first step at which the runs have different values, or only one has a value; None when all are equal."""
        for one, other in zip(self.then, self.now, strict=False):
            if one[0] != other[0] or not _is_equal(one[1], other[1]):
                return min(one[0], other[0])
        shorter, longer = sorted((self.then, self.now), key=len)
        return longer[len(shorter)][0] if len(longer) > len(shorter) else None


class PredictionPair(NamedTuple):
    """Differences between the test predictions of both runs."""

    num_rows: int
    num_different: int
    """Number of rows with another target or prediction, or that only one of the runs has."""
    largest_differences: Mapping[str, float]
    """Largest differences of score and loss, where they are not equal."""


@dataclass(frozen=True)
class Outcome:
    """The result of comparing two runs."""

    metrics: list[MetricPair]
    predictions: PredictionPair

    @property
    def differing(self) -> dict[str, int]:
        """The metrics that differ, each with the first step at which it does."""
        found = {pair.name: pair.first_difference for pair in self.metrics}
        return {name: step for name, step in found.items() if step is not None}

    @property
    def is_equal(self) -> bool:
        """Whether all metrics and predictions are equal."""
        return not (self.differing or self.predictions.num_different or self.predictions.largest_differences)


def compare(client: "MlflowClient", run_ids: tuple[str, str], tables: tuple[pa.Table, pa.Table]) -> Outcome:
    """Compare the metrics of two runs of a store, and the tables of their predictions."""
    names = sorted({name for run_id in run_ids for name in client.get_run(run_id).data.metrics})
    pairs = [
        MetricPair(name, *(history(client, run_id, name) for run_id in run_ids))
        for name in names
        if not name.startswith(TIMING)
    ]
    return Outcome(pairs, compare_predictions(*tables))


def history(client: "MlflowClient", run_id: str, name: str) -> History:
    """Return all points of a metric of a run, by step."""
    points = sorted(metric_history(client, run_id, name), key=lambda point: (point.step, point.timestamp))
    return [(point.step, point.value) for point in points]


def compare_predictions(then: pa.Table, now: pa.Table) -> PredictionPair:
    """Compare predictions row by row, with their scores and losses."""
    common = min(len(then), len(now))
    one, other = then.slice(0, common).to_pydict(), now.slice(0, common).to_pydict()
    compared = [[table.get(name, [None] * common) for name in COMPARED_COLUMNS] for table in (one, other)]
    rows = zip(*(zip(*columns, strict=True) for columns in compared), strict=True)
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
    """Format a line for each metric, with its last values in both runs, and one for the predictions."""
    return "\n".join(aligned([HEAD, *map(_metric_row, outcome.metrics), _prediction_row(outcome.predictions)]))


def in_few_words(outcome: Outcome) -> str:
    """Return `equal`, or the differences: `train/loss from step 3, 4 other metrics, 2 of 11 predictions`."""
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
    """Format the last values of both runs, with all digits where six would be equal."""
    one, other = then[-1][1] if then else None, now[-1][1] if now else None
    short = ["-" if value is None else f"{value:.6g}" for value in (one, other)]
    if short[0] == short[1] and one != other:
        short = [repr(one), repr(other)]
    return short[0], short[1]


def _prediction_row(pair: PredictionPair) -> tuple[str, ...]:
    found = [f"{pair.num_different} differ"] if pair.num_different else []
    found += [f"{name} by up to {most:.1g}" for name, most in pair.largest_differences.items()]
    return ("predictions", f"{pair.num_rows} rows", "", f"no, {', '.join(found)}" if found else "yes")
