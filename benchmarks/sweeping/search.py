"""Time until the shipped search of the digits is as good as random search.

Random search trains all its trials to the end. The other has lightrail's default sampler and the shipped pruner; it is
as good when one of its complete trials is at least as good as the best of all random trials. Every seed of the one is
compared with every seed of the other, and no seed is shared: TPE starts as random search does, with the same seed by
the same trials. Time is that of trials alone, one after another, as with one worker; optimizer steps are the same
measurement on a machine whose speed varies.

Random search is charged in two ways: for all of its trials, since its best is known only at the end; and for those up
to its best. A search that was never as good counts as infinitely long.
"""

import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from optuna.trial import FrozenTrial, TrialState

from benchmarks.sweeping.swept import DIGITS, NO_PRUNER, RANDOM, Workplace
from lightrail.sweeps.search.definition import SAMPLER

TARGET = 0.5
Trials = Sequence[FrozenTrial]


class Cost(NamedTuple):
    """Cost of several trials together."""

    seconds: float
    steps: float
    trials: float


NEVER = Cost(math.inf, math.inf, math.inf)


def measure_search(place: Workplace, num_trials: int, seeds: int, pruner: Any) -> None:
    """Print the costs of random search and of the other.

    Args:
        pruner: replaces the shipped one; None for the shipped one.
    """
    pruner = pruner or DIGITS["pruner"]
    plain, pruned = list[Trials](), list[Trials]()
    for seed in range(seeds):
        for name, searches, values in (
            ("random", plain, {"sampler": RANDOM, "pruner": NO_PRUNER, "seed": seed}),
            ("pruned", pruned, {"sampler": SAMPLER, "pruner": pruner, "seed": seeds + seed}),
        ):
            searches.append(place.run(place.write(f"{name}-{seed}", n_trials=num_trials, **values)).trials)
    print(f"\nTime to random search's best: digits, {num_trials} trials, {seeds} seeds of each, medians of all pairs")
    print(f"pruner: {pruner}")
    print_table(plain, pruned)


def print_table(plain: Sequence[Trials], pruned: Sequence[Trials]) -> None:
    """Print the costs of random searches and of others, and their ratios."""
    bests = [_best(trials) for trials in plain]
    there = [cost_until(trials, best) for best in bests for trials in pruned]
    rows = {
        "random search, all trials": [cost(trials) for trials in plain],
        "random search, up to its best": [cost_until(*pair) for pair in zip(plain, bests, strict=True)],
        "TPE and pruner, until as good": there,
        "TPE and pruner, all trials": [cost(trials) for trials in pruned],
    }
    print(f"val/loss: random search {_listed(bests)}; TPE and pruner {_listed([_best(own) for own in pruned])}")
    print(f"{'':40}{'seconds':>9}{'steps':>8}{'trials':>8}")
    medians = {name: Cost(*map(statistics.median, zip(*costs, strict=True))) for name, costs in rows.items()}
    for name, own in medians.items():
        print(f"{name:40}{own.seconds:9.1f}{own.steps:8.0f}{own.trials:8.1f}")
    all_trials, up_to_best, until, _ = medians.values()
    for name, own, more in (
        ("all trials", all_trials, f"  (target {TARGET})"),
        ("random up to its best", up_to_best, ""),
    ):
        ratios = Cost(*(one / other for one, other in zip(until, own, strict=True)))
        print(f"{'of ' + name:40}{ratios.seconds:9.2f}{ratios.steps:8.2f}{ratios.trials:8.2f}{more}")
    print(f"{there.count(NEVER)} of {len(there)} pairs were never as good")


def cost(trials: Trials) -> Cost:
    """Compute the cost of trials that were trained one after another."""
    seconds = [trial.duration.total_seconds() for trial in trials if trial.duration is not None]
    return Cost(sum(seconds), sum(max(trial.intermediate_values) for trial in trials), len(trials))


def cost_until(trials: Trials, target: float) -> Cost:
    """Compute the cost of trials up to the first complete one with a value of at most `target`."""
    for number, trial in enumerate(trials, 1):
        if trial.state == TrialState.COMPLETE and trial.values[0] <= target:
            return cost(trials[:number])
    return NEVER


def _best(trials: Trials) -> float:
    return min(float(trial.values[0]) for trial in trials if trial.state == TrialState.COMPLETE)


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)
