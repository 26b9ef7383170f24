"""Resuming an interrupted run: in the same MLflow run, to the same weights, with changed settings recorded as tags."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import lightning.pytorch as pl
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping

from lightrail.lightning_modules.base import TaskModule
from lightrail.lightning_modules.checkpoint import DAMAGED, read_checkpoint
from lightrail.lightning_modules.optimization import apply_settings
from lightrail.project.basics.durable import remove_unfinished, write_whole
from lightrail.project.basics.errors import ConfigError, shown
from lightrail.project.basics.reading import reading
from lightrail.project.configuration import Configuration, completed
from lightrail.project.running.build import build_any
from lightrail.project.running.fitting import TRAINED_TAG, FinishedRun, attach, evaluate, train_and_test
from lightrail.project.running.parts import Built, Experiment
from lightrail.project.tracking.database import where_files_were
from lightrail.project.tracking.logger import flatten, is_process_zero
from lightrail.project.tracking.lookup import (
    LAST_CHECKPOINT,
    TRAININGS,
    already_finished,
    files_below,
    run_artifact,
    run_text,
    stored_configuration,
    test_metrics,
)
from lightrail.project.tracking.naming import find_checkpoint
from lightrail.project.tracking.recovery import ran_here
from lightrail.project.tracking.run import TrackedRun, continue_run
from lightrail.project.tracking.store import open_store, store_uri
from lightrail.project.training.checkpoints import LastCheckpoint
from lightrail.project.training.stopping import slurm_job

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


OF_THIS_CALL = "tracking."
"""Prefix of settings that do not affect training."""
UNKNOWN = "-"
"""Marks a setting that a configuration lacks: one written before the setting existed ran with its default."""
FIXED = (
    "seed_everything",
    "model.class_path",
    "model.init_args.init_from",
    "data.class_path",
    "model.init_args.optim.optimizer",
    "model.init_args.optim.freeze",
    "model.init_args.optim.layer_decay",
    "model.init_args.optim.unfreeze_fraction",
)
FIXED_CLASS = "model.init_args.optim.optimizer."
"""Prefix of the arguments of an optimizer by class path, whose state depends on them."""

_COUNTS = ("ready", "started", "processed", "completed", "_batches_that_stepped")
"""Keys of a checkpoint's counts of batches, steps and epochs."""

log = logging.getLogger(__name__)

CHANGED_CONFIGURATION = "config.resumed.yaml"
"""The complete configuration since the last change of settings; `config.yaml` keeps that of the start."""


class Change(NamedTuple):
    """The old and the new value of a setting."""

    old: str
    new: str


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Change]:
    """Return the settings that differ between two configurations, by dotted name; `-` is a missing setting."""
    old, new = flatten(before), flatten(now)
    names = [name for name in (old | new) if not name.startswith(OF_THIS_CALL)]
    values = {name: Change(old.get(name, UNKNOWN), new.get(name, UNKNOWN)) for name in names}
    return {name: change for name, change in values.items() if change.old != change.new}


def refuse_fixed(changes: Mapping[str, Change], more: Sequence[str] = ()) -> None:
    """Refuse changes of settings that a resumed run must keep. Raises: ConfigError naming the setting.

    Args:
        more: beginnings of the names of further settings.
    """
    for name, change in changes.items():
        if (name in FIXED or name.startswith((FIXED_CLASS, *more))) and change.old != UNKNOWN:
            raise ConfigError(
                f"{name} was {change.old} and is {change.new}: a resumed run cannot change it. "
                f"Leave it out, or start a new run with `lightrail fit`."
            )


def change_tags(changes: Mapping[str, Change], earlier: Mapping[str, str], step: int) -> dict[str, str]:
    """Return tags that record each change and its optimizer step, after earlier changes of the same setting."""
    tags = {}
    for name, change in changes.items():
        tag = f"lightrail.changed.{name}"
        before = f"{earlier[tag]}; " if tag in earlier else ""
        tags[tag] = f"{before}{change.old} -> {change.new} at step {step}"
    return tags


class ApplyChanges(Callback):
    """Replaces settings that Lightning restored from the checkpoint by those of the configuration.

    These are settings of the optimizer and its schedule, the patience of EarlyStopping, and an earlier early stop.
    """

    def __init__(self) -> None:
        self._patience: dict[int, int] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._patience = {id(own): own.patience for own in _early_stopping(trainer)}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if isinstance(pl_module, TaskModule):
            (optimizer,), (schedule,) = trainer.optimizers, trainer.lr_scheduler_configs
            apply_settings(pl_module, pl_module.optim, optimizer, schedule.scheduler)  # type: ignore[arg-type]
        for callback in _early_stopping(trainer):
            callback.patience = self._patience[id(callback)]
        trainer.should_stop = False


def _early_stopping(trainer: pl.Trainer) -> list[EarlyStopping]:
    return [own for own in trainer.callbacks if isinstance(own, EarlyStopping)]  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Interrupted:
    """The stored state of an interrupted run."""

    run: "Run"
    configuration: dict[str, Any]
    """The configuration when it ended."""
    checkpoint: Path | None
    """None: it ended before its first checkpoint, and restarts."""
    digests: dict[str, str] = field(default_factory=dict)
    """Digest of the content of each split."""

    @property
    def tags(self) -> Mapping[str, str]:
        """The run's MLflow tags."""
        return dict(self.run.data.tags)


def find_interrupted(client: "MlflowClient", run: "Run") -> Interrupted:
    """Read the state of an interrupted run from its store.

    Raises:
        ConfigError: lightrail did not train this run, it is finished, or its files are missing.
    """
    run_id, kind = run.info.run_id, run.data.tags.get("lightrail.kind")
    if run.info.status == "FINISHED":
        raise ConfigError(already_finished(client, run))
    if kind not in TRAININGS:
        found = f"has the tag lightrail.kind {kind!r}" if kind else "was not made by lightrail"
        raise ConfigError(f"run {run_id} {found}: only a training can be resumed. Start a new run.")
    is_fresh = not ran_here(run)
    checkpoint = run_artifact(client, run, LAST_CHECKPOINT, is_fresh=is_fresh)
    for path in files_below(client, run, "checkpoints"):  # the last one refers to the best by its path
        if path != LAST_CHECKPOINT:
            run_artifact(client, run, path, is_fresh=is_fresh)
    return Interrupted(
        run=run,
        configuration=configuration_in_force(client, run),
        checkpoint=checkpoint,
        digests={item.dataset.name: item.dataset.digest for item in run.inputs.dataset_inputs},
    )


def has_begun(client: "MlflowClient", run: "Run") -> bool:
    """Whether a run has a stored configuration; one that was killed before has nothing to resume."""
    return run_text(client, run, "config.yaml") is not None


def configuration_in_force(client: "MlflowClient", run: "Run") -> dict[str, Any]:
    """Return the complete configuration that a run was last started or resumed with.

    Raises:
        ConfigError: it has none.
    """
    changed = stored_configuration(client, run, CHANGED_CONFIGURATION, is_fresh=not ran_here(run))
    configuration = changed or stored_configuration(client, run, "config.yaml")
    if configuration is None:
        raise ConfigError(
            f"run {run.info.run_id} has no config.yaml: it ended during its start, or its files are missing. "
            f"Start a new run.{where_files_were(run.info.artifact_uri)}"
        )
    return configuration


def go_on(
    before: Interrupted,
    configuration: Configuration,
    *,
    callbacks: Sequence[Callback] = (),
    force: bool = False,
    tests: bool = True,
) -> FinishedRun:
    """Resume a run: train to the end from the last checkpoint, and test, in the same MLflow run.

    Args:
        configuration: the run's own; each changed setting is recorded as a tag.
        callbacks: called before those of the configuration.
        force: resume although another machine may still be running it.
        tests: see `fit`.

    Raises:
        ConfigError: the run is finished or still running, its data has changed, or a setting can no longer change.
            The run is then unchanged.
    """
    if TRAINED_TAG in before.tags and before.checkpoint is None:  # its test was interrupted
        return evaluate_trained(before.run, configuration, force=force)
    trainer = before.configuration.get("trainer")
    if not configuration.has_length and isinstance(trainer, dict) and isinstance(trainer.get("max_epochs"), int):
        configuration = configuration.of_length(trainer["max_epochs"])  # which was chosen when the run started
    changes = changed_settings(completed(before.configuration, configuration.values), configuration.values)
    refuse_fixed(changes)
    if changes and test_metrics(before.run):
        raise ConfigError(
            f"run {before.run.info.run_id} has already been tested: {', '.join(changes)} can no longer change. "
            f"Resume without changes, or start a new run."
        )
    experiment, stored = _rebuilt(before, configuration)
    refuse_fixed(changes, experiment.fixed)
    experiment.trainer.callbacks[:0] = callbacks  # type: ignore[attr-defined]
    step = stored.get("global_step", 0)
    run = continue_run(before.run.info.run_id, configuration.tracking(), force=force)
    with run.status():
        attach(experiment, run, step)
        remove_unfinished(run.directory / "checkpoints")
        if changes:
            run.set_tags(change_tags(changes, before.tags, step))
            _write_changed_configuration(run, configuration)
        if "lightrail.error" in before.tags:
            log.info("run %s had ended with %s", run.run_id, before.tags["lightrail.error"])
        log.info("run %s resumes at step %d", run.run_id, step)
        return train_and_test(experiment, run, before.checkpoint, tests=tests)


def evaluate_trained(run: "Run", configuration: Configuration, *, force: bool = False) -> FinishedRun:
    """Test the best weights of a run that was trained without a test, in the same MLflow run.

    Raises: ConfigError when it is still running, or its checkpoint is missing.
    """
    checkpoint = find_checkpoint(f"runs:/{run.info.run_id}", configuration.tracking())
    experiment = build_any(configuration, "test", checkpoint)
    tracked = continue_run(run.info.run_id, configuration.tracking(), force=force, reopen=True)
    with tracked.status():
        attach(experiment, tracked)
        return evaluate(experiment, tracked, experiment.weights_from)


def _rebuilt(before: Interrupted, configuration: Configuration) -> tuple[Built, dict[str, Any]]:
    """Build the experiment of an interrupted run, and read its last checkpoint; {} when there is none."""
    experiment = build_any(configuration, "fit", before.checkpoint, has_run=True)
    _check_data(before, experiment)
    if before.checkpoint is None:
        if experiment.ancestor is not None and (changes := experiment.ancestor.changes(before.tags)):
            raise ConfigError(
                f"run {before.run.info.run_id} has no checkpoint, and restarts from weights that have changed: "
                f"{changes[0]}. Restore them, or start a new run."
            )
        return experiment, {}
    stored = read_checkpoint(before.checkpoint)
    for name in experiment.needed_to_resume:
        if not stored.get(name):
            raise ConfigError(
                f"{before.checkpoint} has no {name}, without which a training cannot be resumed. Restore the file, or "
                f"start a new run."
            )
    with reading(f"{before.checkpoint} cannot be resumed", DAMAGED):
        check_counts(stored["loops"])
        states = list(stored["loops"]["fit_loop"]["state_dict"].get("combined_loader", []))
    for state in states:
        if isinstance(experiment, Experiment):
            experiment.data.train_dataloader().load_state_dict(state)  # refuses other batches before the run is changed
    # Not against the configuration of the last resume: that may have ended before its first checkpoint.
    if changed_settings(stored["configuration"], configuration.values):
        callbacks = experiment.trainer.callbacks  # type: ignore[attr-defined]
        place = next((n for n, own in enumerate(callbacks, start=1) if isinstance(own, LastCheckpoint)), 0)
        callbacks.insert(place, ApplyChanges())
    return experiment, stored


def check_counts(loops: Any) -> None:
    """Check the progress of loops, which Lightning restores as it is. Raises: ValueError naming a count."""
    for name, value in loops.items() if isinstance(loops, Mapping) else ():
        if name in _COUNTS and not (type(value) is int and value >= 0):
            raise ValueError(f"its count of {name} is {shown(value)}")
        check_counts(value)


def _check_data(before: Interrupted, experiment: Built) -> None:
    for summary in experiment.summaries():
        digest = before.digests.get(summary.name, summary.digest)
        if not summary.digest.startswith(digest):
            raise ConfigError(
                f"the {summary.name} split has changed since run {before.run.info.run_id} started: its content "
                f"({summary.source}) has the digest {summary.digest}, and had {digest}. Restore the data, or start "
                f"a new run."
            )


def _write_changed_configuration(run: TrackedRun, configuration: Configuration) -> None:
    """Write the changed configuration beside that of the start, whole or not at all."""
    if not is_process_zero():
        return
    write_whole(run.directory / CHANGED_CONFIGURATION, configuration.dump())
    run.upload_soon(CHANGED_CONFIGURATION)


def _differ_in(params: Mapping[str, str], others: Mapping[str, str]) -> set[str]:
    return {name for name in params.keys() | others.keys() if params.get(name) != others.get(name)}


def requeued_run(configuration: Configuration, kind: str) -> "tuple[MlflowClient, Run] | None":
    """Return the run with this configuration that the same SLURM job started before it was requeued.

    Returns: the client of the store, and the first unfinished run, or the last one when all are finished; None without.
    """
    if not slurm_job() or os.environ.get("SLURM_RESTART_COUNT", "0") == "0":
        return None
    client = open_store(store_uri(configuration.tracking()), create=True)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    condition = f"tags.`lightrail.slurm_job` = '{slurm_job()}' AND tags.`lightrail.kind` = '{kind}'"
    params = flatten(configuration.values)
    runs = client.search_runs(experiments, condition, order_by=["attributes.start_time ASC"])
    chosen = () if configuration.has_length else ("trainer.max_epochs",)
    same = [run for run in runs if _differ_in(run.data.params, params) <= {*chosen} and has_begun(client, run)]
    found = next((run for run in same if run.info.status != "FINISHED"), same[-1] if same else None)
    return None if found is None else (client, found)
