"""A complete run: trained, calibrated, tested and stored."""

import logging
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import lightning.pytorch as pl
import pyarrow as pa
import torch.distributed
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import WeightAveraging

from lightrail.lightning_modules.base import TaskModule
from lightrail.lightning_modules.checkpoint import DAMAGED
from lightrail.lightning_modules.generation import TextWriter
from lightrail.project.basics.errors import ConfigError, first_line, plain
from lightrail.project.basics.private_names import set_default_root
from lightrail.project.configuration import Configuration
from lightrail.project.figures.run_figures import write_figures
from lightrail.project.loggers.further import further_loggers, show_files
from lightrail.project.models.predictions import PREDICTION, write_predictions
from lightrail.project.running.build import Experiment, build
from lightrail.project.tracking.logger import is_process_zero
from lightrail.project.tracking.run import TrackedRun, start_run
from lightrail.project.training.checkpoints import BEST, best_checkpoint, keep_best, place_checkpoints, store_buffers
from lightrail.project.training.samples import place_samples
from lightrail.project.training.stopping import slurm_job

log = logging.getLogger(__name__)

TRAINED_TAG = "lightrail.trained"
"""Tag of a run that was trained to the end without a test: a trial of a sweep. The best one is tested later."""


def calibrate(experiment: Experiment, checkpoint: str | None) -> None:
    """Calibrate the weights of a checkpoint, and write the result into its file; with None, the current weights.

    Repeated, as after a kill, it has the same result. Without a validation split nothing happens.
    """
    trainer, model = experiment.trainer, experiment.model
    calibration = _Calibration(checkpoint)
    trainer.callbacks.append(calibration)  # type: ignore[attr-defined]
    model.is_calibrating = True
    try:
        with _restoring(checkpoint):
            trainer.validate(model, datamodule=experiment.data, ckpt_path=checkpoint, verbose=False, weights_only=True)
    finally:
        model.is_calibrating = False
        trainer.callbacks.remove(calibration)  # type: ignore[attr-defined]


class _Calibration(Callback):
    """Calibrates on the validation rows gathered from all processes; only the first process writes."""

    def __init__(self, checkpoint: str | None) -> None:
        self.checkpoint = checkpoint
        self.rows: dict[int, Any] = {}
        """Rows by the number of their example."""

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if outputs is not None:
            self.rows.update(zip(outputs["id"], outputs["row"], strict=True))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, TaskModule)
        rows = self._all_rows(trainer)
        if not rows:
            return
        figures = pl_module.calibrate(rows)
        if trainer.is_global_zero and self.checkpoint is not None:
            store_buffers(pl_module, Path(self.checkpoint))
        trainer.strategy.barrier("calibrated")
        for own in trainer.loggers:
            own.log_metrics(dict(figures), step=0)
        if trainer.is_global_zero:
            shown = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
            is_kept = figures.get("calibration/temperature") == 1.0
            kept = "; the temperature stays 1: no other lowers the loss, or every prediction is right"
            log.info("calibrated on %d validation examples: %s%s", len(rows), shown, kept if is_kept else "")

    def _all_rows(self, trainer: pl.Trainer) -> list[Any]:
        parts: list[dict[int, Any]] = [self.rows]
        if trainer.world_size > 1:
            parts = [{} for _ in range(trainer.world_size)]
            torch.distributed.all_gather_object(parts, self.rows)
        merged = {number: row for part in parts for number, row in part.items()}
        return [merged[number] for number in sorted(merged)]


@dataclass(frozen=True)
class FinishedRun:
    """The results of a finished run."""

    run_id: str
    directory: Path
    metrics: Mapping[str, float]
    """`test/NAME` to value."""
    predictions: pa.Table | None
    """One row for each test example; None on all processes but the first."""

    @property
    def last_line(self) -> str:
        """The line that a command prints last."""
        return last_line(self.run_id, self.metrics)


def last_line(run_id: str, metrics: Mapping[str, float]) -> str:
    """Format the line that a command prints last: the finished run and its metrics."""
    shown = " ".join(f"{name}={value:.4f}" for name, value in sorted(metrics.items()))
    return f"run {run_id} finished: {shown}"


def fit(
    configuration: Configuration,
    *,
    tags: Mapping[str, str] = MappingProxyType({}),
    callbacks: Sequence[Callback] = (),
    has_run: bool = False,
    tests: bool = True,
) -> FinishedRun:
    """Train, keep the best and the last checkpoint, test the best, and close the run.

    Args:
        tags: further tags of the run; they override the tags that every run has.
        callbacks: called before those of the configuration.
        has_run: a run with these settings exists: what it trained with is not refused as being of no use.
        tests: whether to test; without it the run is finished when it is trained, and has the tag `lightrail.trained`.

    Raises:
        ConfigError, DataError: raised before the run exists; nothing is left behind.
    """
    experiment = build(configuration, "fit", has_run=has_run)
    experiment.trainer.callbacks[:0] = callbacks  # type: ignore[attr-defined]
    return fit_built(experiment, tags, tests=tests)


def fit_built(experiment: Experiment, tags: Mapping[str, str], *, tests: bool = True) -> FinishedRun:
    """Train and test an experiment that was built for it, as a new run with these further tags."""
    run = begin(experiment, kind="fit", tags=tags)
    with run.status():
        return train_and_test(experiment, run, checkpoint=None, tests=tests)


def train_and_test(
    experiment: Experiment, run: TrackedRun, checkpoint: Path | None, *, tests: bool = True
) -> FinishedRun:
    """Train to the end, from the start or from a checkpoint of this run, and test the best weights if it `tests`."""
    try:
        best = _train(experiment, run, checkpoint)
        if tests:
            return evaluate(experiment, run, checkpoint=best)
    except BaseException:
        if is_process_zero():
            log.warning("run %s stopped early. To resume it: lightrail resume %s", run.run_id, run.run_id)
        raise
    run.set_tags({TRAINED_TAG: "true"})
    return FinishedRun(run.run_id, run.directory, {}, None)


def _train(experiment: Experiment, run: TrackedRun, checkpoint: Path | None) -> str | None:
    """Train to the end, and calibrate; return the best checkpoint, None for the current weights."""
    with _restoring(checkpoint):
        experiment.trainer.fit(experiment.model, datamodule=experiment.data, ckpt_path=checkpoint, weights_only=True)
    best = _best(experiment)
    for own in experiment.trainer.callbacks if best is None else ():  # type: ignore[attr-defined]
        if isinstance(own, WeightAveraging):
            own.on_train_end(experiment.trainer, experiment.model)  # Lightning omits it when no step was left to train
    _forget_averaging(experiment)
    if experiment.model.can_be_calibrated():
        calibrate(experiment, best)
    if best is not None:
        folder = run.directory / "checkpoints"
        keep_best(experiment.trainer.callbacks, folder)  # type: ignore[attr-defined]
        for path in {folder / BEST, Path(best)}:
            if path.is_relative_to(folder):
                run.upload_soon(f"checkpoints/{path.relative_to(folder)}")
    return best


def test(configuration: Configuration, checkpoint: Path) -> FinishedRun:
    """Test a checkpoint, as a new run.

    Raises:
        ConfigError, DataError: raised before the run exists; nothing is left behind.
    """
    experiment = build(configuration, "test", checkpoint)
    run = begin(experiment, kind="test")
    with run.status():
        return evaluate(experiment, run, checkpoint=None)


def begin(experiment: Experiment, kind: str, tags: Mapping[str, str] = MappingProxyType({})) -> TrackedRun:
    """Start the tracked run and have the trainer log and write to it."""
    digests = {summary.name: summary.digest for summary in experiment.data.summaries()}
    own = {
        "lightrail.kind": kind,
        "lightrail.task": type(experiment.model).__name__,
        "lightrail.metric": experiment.model.monitor.removeprefix("val/"),
        "lightrail.seed": str(experiment.configuration.seed),
        "lightrail.data_digest": digests["train"],
        "lightrail.test_digest": digests["test"],
    }
    for name, score in experiment.model.scores().items():
        if signature := score.signature():
            own[f"lightrail.signature.{name}"] = signature
    configuration = experiment.configuration
    if configuration.chosen:
        own["lightrail.chosen"] = "; ".join(configuration.chosen)
        log.info("chosen by the data: %s", own["lightrail.chosen"])
    if slurm_job():
        own["lightrail.slurm_job"] = slurm_job()
    inputs = experiment.data.summaries()
    run = start_run(configuration.tracking(), configuration.values, {**own, **tags}, inputs)
    attach(experiment, run)
    log.info("run %s", run.run_id)
    return run


def attach(experiment: Experiment, run: TrackedRun, step: int | None = None) -> None:
    """Have the trainer log to the run and write into its folder.

    Args:
        step: optimizer step from which the run is resumed: what loggers hold of later ones is dropped.
    """
    trainer = experiment.trainer
    trainer.loggers = [run.logger, *further_loggers(experiment.configuration, run, step)]
    # Under SLURM Lightning resumes from any checkpoint of its own in its default root.
    set_default_root(trainer, run.directory)
    place_checkpoints(trainer, run.directory / "checkpoints", run.run_id, run.upload_soon)
    place_samples(trainer, run.directory, run.upload_soon)


def evaluate(experiment: Experiment, run: TrackedRun, checkpoint: str | None) -> FinishedRun:
    """Test a checkpoint, or with None the current weights, and store predictions and figures."""
    trainer = experiment.trainer
    _forget_averaging(experiment)
    model, data = experiment.model, experiment.data
    with _restoring(checkpoint):
        trainer.test(model, datamodule=data, ckpt_path=checkpoint, verbose=False, weights_only=True)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("test/")}
    table = experiment.predictions.table
    if table is not None:
        main_metric = experiment.model.monitor.removeprefix("val/")
        write_predictions(table, run.directory, experiment.model.scores(), main_metric)
        write_figures(experiment.data, experiment.model, table, run.logger.journal.series(), run.directory)
        show_files(trainer.loggers, run.directory, trainer.global_step)
        run.set_tags({"mlflow.note.content": _description(experiment, run, metrics, table)})
    return FinishedRun(run.run_id, run.directory, metrics, table)


@contextmanager
def _restoring(checkpoint: str | Path | None) -> Iterator[None]:
    """Name the checkpoint that Lightning cannot restore, with weights that do not fit or a damaged state of its loops.

    Raises: ConfigError.
    """
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:  # a state holds anything, and each part of Lightning and PyTorch raises its own
        if checkpoint is None or not _is_of_restoring(error):
            raise
        reason = plain(str(error).partition("\n")[2] or first_line(error), 300)
        is_of_weights = "loading state_dict" in str(error)
        what = "weights do not fit the model" if is_of_weights else "training state cannot be restored"
        raise ConfigError(f"{checkpoint}: its {what}: {reason}. {DAMAGED}") from error


def _is_of_restoring(error: BaseException) -> bool:
    """Whether an error was raised while Lightning restored a checkpoint, and not in the training after it."""
    frames = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any(code.co_filename.endswith("checkpoint_connector.py") and "restore" in code.co_name for code in frames)


def _forget_averaging(experiment: Experiment) -> None:
    """Remove WeightAveraging from the callbacks of an evaluation."""
    trainer = experiment.trainer  # in an evaluation it would replace the averaged weights by those of the last step
    trainer.callbacks = [own for own in trainer.callbacks if not isinstance(own, WeightAveraging)]  # type: ignore[attr-defined]


def _description(experiment: Experiment, run: TrackedRun, metrics: Mapping[str, float], table: pa.Table) -> str:
    """Format the description on the run's page, in Markdown."""
    figures = ", ".join(f"{name} **{value:.4f}**" for name, value in sorted(metrics.items()))
    sizes = ", ".join(f"{summary.num_rows:,} {summary.name}" for summary in experiment.data.summaries())
    worst = "worst mistakes" if PREDICTION in table.column_names else "texts with the highest loss"
    command = f"predict --ckpt_path runs:/{run.run_id} --data.path FILE"
    if isinstance(experiment.model, TextWriter):
        command = f"generate {run.run_id} --prompt TEXT"
    return (
        f"{figures}\n\n"
        f"{type(experiment.model).__name__} on `{experiment.data.path}` ({sizes}). "
        f"Figures are in the artifacts under `figures`, the {worst} under `samples`.\n\n"
        f"`lightrail {command}`"
    )


def _best(experiment: Experiment) -> str | None:
    """Return the best checkpoint; None, for the current weights, when none was kept."""
    callback = best_checkpoint(experiment.trainer.callbacks)  # type: ignore[attr-defined]
    if callback is None or not callback.best_model_path:
        log.warning("testing the last weights: there was no validation, or trainer.enable_checkpointing is false")
        return None
    return callback.best_model_path
