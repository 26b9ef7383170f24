"""A worker of a sweep: has trials trained on its devices, and reports their results to Optuna."""

import logging
import statistics
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from lightrail.project.basics.errors import ConfigError
from lightrail.project.configuration import Configuration
from lightrail.project.tracking.lookup import metric_history
from lightrail.project.tracking.processes import PROCESS_TAG, Owner, process_tag
from lightrail.project.tracking.store import open_store, store_uri
from lightrail.sweeps.search.definition import Sweep
from lightrail.sweeps.search.space import Settings
from lightrail.sweeps.search.study import DRIVER, FAILURE, HALVED, KILLS, PROCESS, REPORTS, RUNS, origin, requeue
from lightrail.sweeps.trials.messages import HALVED_TAG, Assignment, Failed, Finished, Report, Started
from lightrail.sweeps.trials.process import TrialProcess

log = logging.getLogger(__name__)

MOST_KILLS = 3
"""How often a trial whose process was killed is resumed; it may be the one that exhausts the machine's memory."""
Reports = dict[str, dict[str, float]]
"""Optimized metrics by step, a string as JSON requires."""


class TrialFailed(Exception):  # noqa: N818 - the trial's fault, and no error of the sweep
    """The trial failed for a reason of its own, and counts as finished."""


class Interrupted(Exception):  # noqa: N818 - no error: it was requested
    """The trial's process was ended; the trial waits in the study to be resumed."""


@dataclass(frozen=True)
class Training:
    """One run of a trial, or of the confirmation of one.

    `run_id`, `has_begun` and `tests` are those of an `Assignment`.
    """

    name: str
    configuration: Configuration
    tags: dict[str, str]
    run_id: str | None = None
    has_begun: bool = False
    tests: bool = False


@dataclass
class Worker:
    """Trains one trial after another on devices of its own."""

    sweep: Sweep
    parent: str
    """MLflow run of the study."""
    devices: list[str]
    threads: int
    folder: Path
    """For the standard output and error of trials."""
    is_stopping: threading.Event
    process: TrialProcess | None = field(default=None, init=False)

    def objective(self, trial: optuna.Trial, release: Callable[[], None]) -> float | list[float]:
        """Train a trial with each seed; return the mean of each metric over them.

        Args:
            release: releases the study's lock; called when the trial's driver and settings are stored.

        Raises: optuna.TrialPruned, TrialFailed, Interrupted.
        """
        trial.set_user_attr(DRIVER, process_tag()[PROCESS_TAG])
        settings = self.sweep.space.suggest(trial)
        release()
        values: list[list[float]] = []
        for place, seed in enumerate(self.sweep.seeds):
            reports = self._train(trial, settings, seed)
            values.append(best_of(reports, self.sweep))
            if self.sweep.compares_seeds and len(values[-1]) == 1:
                self._report(trial, values[-1][0], place)
                if trial.should_prune() and place + 1 < len(self.sweep.seeds):
                    raise optuna.TrialPruned(f"after {place + 1} seeds")
        means = [statistics.fmean(own) for own in zip(*values, strict=True)]
        return means[0] if len(means) == 1 else means

    def stop(self) -> None:
        """Stop the training in progress at its next step, with a checkpoint."""
        if self.process is not None:
            self.process.stop()

    def train_again(
        self,
        configuration: Configuration,
        *,
        name: str,
        tags: Mapping[str, str],
        run_id: str | None,
        began: Callable[[str], None],
    ) -> Reports:
        """Train a configuration outside of the study's trials, or resume it; return its validations.

        Args:
            name: name of the MLflow run.
            run_id: the run to resume.
            began: receives the run's id as soon as there is one.

        Raises: TrialFailed, Interrupted.
        """
        runs, reports = [run_id], Reports()

        def started(own: str) -> None:
            runs.append(own)
            began(own)

        def reported(report: Report) -> bool:
            reports[str(report.step)] = report.values
            return True

        training = Training(name, configuration, dict(tags), run_id, has_begun=True, tests=True)
        outcome, _ = self.train_once(training, began=lambda _: None, started=started, reported=reported)
        if isinstance(outcome, Failed):
            raise (Interrupted if outcome.kind in ("killed", "interrupted") else TrialFailed)(outcome.reason)
        assert runs[-1] is not None, "it has finished"
        return {**self._recorded(configuration, runs[-1]), **reports}

    def _recorded(self, configuration: Configuration, run_id: str) -> Reports:
        """The validations of a run in MLflow, which include those of an earlier process."""
        client = open_store(store_uri(configuration.tracking()), create=False)
        points: dict[str, dict[int, float]] = {
            name: {point.step: point.value for point in metric_history(client, run_id, name)}
            for name in self.sweep.config.metrics
        }
        steps = set.intersection(*(set(own) for own in points.values()))
        return {str(step): {name: own[step] for name, own in points.items()} for step in sorted(steps)}

    def train_once(
        self,
        training: Training,
        *,
        began: Callable[[Owner], None],
        started: Callable[[str], None],
        reported: Callable[[Report], bool],
    ) -> tuple[Finished | Failed, str]:
        """Train and test one run, or resume it, in a process of its own.

        Args:
            began: receives the process.
            started: receives the MLflow run's id.
            reported: receives each validation; returns False to prune the trial.

        Returns: the outcome, and the last lines of its output.
        """
        process = self.process = TrialProcess(self._assignment(training), self.sweep.config.resources.devices)
        try:
            began(process.owner)
            if self.is_stopping.is_set():
                process.stop()
            for message in process.messages():
                if isinstance(message, Started):
                    started(message.run_id)
                elif isinstance(message, Report):
                    process.answer(reported(message))
                else:
                    return message, process.last_lines()
        finally:
            self.process = None
            process.close()
        raise AssertionError("the last message of a process is its outcome")

    def _assignment(self, training: Training) -> Assignment:
        return Assignment(
            values=training.configuration.named(training.name).values,
            run_id=training.run_id,
            has_begun=training.has_begun,
            tags={"mlflow.parentRunId": self.parent, "lightrail.parent_study": self.sweep.name, **training.tags},
            metrics=self.sweep.config.metrics,
            log=str(self.folder / f"{training.name.replace(' ', '_')}.log"),
            devices=self.devices,
            threads=self.threads,
            tests=training.tests,
        )

    def _train(self, trial: optuna.Trial, settings: Settings, seed: int) -> Reports:
        """Train one seed to the end, if it runs out of memory with half the batch size."""
        while True:
            training = self._training(trial, settings, seed)
            outcome, log_end = self.train_once(
                training,
                began=lambda owner: trial.set_user_attr(PROCESS, owner.tag),
                started=lambda run_id: _keep(trial, RUNS, seed, run_id),
                reported=lambda report: self._continues(trial, seed, report),
            )
            reports: Reports = trial.user_attrs.get(REPORTS, {}).get(str(seed), {})
            if isinstance(outcome, Finished) and reports:
                return reports
            if isinstance(outcome, Finished):
                outcome = Failed("no validation took place: validate more often, or train longer", "error")
            if not self._may_restart(trial, training, outcome):
                raise self._ended(trial, outcome, log_end)
            log.warning("trial %d: out of memory; restarting with half the batch size", origin(_frozen(trial)))
            _keep(trial, RUNS, seed, None)
            _keep(trial, REPORTS, seed, {})
            trial.set_user_attr(HALVED, True)

    def _training(self, trial: optuna.Trial, settings: Settings, seed: int) -> Training:
        frozen = _frozen(trial)
        number, attributes = origin(frozen), trial.user_attrs
        configuration = self._configuration(trial, settings, seed)
        tags = {"lightrail.trial": str(number)}
        if attributes.get(HALVED, False):
            configuration, tags[HALVED_TAG] = with_half_batches(configuration), "true"
        return Training(
            name=f"trial {number}" if len(self.sweep.seeds) == 1 else f"trial {number} seed {seed}",
            configuration=configuration,
            tags=tags,
            run_id=attributes.get(RUNS, {}).get(str(seed)),
            has_begun=bool(requeue.retry_history(frozen)),
        )

    def _configuration(self, trial: optuna.Trial, settings: Settings, seed: int) -> Configuration:
        try:
            return self.sweep.configuration(settings, seed)
        except ConfigError as error:  # of a combination that the check of corners did not include
            raise self._ended(trial, Failed(f"ConfigError: {error}", "error"), "") from error

    def _continues(self, trial: optuna.Trial, seed: int, report: Report) -> bool:
        """Store a report of a trial, and return False if the trial is to be pruned."""
        own = trial.user_attrs.get(REPORTS, {}).get(str(seed), {})
        _keep(trial, REPORTS, seed, {**own, str(report.step): report.values})
        if self.sweep.compares_seeds or len(self.sweep.config.metrics) > 1:
            return True  # Optuna prunes by one number a step
        self._report(trial, report.values[self.sweep.config.metrics[0]], report.step)
        return not trial.should_prune()

    def _report(self, trial: optuna.Trial, value: float, step: int) -> None:
        if step not in _frozen(trial).intermediate_values:  # a resumed trial repeats the steps after its checkpoint
            trial.report(value, step)

    def _may_restart(self, trial: optuna.Trial, training: Training, outcome: Failed) -> bool:
        """Whether a smaller batch size may help."""
        if outcome.kind != "memory" or self.is_stopping.is_set() or trial.user_attrs.get(HALVED, False):
            return False
        return with_half_batches(training.configuration) != training.configuration

    def _ended(self, trial: optuna.Trial, outcome: Failed, log_end: str) -> Exception:
        """The exception by which Optuna learns how a trial ended."""
        if outcome.kind == "pruned":
            return optuna.TrialPruned(outcome.reason)
        if outcome.kind in ("killed", "interrupted"):
            if self.is_stopping.is_set():
                return Interrupted(outcome.reason)
            kills = trial.user_attrs.get(KILLS, 0) + 1
            trial.set_user_attr(KILLS, kills)
            if kills <= MOST_KILLS:
                return Interrupted(outcome.reason)
        trial.set_user_attr(FAILURE, {"reason": outcome.reason, "log": log_end})
        return TrialFailed(outcome.reason)


def best_of(reports: Reports, sweep: Sweep) -> list[float]:
    """Return the metrics at the validation with the best first metric."""
    sign = 1 if sweep.config.directions[0] == "maximize" else -1
    first = sweep.config.metrics[0]
    best = max(reports.values(), key=lambda values: sign * values[first])
    return [best[name] for name in sweep.config.metrics]


def _frozen(trial: optuna.Trial) -> FrozenTrial:
    return trial.study.get_trials(deepcopy=False)[trial.number]


def _keep(trial: optuna.Trial, attribute: str, seed: int, value: object) -> None:
    """Set a trial's attribute for one seed."""
    trial.set_user_attr(attribute, {**trial.user_attrs.get(attribute, {}), str(seed): value})


COUNT_BATCHES = (
    "accumulate_grad_batches",
    "val_check_interval",
    "limit_train_batches",
    "limit_val_batches",
    "limit_test_batches",
)
"""Settings of the trainer that count batches; values of theirs that are no integers are fractions of an epoch."""


def with_half_batches(configuration: Configuration) -> Configuration:
    """Halve the batch size and double all counts of batches, so that the trial stays comparable.

    Doubled are the batches of an optimizer step, those between validations, and all other settings in batches.

    Returns: the same configuration if nothing can be halved.
    """
    values = configuration.values
    data, trainer = values["data"], values["trainer"]
    batch: dict[str, Any] = data["init_args"].get("batch") or {}
    halved = {name: _half(value) if name in ("size", "max_tokens") else value for name, value in batch.items()}
    if halved == batch:
        return configuration
    more = {name: 2 * trainer[name] for name in COUNT_BATCHES if isinstance(trainer.get(name), int)}
    data = {**data, "init_args": {**data["init_args"], "batch": halved}}
    return Configuration({**values, "data": data, "trainer": {**trainer, **more}})


def _half(value: int | None) -> int | None:
    return None if value is None else max(1, value // 2)
