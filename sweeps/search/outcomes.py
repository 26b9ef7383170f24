"""Outcomes of a study's trials, each counted once however often it was interrupted, and the log of their ends."""

import logging
import math
import statistics
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FixedTrial, FrozenTrial, TrialState

from lightrail.project.configuration import Configuration
from lightrail.project.tracking.run import TrackedRun
from lightrail.sweeps.search.definition import Sweep
from lightrail.sweeps.search.study import FAILURE, HALVED, REPORTS, RUNS, WARM_START, finished, is_finished, origin
from lightrail.sweeps.search.worker import best_of, with_half_batches

ENDS = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """A trial with its values and duration, by the number under which it first started."""

    number: int
    trial: FrozenTrial
    """Its last attempt in Optuna's study."""
    values: Sequence[float]
    """Mean of each optimized metric over the seeds; of an incomplete trial the best that it has reported, empty if
    nothing."""
    seconds: float | None
    """Sum of the durations of all attempts; None while it has not ended."""

    @property
    def state(self) -> str:
        """State of the trial: complete, pruned, fail, running, waiting, or interrupted."""
        if self.trial.state == TrialState.FAIL and not is_finished(self.trial):
            return "interrupted"
        return self.trial.state.name.lower()

    @property
    def is_complete(self) -> bool:
        """Whether it was trained to the end."""
        return self.trial.state == TrialState.COMPLETE

    @property
    def settings(self) -> Mapping[str, Any]:
        """Values that the sampler chose, by the labels of the space."""
        return dict(self.trial.params)

    @property
    def runs(self) -> Mapping[int, str]:
        """MLflow runs by seed."""
        runs = self.trial.user_attrs.get(RUNS, {})
        return {int(seed): run_id for seed, run_id in runs.items() if run_id is not None}

    @property
    def last_step(self) -> int | None:
        """Optimizer step of the last validation."""
        steps = [int(step) for own in self.trial.user_attrs.get(REPORTS, {}).values() for step in own]
        return max(steps, default=None)

    @property
    def is_halved(self) -> bool:
        """Whether it was trained with half the batch size of its settings, for want of memory."""
        return bool(self.trial.user_attrs.get(HALVED, False))

    @property
    def failure(self) -> str:
        """Reason of a failed trial, "" for any other."""
        return str(self.trial.user_attrs.get(FAILURE, {}).get("reason", ""))


def outcomes_of(study: optuna.Study, sweep: Sweep) -> list[Outcome]:
    """Return the outcome of every started or waiting trial of a study, by number."""
    parts: dict[int, list[FrozenTrial]] = {}
    for trial in study.get_trials(deepcopy=False):
        if WARM_START not in trial.user_attrs:  # those belong to another sweep, and are there for the sampler alone
            parts.setdefault(origin(trial), []).append(trial)
    return [_outcome(number, own, sweep) for number, own in sorted(parts.items())]


def counts_of(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """Count the trials by final state: complete, pruned, fail."""
    states = Counter(own.state for own in outcomes)
    return {state.name.lower(): states[state.name.lower()] for state in ENDS}


def ranked(outcomes: Sequence[Outcome], sweep: Sweep) -> list[Outcome]:
    """Sort the complete trials from best to worst by the first metric; of two equal ones the earlier comes first."""
    sign = -1 if sweep.config.directions[0] == "maximize" else 1
    complete = [own for own in outcomes if own.is_complete]
    return sorted(complete, key=lambda own: (sign * own.values[0], own.number))


def best_outcomes(outcomes: Sequence[Outcome], sweep: Sweep) -> list[Outcome]:
    """Return the best trial; for several metrics the Pareto front, sorted by the first metric.

    Of trials with equal values only the earliest is returned.
    """
    order = ranked(outcomes, sweep)
    if len(sweep.config.metrics) == 1:
        return order[:1]
    front: list[Outcome] = []
    for own in order:
        points = [_costs(other, sweep) for other in order if tuple(other.values) != tuple(own.values)]
        is_known = any(tuple(other.values) == tuple(own.values) for other in front)
        if not is_known and not any(_dominates(point, _costs(own, sweep)) for point in points):
            front.append(own)
    return front


def configuration_of(outcome: Outcome, sweep: Sweep, seed: int | None = None) -> Configuration:
    """Return the complete configuration of a trial, with its own first seed or another one."""
    settings = sweep.space.suggest(FixedTrial(dict(outcome.settings)))
    configuration = sweep.configuration(settings, sweep.seeds[0] if seed is None else seed)
    return with_half_batches(configuration) if outcome.is_halved else configuration


def figures_of(outcomes: Sequence[Outcome], sweep: Sweep) -> dict[str, float]:
    """Return the metrics of the study's run: `best/METRIC`, each by itself, and `trials/STATE`."""
    figures: dict[str, float] = {}
    complete = [own for own in outcomes if own.is_complete]
    for place, (name, direction) in enumerate(zip(sweep.config.metrics, sweep.config.directions, strict=True)):
        if complete:
            choose = max if direction == "maximize" else min
            figures[f"best/{name.removeprefix('val/')}"] = choose(own.values[place] for own in complete)
    return figures | {f"trials/{state}": float(number) for state, number in counts_of(outcomes).items()}


def _outcome(number: int, parts: Sequence[FrozenTrial], sweep: Sweep) -> Outcome:
    last = max(parts, key=lambda trial: trial.number)
    durations = [trial.duration.total_seconds() for trial in parts if trial.duration is not None]
    has_ended = last.state.is_finished() and last.duration is not None
    return Outcome(number, last, _values(last, sweep), sum(durations) if has_ended else None)


def _values(trial: FrozenTrial, sweep: Sweep) -> list[float]:
    if trial.state == TrialState.COMPLETE:
        return list(trial.values)
    each = [best_of(reports, sweep) for reports in trial.user_attrs.get(REPORTS, {}).values() if reports]
    return [statistics.fmean(own) for own in zip(*each, strict=True)]


def _costs(outcome: Outcome, sweep: Sweep) -> tuple[float, ...]:
    """A trial's values, negated where higher is better."""
    pairs = zip(outcome.values, sweep.config.directions, strict=True)
    return tuple(-value if direction == "maximize" else value for value, direction in pairs)


def _dominates(costs: Sequence[float], other: Sequence[float]) -> bool:
    return all(one <= two for one, two in zip(costs, other, strict=True)) and math.dist(costs, other) > 0


class Progress:
    """Logs each trial that ends, and the study's metrics in its run.

    Args:
        parent: the study's run; None if another process owns it.
    """

    def __init__(self, sweep: Sweep, parent: TrackedRun | None) -> None:
        self.sweep, self.parent = sweep, parent
        self._logging = threading.Lock()

    def ended(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Log a trial that has ended."""
        with self._logging:
            done = finished(study)
            wanted = self.sweep.config.n_trials
            log.info("trial %d %s; %d of %d", origin(trial), _result(trial, self.sweep), len(done), wanted)
            if self.parent is None:
                return
            figures = figures_of(outcomes_of(study, self.sweep), self.sweep)
            self.parent.logger.log_metrics(figures, step=len(done))


def _result(trial: FrozenTrial, sweep: Sweep) -> str:
    if trial.state == TrialState.COMPLETE:
        values = ", ".join(
            f"{name}={value:.4f}" for name, value in zip(sweep.config.metrics, trial.values, strict=True)
        )
        return f"finished: {values}"
    if trial.state == TrialState.PRUNED:
        unit = "seeds" if sweep.compares_seeds else "validations"
        return f"pruned after {len(trial.intermediate_values)} {unit}"
    return f"failed: {trial.user_attrs[FAILURE]['reason']}"
