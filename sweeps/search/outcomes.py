"""What came of the trials of a study, each counted once however often it was interrupted, and told when it ends."""

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
    """One trial, by the number under which it began."""

    number: int
    trial: FrozenTrial
    """The last one that Optuna knows of it."""
    values: Sequence[float]
    """Each metric that trials are judged by, the mean over the seeds; of a trial that is not complete the best it has
    reported, and none when it has reported nothing."""
    seconds: float | None
    """That it was worked on, before interruptions too; None when it has not ended."""

    @property
    def state(self) -> str:
        """In a word: complete, pruned, fail, running, waiting, or interrupted."""
        if self.trial.state == TrialState.FAIL and not is_finished(self.trial):
            return "interrupted"
        return self.trial.state.name.lower()

    @property
    def is_complete(self) -> bool:
        return self.trial.state == TrialState.COMPLETE

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the sampler chose, by the labels of the space."""
        return dict(self.trial.params)

    @property
    def runs(self) -> Mapping[int, str]:
        """Seed to MLflow run."""
        runs = self.trial.user_attrs.get(RUNS, {})
        return {int(seed): run_id for seed, run_id in runs.items() if run_id is not None}

    @property
    def last_step(self) -> int | None:
        """Optimizer step of the last validation."""
        steps = [int(step) for own in self.trial.user_attrs.get(REPORTS, {}).values() for step in own]
        return max(steps, default=None)

    @property
    def is_halved(self) -> bool:
        return bool(self.trial.user_attrs.get(HALVED, False))

    @property
    def failure(self) -> str:
        """Why it failed, "" for every other trial."""
        return str(self.trial.user_attrs.get(FAILURE, {}).get("reason", ""))


def outcomes_of(study: optuna.Study, sweep: Sweep) -> list[Outcome]:
    """Give every trial that was begun or waits, by number."""
    parts: dict[int, list[FrozenTrial]] = {}
    for trial in study.get_trials(deepcopy=False):
        if WARM_START not in trial.user_attrs:  # it is one of another sweep, that the sampler has learnt from
            parts.setdefault(origin(trial), []).append(trial)
    return [_outcome(number, own, sweep) for number, own in sorted(parts.items())]


def counts_of(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """Give how many trials have ended in each way."""
    states = Counter(own.state for own in outcomes)
    return {state.name.lower(): states[state.name.lower()] for state in ENDS}


def ranked(outcomes: Sequence[Outcome], sweep: Sweep) -> list[Outcome]:
    """Give the complete trials from the best to the worst by the first metric, the earlier of two equal ones first."""
    sign = -1 if sweep.config.directions[0] == "maximize" else 1
    complete = [own for own in outcomes if own.is_complete]
    return sorted(complete, key=lambda own: (sign * own.values[0], own.number))


def best_outcomes(outcomes: Sequence[Outcome], sweep: Sweep) -> list[Outcome]:
    """Give the best trial; for several metrics the Pareto front, best by the first metric first.

    Of trials with equal values the earliest stands for all.
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
    """Give the complete configuration of a trial, with its own first seed or another one."""
    settings = sweep.space.suggest(FixedTrial(dict(outcome.settings)))
    configuration = sweep.configuration(settings, sweep.seeds[0] if seed is None else seed)
    return with_half_batches(configuration) if outcome.is_halved else configuration


def figures_of(outcomes: Sequence[Outcome], sweep: Sweep) -> dict[str, float]:
    """Give what the study's run logs: `best/METRIC`, each by itself, and `trials/STATE`."""
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
    """Values of which less is better."""
    pairs = zip(outcome.values, sweep.config.directions, strict=True)
    return tuple(-value if direction == "maximize" else value for value, direction in pairs)


def _dominates(costs: Sequence[float], other: Sequence[float]) -> bool:
    return all(one <= two for one, two in zip(costs, other, strict=True)) and math.dist(costs, other) > 0


class Progress:
    """Tells of each trial that ends.

    Args:
        parent: the study's run; None where another machine keeps it.
    """

    def __init__(self, sweep: Sweep, parent: TrackedRun | None) -> None:
        self.sweep, self.parent = sweep, parent
        self._telling = threading.Lock()

    def ended(self, study: optuna.Study, trial: FrozenTrial) -> None:
        with self._telling:
            done = finished(study)
            wanted = self.sweep.config.n_trials
            log.info("trial %d %s; %d of %d", origin(trial), _told(trial, self.sweep), len(done), wanted)
            if self.parent is None:
                return
            figures = figures_of(outcomes_of(study, self.sweep), self.sweep)
            self.parent.logger.log_metrics(figures, step=len(done))


def _told(trial: FrozenTrial, sweep: Sweep) -> str:
    if trial.state == TrialState.COMPLETE:
        values = ", ".join(
            f"{name}={value:.4f}" for name, value in zip(sweep.config.metrics, trial.values, strict=True)
        )
        return f"finished: {values}"
    if trial.state == TrialState.PRUNED:
        what = "seeds" if sweep.compares_seeds else "validations"
        return f"was pruned after {len(trial.intermediate_values)} {what}"
    return f"failed: {trial.user_attrs[FAILURE]['reason']}"
