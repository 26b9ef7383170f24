"""A run from its configuration to its last line: trained, tested and stored."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from project.build import Experiment, build
from project.checkpoints import best_checkpoint, place_checkpoints
from project.configuration import Configuration
from project.predictions import write_predictions
from project.report import write_figures
from project.tracking.run import TrackedRun, start_run

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinishedRun:
    """What came out of a run."""

    run_id: str
    directory: Path
    metrics: Mapping[str, float]
    """`test/NAME` to value."""
    predictions: pa.Table | None
    """One row for each test example; None on all processes but the first."""

    @property
    def last_line(self) -> str:
        shown = " ".join(f"{name}={value:.4f}" for name, value in sorted(self.metrics.items()))
        return f"run {self.run_id} finished: {shown}"


def fit(configuration: Configuration) -> FinishedRun:
    """Train, keep the best and the last checkpoint, test the best, and close the run.

    Raises:
        ConfigError, DataError: before the run exists; nothing is left behind.
    """
    experiment = build(configuration, "fit")
    run = begin(experiment, kind="fit")
    with run.status():
        run.log_inputs(experiment.data.summaries())
        experiment.trainer.fit(experiment.model, datamodule=experiment.data, weights_only=True)
        return evaluate(experiment, run, checkpoint=_best(experiment))


def test(configuration: Configuration, checkpoint: Path) -> FinishedRun:
    """Test a checkpoint, as a run of its own.

    Raises:
        ConfigError, DataError: before the run exists; nothing is left behind.
    """
    experiment = build(configuration, "test", checkpoint)
    run = begin(experiment, kind="test")
    with run.status():
        run.log_inputs(experiment.data.summaries())
        return evaluate(experiment, run, checkpoint=None)


def begin(experiment: Experiment, kind: str) -> TrackedRun:
    """Start the tracked run and have the trainer log and write to it."""
    digests = {summary.name: summary.digest for summary in experiment.data.summaries()}
    tags = {
        "lightrail.kind": kind,
        "lightrail.task": type(experiment.model).__name__,
        "lightrail.seed": str(experiment.configuration.seed),
        "lightrail.data_digest": digests["train"],
        "lightrail.test_digest": digests["test"],
    }
    configuration = experiment.configuration
    run = start_run(configuration.tracking(), configuration.values, tags)
    experiment.trainer.logger = run.logger
    place_checkpoints(experiment.trainer, run.directory / "checkpoints")
    log.info("run %s", run.run_id)
    return run


def evaluate(experiment: Experiment, run: TrackedRun, checkpoint: str | None) -> FinishedRun:
    """Test, and store predictions and figures; the weights as they are, or those of a checkpoint."""
    trainer = experiment.trainer
    trainer.test(experiment.model, datamodule=experiment.data, ckpt_path=checkpoint, verbose=False, weights_only=True)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("test/")}
    table = experiment.predictions.table
    if table is not None:
        write_predictions(table, run.directory)
        write_figures(experiment.data, table, run.logger.journal.series(), run.directory)
        run.set_tags({"mlflow.note.content": _description(experiment, run, metrics)})
        run.publish()
    return FinishedRun(run.run_id, run.directory, metrics, table)


def _description(experiment: Experiment, run: TrackedRun, metrics: Mapping[str, float]) -> str:
    """What the run's page says first, in Markdown."""
    figures = ", ".join(f"{name} **{value:.4f}**" for name, value in sorted(metrics.items()))
    sizes = ", ".join(f"{summary.num_rows:,} {summary.name}" for summary in experiment.data.summaries())
    return (
        f"{figures}\n\n"
        f"{type(experiment.model).__name__} on `{experiment.data.path}` ({sizes}). "
        f"Pictures are in the artifacts under `figures`, the worst mistakes under `samples`.\n\n"
        f"`lightrail predict --ckpt_path runs:/{run.run_id} --data.path FILE`"
    )


def _best(experiment: Experiment) -> str | None:
    """The best checkpoint; None, for the weights as they are, when none was kept."""
    callback = best_checkpoint(experiment.trainer.callbacks)  # type: ignore[attr-defined]
    if callback is None or not callback.best_model_path:
        log.warning("the last weights are tested: no validation took place, or trainer.enable_checkpointing is false")
        return None
    return callback.best_model_path
