"""Metrics of runs with confidence intervals, and differences to the first run with intervals and p values.

Shapes: N examples, K runs of all sides, S statistics of a score, R resamples.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np

from lightrail.lightning_modules.metrics.scores import Columns, Score, StoredScore, Values
from lightrail.project.comparing.significance import (
    Spread,
    bootstrap_sums,
    holm,
    mcnemar,
    share_as_large,
    student_interval,
    student_p,
    swapped_sums,
)

CONFIDENCE = 0.95
SIGNIFICANCE = 0.05
NUM_RESAMPLES = 2_000
LEAST_SWAPS = 10_000
SEED = 0
"""Seed of the resampling: the same comparison gives the same numbers."""

Side: TypeAlias = Sequence[Columns]
"""The predictions of one run, or of several that differ only in their seed, for the same examples."""
Test: TypeAlias = Literal["McNemar", "randomization", "Student"]


@dataclass(frozen=True)
class Estimate:
    """A metric of one side, the mean over its runs, with its interval; NaN for a metric without one."""

    value: float
    low: float
    high: float
    deviation: float | None
    """Sample standard deviation over the runs; None for a single run."""


@dataclass(frozen=True)
class Difference:
    """The difference of a metric between one side and the first side, with its interval and p value."""

    metric: str
    side: int
    value: float
    low: float
    high: float
    test: Test | None
    """None for a metric that was not tested: its p values are NaN."""
    p: float
    corrected_p: float
    higher_is_better: bool

    @property
    def is_shown(self) -> bool:
        """Whether the difference is significant."""
        return self.corrected_p < SIGNIFICANCE

    @property
    def verdict(self) -> Literal["different", "no difference shown", "not tested"]:
        """The result of the test, in words."""
        if self.test is None:
            return "not tested"
        return "different" if self.is_shown else "no difference shown"

    @property
    def is_better(self) -> bool:
        """Whether the side is better than the first one, significantly or not."""
        return self.value > 0 if self.higher_is_better else self.value < 0


@dataclass(frozen=True)
class Measured:
    """The estimates and the differences of a comparison."""

    estimates: Mapping[str, Sequence[Estimate]]
    """Estimates by metric, one per side."""
    differences: Sequence[Difference]
    """Differences by metric, one per side except the first."""
    repeated: Mapping[str, str]
    """Metrics that give the number of an earlier one on every resample, such as micro F1 and accuracy of examples with
    one label each; they have neither estimates nor differences."""


def measure(
    sides: Sequence[Side],
    scores: Mapping[str, StoredScore],
    num_resamples: int = NUM_RESAMPLES,
    num_swaps: int = LEAST_SWAPS,
    seed: int = SEED,
    tested: Collection[str] | None = None,
) -> Measured:
    """Compare all sides with the first one, by every score, and test the differences of some.

    Each further test costs the others significance: p values are corrected for the number of tests.

    A single run's intervals are percentiles of the bootstrap, paired for differences. Where a side has several runs,
    the variance of their mean is that over examples (bootstrap) plus that over seeds (s^2 / K), and intervals and
    p values are Student's. The effect of a seed on single examples is counted twice: the error is on the safe side.

    A metric that is no function of sums over examples, such as an area under a curve, has neither intervals nor tests.

    Args:
        tested: names of the scores whose differences are tested; None for all. Of others, those that repeat the number
            of an earlier one are left out.
    """
    sums = {name: score for name, score in scores.items() if isinstance(score, Score)}
    with np.errstate(invalid="ignore"):  # a NaN loss makes its metric undefined, and no other
        metrics = _metrics(sides, sums, num_resamples, seed)
        repeated = {} if tested is None else _repeated(metrics, tested)
        metrics = [metric for metric in metrics if metric.name not in repeated]
        places = _places(sides)
        estimates = {metric.name: [_estimate(metric, place) for place in places] for metric in metrics}
        for name in scores.keys() - sums.keys():
            estimates[name] = [_plain_estimate(scores[name], side) for side in sides]
        differences = _differences(metrics, places, sums if tested is None else tested, num_swaps, seed)
    return Measured({name: estimates[name] for name in scores if name in estimates}, differences, repeated)


@dataclass(frozen=True)
class _Metric:
    """A metric of all runs of all sides."""

    name: str
    score: Score
    statistics: Values
    """[N, K, S]"""
    values: Values
    """Values on all examples, [K]."""
    resampled: Values
    """Values on resampled examples, [R, K]."""

    def mean(self, place: slice) -> float:
        return float(self.values[place].mean())

    def over_seeds(self, place: slice) -> list[Spread]:
        """Return the variance of the mean over runs that is due to their seeds; [] for a single run."""
        values = self.values[place]
        if len(values) == 1:
            return []
        return [Spread(float(values.var(ddof=1)) / len(values), len(values) - 1)]

    def over_examples(self, resampled: Values) -> Spread:
        return Spread(float(resampled.var(ddof=1)), max(1, len(self.statistics) - 1))


def _metrics(sides: Sequence[Side], scores: Mapping[str, Score], num_resamples: int, seed: int) -> list[_Metric]:
    runs = [columns for side in sides for columns in side]
    statistics = [np.stack([score.statistics(run) for run in runs], axis=1) for score in scores.values()]
    resampled = _values(scores.values(), statistics, bootstrap_sums(_side_by_side(statistics), num_resamples, seed))
    return [
        _Metric(name, score, own, score.value(own.sum(0)), values)
        for (name, score), own, values in zip(scores.items(), statistics, resampled, strict=True)
    ]


def _repeated(metrics: Sequence[_Metric], tested: Collection[str]) -> dict[str, str]:
    """Return the untested metrics that repeat another one, by its name."""
    found: dict[str, str] = {}
    for place, metric in enumerate(metrics):
        for earlier in metrics[:place] if metric.name not in tested else ():
            is_same = np.allclose(metric.resampled, earlier.resampled, rtol=0, atol=1e-12, equal_nan=True)
            if is_same and np.nanstd(metric.resampled) > 0:  # all of them may be 1 where every example is right
                found.setdefault(metric.name, earlier.name)
    return found


def _differences(
    metrics: Sequence[_Metric], places: Sequence[slice], tested: Collection[str], num_swaps: int, seed: int
) -> list[Difference]:
    """Compute the differences, metric by metric, with p values of those tested, corrected for their number."""
    found = []
    for side in range(1, len(places)):
        pair = places[0], places[side]
        own = [metric for metric in metrics if metric.name in tested]
        p_values = dict(zip([metric.name for metric in own], _p_values(own, *pair, num_swaps, seed), strict=True))
        untested: tuple[None, float] = None, float("nan")
        found += [_difference(metric, side, *pair, *p_values.get(metric.name, untested)) for metric in metrics]
    order = [metric.name for metric in metrics]
    found.sort(key=lambda difference: order.index(difference.metric))
    corrected = holm([difference.p for difference in found])
    return [replace(difference, corrected_p=p) for difference, p in zip(found, corrected, strict=True)]


def _places(sides: Sequence[Side]) -> list[slice]:
    """Return the slice of all runs that belongs to each side."""
    ends = np.cumsum([len(side) for side in sides]).tolist()
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def _estimate(metric: _Metric, place: slice) -> Estimate:
    value, resampled, over_seeds = metric.mean(place), metric.resampled[:, place].mean(1), metric.over_seeds(place)
    low, high = _interval(metric, value, resampled, over_seeds)
    deviation = float(metric.values[place].std(ddof=1)) if over_seeds else None
    return Estimate(value, low, high, deviation)


def _plain_estimate(score: StoredScore, side: Side) -> Estimate:
    values = np.array([score.of(columns) for columns in side])
    deviation = float(values.std(ddof=1)) if len(values) > 1 else None
    return Estimate(float(values.mean()), np.nan, np.nan, deviation)


def _difference(metric: _Metric, side: int, first: slice, own: slice, test: Test | None, p: float | None) -> Difference:
    """Compute the difference to the first side, with `p` as given or, for None, from Student's t."""
    value = metric.mean(own) - metric.mean(first)
    resampled = metric.resampled[:, own].mean(1) - metric.resampled[:, first].mean(1)
    over_seeds = [*metric.over_seeds(first), *metric.over_seeds(own)]
    if p is None:
        p = student_p(value, [metric.over_examples(resampled), *over_seeds])
    low, high = _interval(metric, value, resampled, over_seeds)
    return Difference(metric.name, side, value, low, high, test, p, p, metric.score.higher_is_better)


def _interval(metric: _Metric, value: float, resampled: Values, over_seeds: list[Spread]) -> tuple[float, float]:
    if over_seeds:
        return student_interval(value, [metric.over_examples(resampled), *over_seeds], CONFIDENCE)
    defined = resampled[np.isfinite(resampled)]
    if not np.isfinite(value) or not defined.size:
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def _p_values(
    metrics: Sequence[_Metric], first: slice, own: slice, num_swaps: int, seed: int
) -> list[tuple[Test, float | None]]:
    """Return the test and the p value of each metric; None as p value for Student's test."""
    if own.stop - own.start > 1 or first.stop - first.start > 1:
        return [("Student", None) for _ in metrics]
    by_swaps = [metric for metric in metrics if not metric.score.is_binary]
    swapped = dict(
        zip([metric.name for metric in by_swaps], _swap_p_values(by_swaps, first, own, num_swaps, seed), strict=True)
    )
    found: list[tuple[Test, float | None]] = []
    for metric in metrics:
        if metric.score.is_binary:
            is_right = metric.statistics[:, :, 0]
            found.append(("McNemar", mcnemar(is_right[:, first.start], is_right[:, own.start])))
        else:
            found.append(("randomization", swapped[metric.name]))
    return found


def _swap_p_values(metrics: Sequence[_Metric], first: slice, own: slice, num_swaps: int, seed: int) -> list[float]:
    """Compute p values of two single runs by approximate randomization, with the same swaps for all metrics."""
    if not metrics:
        return []
    scores = [metric.score for metric in metrics]
    pairs = [metric.statistics[:, [first.start, own.start]] for metric in metrics]  # [N, 2, S]
    totals = [pair.sum(0) for pair in pairs]  # [2, S]
    # Swapping an example adds this to the sums of the first run and subtracts it from those of the other.
    given = [np.stack([pair[:, 1] - pair[:, 0], pair[:, 0] - pair[:, 1]], axis=1) for pair in pairs]
    values = _values(scores, given, swapped_sums(_side_by_side(given), num_swaps, seed), totals)  # [R, 2]
    return [
        share_as_large(float(np.subtract(*score.value(total))), both[:, 1] - both[:, 0])
        for score, total, both in zip(scores, totals, values, strict=True)
    ]


def _side_by_side(statistics: Sequence[Values]) -> Values:
    """Concatenate the statistics of all scores, [N, K, S] each, to [N, all K S]."""
    return np.concatenate([own.reshape(len(own), -1) for own in statistics], axis=1)


def _values(
    scores: Collection[Score], statistics: Sequence[Values], parts: Iterator[Values], totals: Sequence[Values] = ()
) -> list[Values]:
    """Compute the values of each score for all parts, [R, K].

    Args:
        parts: sums over the concatenated `statistics`.
        totals: sums to add for each score, [K, S].
    """
    shapes = [own.shape[1:] for own in statistics]
    ends = np.cumsum([np.prod(shape) for shape in shapes])[:-1]
    added = list(totals) or [np.zeros(shape) for shape in shapes]
    rows = [
        [
            score.value(own.reshape(-1, *shape) + total)
            for score, own, shape, total in zip(scores, np.split(sums, ends, axis=1), shapes, added, strict=True)
        ]
        for sums in parts
    ]
    return [np.concatenate(own) for own in zip(*rows, strict=True)]
