"""Evidence for a winner: the best configurations trained again with fresh seeds, and compared seed by seed.

The best of many trials is partly the luckiest. Values of fresh seeds had no part in the choice, so that their mean is
unbiased; and all configurations share the seeds, so that differences are paired.
"""

import csv
import logging
import queue
import statistics
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import optuna

from lightrail.project.comparing.significance import Spread, student_interval
from lightrail.project.configuration import Configuration
from lightrail.project.configuration.configuration import LARGEST_SEED
from lightrail.sweeps.search.definition import Sweep
from lightrail.sweeps.search.outcomes import Outcome, configuration_of, outcomes_of, ranked
from lightrail.sweeps.search.worker import Interrupted, Reports, TrialFailed, best_of

log = logging.getLogger(__name__)

CONFIDENCE = 0.95
MOST_ATTEMPTS = 3
"""Maximum number of attempts of a training whose process is ended from outside."""
CONFIRMED = "confirm"
"""Prefix of the attributes of a study that hold one training each: `confirm:TRIAL:SEED`."""
CONFIRM_TAG = "lightrail.confirm"
"""Tag of the MLflow run of such a training."""


class Train(Protocol):
    """Trains a configuration on devices of its own, from the start or from the checkpoint of an earlier attempt."""

    def __call__(
        self,
        configuration: Configuration,
        *,
        name: str,
        tags: Mapping[str, str],
        run_id: str | None,
        began: Callable[[str], None],
    ) -> Reports:
        """Train, and return the validations; arguments and exceptions are those of `Worker.train_again`."""
        ...


@dataclass(frozen=True)
class Difference:
    """Difference of the first confirmed trial to another, positive if better: mean over seeds, and its interval."""

    other: int
    mean: float
    low: float
    high: float

    @property
    def is_shown(self) -> bool:
        """Whether the first trial is significantly better: the interval is above 0."""
        return self.low > 0


@dataclass(frozen=True)
class Confirmation:
    """Results of training the best configurations with fresh seeds."""

    metric: str
    values: Mapping[int, Mapping[int, float]]
    """Values by trial and seed, the trial with the best mean first."""
    differences: Sequence[Difference]
    """Differences of the first trial to each other one."""
    failures: Mapping[int, str]
    """Reasons by trial, of trials that have no values."""

    @property
    def order(self) -> list[int]:
        """Numbers of the trials, the best mean first."""
        return list(self.values)

    @property
    def winner(self) -> int | None:
        """The trial that is significantly better than every other one; None for a tie, or without another trial."""
        is_shown = bool(self.differences) and all(own.is_shown for own in self.differences)
        return self.order[0] if is_shown else None

    def mean(self, trial: int) -> float:
        """Mean of a trial's values over the seeds."""
        return statistics.fmean(self.values[trial].values())

    def deviation(self, trial: int) -> float:
        """Sample standard deviation of a trial's values over the seeds."""
        return statistics.stdev(self.values[trial].values())

    @property
    def verdict(self) -> str:
        """The result in one sentence, with its evidence."""
        if not self.values:
            return f"No winner: none of the best trials could be trained again.{self._failed}"
        first = self.order[0]
        seeds = len(self.values[first])
        measured = f"{self.metric} {self.mean(first):.4f} ± {self.deviation(first):.4f} over {seeds} fresh seeds"
        if not self.differences:
            return f"Trial {first} has {measured}; nothing was trained again to compare it with.{self._failed}"
        closest = min(self.differences, key=lambda own: own.low)
        evidence = (
            f"it is better than trial {closest.other} by {closest.mean:.4f} on average, "
            f"95 % interval [{closest.low:.4f}, {closest.high:.4f}]"
        )
        if self.winner is not None:
            return f"Trial {first} is the winner: {measured}; {evidence}.{self._failed}"
        tied = ", ".join(str(own.other) for own in self.differences if not own.is_shown)
        return f"No winner: trial {first} ties with {tied}. It has {measured}; {evidence}.{self._failed}"

    @property
    def _failed(self) -> str:
        return "".join(f" But trial {own} could not be trained again: {why}." for own, why in self.failures.items())


def confirm(study: optuna.Study, sweep: Sweep, trainers: Sequence[Train], is_stopping: threading.Event) -> None:
    """Train the best configurations again with fresh seeds, one at a time for each trainer.

    Completed trainings are not repeated, and interrupted ones are resumed.

    Args:
        is_stopping: set when the trainers are to stop.

    Raises: Interrupted when a training was interrupted.
    """
    idle: queue.SimpleQueue[Train] = queue.SimpleQueue()
    for trainer in trainers:
        idle.put(trainer)

    def train(outcome: Outcome, seed: int) -> None:
        if is_stopping.is_set():
            return
        own = idle.get()
        try:
            _train(study, sweep, own, is_stopping, outcome, seed)
        finally:
            idle.put(own)

    jobs = [(outcome, seed) for seed in fresh_seeds(sweep) for outcome in contenders(study, sweep)]
    waiting = [(outcome, seed) for outcome, seed in jobs if not _is_done(study, outcome.number, seed)]
    if waiting:
        log.info("confirming the best trials by %d trainings with fresh seeds (--confirm 0: none)", len(waiting))
    with ThreadPoolExecutor(len(trainers)) as executor:
        futures = [executor.submit(train, outcome, seed) for outcome, seed in waiting]
        wait(futures, return_when=FIRST_EXCEPTION)
        executor.shutdown(cancel_futures=True)
    for future in futures:
        if not future.cancelled():
            future.result()


def confirmation_of(study: optuna.Study, sweep: Sweep) -> Confirmation | None:
    """Return the results of the trainings with fresh seeds; None before all of them are done."""
    seeds = fresh_seeds(sweep)
    numbers = [own.number for own in contenders(study, sweep)]
    if not numbers or not all(_is_done(study, number, seed) for number in numbers for seed in seeds):
        return None
    stored = {number: {seed: study.user_attrs[_key(number, seed)] for seed in seeds} for number in numbers}
    failures = {
        number: next(one["failure"] for one in own.values() if "failure" in one)
        for number, own in stored.items()
        if any("failure" in one for one in own.values())
    }
    values = {
        number: {seed: float(one["values"][0]) for seed, one in own.items()}
        for number, own in stored.items()
        if number not in failures
    }
    return compare(sweep.config.metrics[0], sweep.config.directions[0] == "maximize", values, failures)


def compare(
    metric: str, higher_is_better: bool, values: Mapping[int, Mapping[int, float]], failures: Mapping[int, str]
) -> Confirmation:
    """Order trials by their mean, and compare the first with each other one by Student's paired t over the seeds.

    Args:
        values: values by trial and seed; all trials have the same seeds, at least two.
    """
    sign = 1 if higher_is_better else -1
    order = sorted(values, key=lambda number: -sign * statistics.fmean(values[number].values()))
    differences = []
    for other in order[1:]:
        pairs = [sign * (value - values[other][seed]) for seed, value in values[order[0]].items()]
        mean, spread = statistics.fmean(pairs), Spread(statistics.variance(pairs) / len(pairs), len(pairs) - 1)
        differences.append(Difference(other, mean, *student_interval(mean, [spread], CONFIDENCE)))
    return Confirmation(metric, {number: values[number] for number in order}, differences, failures)


def write_confirmation(confirmation: Confirmation, path: Path) -> None:
    """Write a confirmation as CSV: a row for each training."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["trial", "seed", confirmation.metric])
        for trial, values in confirmation.values.items():
            table.writerows([trial, seed, value] for seed, value in values.items())


def announcement(sweep: Sweep) -> str:
    """Say what confirming will cost; "" where nothing is confirmed."""
    top, seeds = sweep.config.num_confirmed, sweep.config.confirm.seeds
    if not top:
        return ""
    again = f"the best {'trial is' if top == 1 else f'{top} trials are'} trained again with {seeds} fresh seeds"
    return f"after the trials {again}: {top * seeds} trainings; --confirm 0: none"


def contenders(study: optuna.Study, sweep: Sweep) -> list[Outcome]:
    """Return the trials to confirm, the best first."""
    return ranked(outcomes_of(study, sweep), sweep)[: sweep.config.num_confirmed]


def fresh_seeds(sweep: Sweep) -> list[int]:
    """Return seeds that no trial has: those that follow the trials' own."""
    first = sweep.seeds[-1] + 1
    return [(first + place) % (LARGEST_SEED + 1) for place in range(sweep.config.confirm.seeds)]


def _train(
    study: optuna.Study, sweep: Sweep, train: Train, is_stopping: threading.Event, outcome: Outcome, seed: int
) -> None:
    """Train once, resuming when the process is ended from outside, and store values or failure in the study."""
    key = _key(outcome.number, seed)
    state = {"run": study.user_attrs.get(key, {}).get("run")}

    def began(run_id: str) -> None:
        state["run"] = run_id
        study.set_user_attr(key, dict(state))

    configuration = configuration_of(outcome, sweep, seed)
    name = f"trial {outcome.number} confirm seed {seed}"
    tags = {"lightrail.trial": str(outcome.number), CONFIRM_TAG: "true"}
    for attempt in range(1, MOST_ATTEMPTS + 1):
        try:
            values = best_of(train(configuration, name=name, tags=tags, run_id=state["run"], began=began), sweep)
        except (TrialFailed, Interrupted) as error:
            if is_stopping.is_set():
                raise
            log.warning("%s, attempt %d: %s", name, attempt, error)
            if isinstance(error, Interrupted) and attempt < MOST_ATTEMPTS:
                continue
            study.set_user_attr(key, {**state, "failure": str(error)})
        else:
            log.info("%s: %s=%.4f", name, sweep.config.metrics[0], values[0])
            study.set_user_attr(key, {**state, "values": values})
        return


def _is_done(study: optuna.Study, number: int, seed: int) -> bool:
    return not {"values", "failure"}.isdisjoint(study.user_attrs.get(_key(number, seed), {}))


def _key(number: int, seed: int) -> str:
    return f"{CONFIRMED}:{number}:{seed}"
