"""A complete run: trained, calibrated, tested and stored."""

import json
import logging
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import lightning.pytorch as pl
import pyarrow as pa
import torch.distributed
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import WeightAveraging

from lightrail.lightning_modules.base import TaskModule
from lightrail.lightning_modules.checkpoint import DAMAGED
from lightrail.lightning_modules.networks.decoders.generation import TextWriter
from lightrail.project.basics.errors import ConfigError, first_line, plain
from lightrail.project.basics.private_names import set_default_root
from lightrail.project.configuration import Configuration
from lightrail.project.figures.explained import EXPLAINED, write_explained
from lightrail.project.figures.run_figures import plain_curves, write_figures
from lightrail.project.findings.finding import Finding
from lightrail.project.findings.rules import evidence_of, find, in_markdown, plain_evidence, write_findings
from lightrail.project.loggers.further import further_loggers, show_files
from lightrail.project.models.predictions import PREDICTION, write_predictions
from lightrail.project.running.answering import stage_model
from lightrail.project.running.build import build_any
from lightrail.project.running.parts import Built, Experiment
from lightrail.project.tracking.logger import is_process_zero
from lightrail.project.tracking.lookup import RESULTS_TAG, UNKNOWN_DATA
from lightrail.project.tracking.run import TrackedRun, start_run
from lightrail.project.training.checkpoints import BEST, best_checkpoint, keep_best, place_checkpoints, store_buffers
from lightrail.project.training.samples import place_samples
from lightrail.project.training.stopping import slurm_job

log = logging.getLogger(__name__)

NO_TEST = "the model has no test_step, or there is no test_dataloader"
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
    findings: Sequence[Finding] = ()
    """What may have gone wrong, the most severe first; empty on all processes but the first."""

    def as_plain(self) -> dict[str, Any]:
        """Return the results as plain values."""
        findings = [asdict(own) for own in self.findings]
        result = {"run_id": self.run_id, "metrics": dict(self.metrics), "directory": str(self.directory)}
        return {**result, "findings": findings}

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
    experiment = build_any(configuration, "fit", has_run=has_run)
    experiment.trainer.callbacks[:0] = callbacks  # type: ignore[attr-defined]
    return fit_built(experiment, tags, tests=tests)


def fit_built(experiment: Built, tags: Mapping[str, str], *, tests: bool = True) -> FinishedRun:
    """Train and test an experiment that was built for it, as a new run with these further tags."""
    run = begin(experiment, kind="fit", tags=tags)
    with run.status():
        return train_and_test(experiment, run, checkpoint=None, tests=tests)


def train_and_test(experiment: Built, run: TrackedRun, checkpoint: Path | None, *, tests: bool = True) -> FinishedRun:
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


def _train(experiment: Built, run: TrackedRun, checkpoint: Path | None) -> str | None:
    """Train to the end, and calibrate; return the best checkpoint, None for the current weights."""
    module, data = experiment.module, experiment.datamodule
    with _restoring(checkpoint), refused_by_lightning():
        experiment.trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    best = _best(experiment)
    for own in experiment.trainer.callbacks if best is None else ():  # type: ignore[attr-defined]
        if isinstance(own, WeightAveraging):
            own.on_train_end(experiment.trainer, module)  # Lightning omits it when no step was left to train
    _forget_averaging(experiment)
    if isinstance(experiment, Experiment) and experiment.model.can_be_calibrated():
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
    experiment = build_any(configuration, "test", checkpoint)
    if not experiment.is_tested:
        raise ConfigError(f"{NO_TEST}: there is nothing to test. Use `lightrail validate`, or add them.")
    run = begin(experiment, kind="test")
    with run.status():
        return evaluate(experiment, run, experiment.weights_from)


def begin(experiment: Built, kind: str, tags: Mapping[str, str] = MappingProxyType({})) -> TrackedRun:
    """Start the tracked run and have the trainer log and write to it."""
    inputs = experiment.summaries()
    digests = {summary.name: summary.digest for summary in inputs}
    own = {
        "lightrail.kind": kind,
        "lightrail.task": type(experiment.module).__name__,
        "lightrail.metric": experiment.monitor.removeprefix("val/"),
        "lightrail.seed": str(experiment.configuration.seed),
        "lightrail.data_digest": digests.get("train", UNKNOWN_DATA),
        "lightrail.test_digest": digests.get("test", UNKNOWN_DATA),
    }
    if not inputs:
        log.info("the content of the data is not known: whether it changes, or equals that of other runs, is not told")
    for name, score in experiment.scores().items():
        if signature := score.signature():
            own[f"lightrail.signature.{name}"] = signature
    configuration = experiment.configuration
    if configuration.chosen:
        own["lightrail.chosen"] = "; ".join(configuration.chosen)
        log.info("chosen by the data: %s", own["lightrail.chosen"])
    if experiment.ancestor is not None:
        own |= experiment.ancestor.tags()
        log.info("%s", experiment.ancestor)
    if slurm_job():
        own["lightrail.slurm_job"] = slurm_job()
    run = start_run(configuration.tracking(), configuration.values, {**own, **tags}, inputs)
    attach(experiment, run)
    log.info("run %s", run.run_id)
    return run


def attach(experiment: Built, run: TrackedRun, step: int | None = None) -> None:
    """Have the trainer log to the run and write into its folder.

    Args:
        step: optimizer step from which the run is resumed: what loggers hold of later ones is dropped.
    """
    trainer = experiment.trainer
    trainer.loggers = [run.logger, *further_loggers(experiment.configuration, run, step)]
    if isinstance(experiment, Experiment):
        experiment.model.is_tracked = True
    # Under SLURM Lightning resumes from any checkpoint of its own in its default root.
    set_default_root(trainer, run.directory)
    place_checkpoints(trainer, run.directory / "checkpoints", run.run_id, run.upload_soon)
    place_samples(trainer, run.directory, run.upload_soon)


def evaluate(experiment: Built, run: TrackedRun, checkpoint: str | Path | None) -> FinishedRun:
    """Test a checkpoint, or with None the current weights, and store predictions and figures."""
    trainer = experiment.trainer
    _forget_averaging(experiment)
    if not experiment.is_tested:
        return _conclude(experiment, run, _without_test(experiment, run))
    with _restoring(checkpoint), refused_by_lightning():
        trainer.test(
            experiment.module, datamodule=experiment.datamodule, ckpt_path=checkpoint, verbose=False, weights_only=True
        )
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    if not isinstance(experiment, Experiment):
        return _conclude(experiment, run, metrics)
    metrics = {name: value for name, value in metrics.items() if name.startswith("test/")}
    table, found = experiment.predictions.table, list[Finding]()
    if table is not None:
        main_metric = experiment.model.monitor.removeprefix("val/")
        write_predictions(table, run.directory, experiment.model.scores(), main_metric)
        series = run.logger.journal.series()
        write_figures(experiment.data, experiment.model, table, series, run.directory)
        write_explained(experiment.data, experiment.model, run.directory)
        show_files(trainer.loggers, run.directory, trainer.global_step)
        found = find(partial(evidence_of, experiment.data, experiment.model, table, series))
        note = _description(experiment, run, metrics, table, found)
        run.set_tags({"mlflow.note.content": note, **write_findings(found, run.directory)})
        stage_model(experiment, run)
    return FinishedRun(run.run_id, run.directory, metrics, table, found)


def _without_test(experiment: Built, run: TrackedRun) -> dict[str, float]:
    """Return, and log, the best value of the monitored metric; without one, the last value of every metric."""
    callback, last = best_checkpoint(experiment.trainer.callbacks), experiment.trainer.callback_metrics  # type: ignore[attr-defined]
    score = callback.best_model_score if callback is not None else None
    log.warning("%s: the run ends with its training", NO_TEST)
    found = {f"last/{name}": float(value) for name, value in last.items()}
    if score is not None:
        found = {f"best/{experiment.monitor}": float(score)}
    run.logger.log_metrics(found, step=0)
    return found


def _conclude(experiment: Built, run: TrackedRun, metrics: dict[str, float]) -> FinishedRun:
    """Record which metrics are the results of a run without stored predictions, and draw its learning curves."""
    run.set_tags({RESULTS_TAG: json.dumps(sorted(metrics)), "lightrail.metric": experiment.monitor})
    found: list[Finding] = []
    if is_process_zero():
        series = run.logger.journal.series()
        plain_curves(series, run.directory, experiment.monitor)
        show_files(experiment.trainer.loggers, run.directory, experiment.trainer.global_step)
        callback = best_checkpoint(experiment.trainer.callbacks)  # type: ignore[attr-defined]
        is_lower = callback is not None and callback.mode == "min"
        found = find(partial(plain_evidence, series, experiment.monitor, lower_is_better=is_lower))
        run.set_tags(write_findings(found, run.directory))
    return FinishedRun(run.run_id, run.directory, metrics, None, found)


@contextmanager
def refused_by_lightning() -> Iterator[None]:
    """Restate in one line what Lightning refuses, as a setting that a module cannot use. Raises: ConfigError."""
    try:
        yield
    except MisconfigurationException as error:
        raise ConfigError(f"Lightning refuses this run: {plain(str(error), 500)}") from error


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


def _forget_averaging(experiment: Built) -> None:
    """Remove WeightAveraging from the callbacks of an evaluation."""
    trainer = experiment.trainer  # in an evaluation it would replace the averaged weights by those of the last step
    trainer.callbacks = [own for own in trainer.callbacks if not isinstance(own, WeightAveraging)]  # type: ignore[attr-defined]


def _description(
    experiment: Experiment, run: TrackedRun, metrics: Mapping[str, float], table: pa.Table, found: Sequence[Finding]
) -> str:
    """Format the description on the run's page, in Markdown."""
    figures = ", ".join(f"{name} **{value:.4f}**" for name, value in sorted(metrics.items()))
    sizes = ", ".join(f"{summary.num_rows:,} {summary.name}" for summary in experiment.data.summaries())
    worst = "worst mistakes" if PREDICTION in table.column_names else "texts with the highest loss"
    explained = f", what a few predictions were made of in `{EXPLAINED}`" * (run.directory / EXPLAINED).exists()
    named = experiment.configuration.init_from
    said = f"{in_markdown(found)}\n\n" if found else ""
    started = "" if named is None else f"Started from the weights of `{named}`.\n\n"
    command = f"predict --ckpt_path runs:/{run.run_id} --data.path FILE"
    if isinstance(experiment.model, TextWriter):
        command = f"generate {run.run_id} --prompt TEXT"
    return (
        f"{figures}\n\n"
        f"{said}"
        f"{type(experiment.model).__name__} on `{experiment.data.path}` ({sizes}). "
        f"Figures are in the artifacts under `figures`, the {worst} under `samples`{explained}.\n\n"
        f"{started}"
        f"`lightrail {command}`"
    )


def _best(experiment: Built) -> str | None:
    """Return the best checkpoint; None, for the current weights, when none was kept."""
    callback = best_checkpoint(experiment.trainer.callbacks)  # type: ignore[attr-defined]
    if callback is None or not callback.best_model_path:
        log.warning("testing the last weights: there was no validation, or trainer.enable_checkpointing is false")
        return None
    return callback.best_model_path
