"""Builds data, model and trainer of a run from its configuration, for every command and every trial."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from lightning.pytorch.utilities.model_helpers import is_overridden

from lightrail.datamodules.base import DataModule, Split
from lightrail.datamodules.batches.batching import row_for_batch
from lightrail.datamodules.own_loaders import OwnLoaders
from lightrail.lightning_modules.arguments import check_facts
from lightrail.lightning_modules.base import TaskModule
from lightrail.lightning_modules.checkpoint import (
    DAMAGED,
    fill,
    read_checkpoint,
    rebuilding,
    stored_arguments,
    stored_configuration,
)
from lightrail.lightning_modules.networks.token_network import TokenNetwork
from lightrail.lightning_modules.optimization import build_optimizer, build_schedule
from lightrail.project.basics.errors import ConfigError, first_line, plain
from lightrail.project.basics.hardware import fastest_precision, set_threads, usable_accelerator
from lightrail.project.basics.logs import take_over_lightning
from lightrail.project.basics.reading import reading
from lightrail.project.configuration import Configuration
from lightrail.project.configuration.classes import import_class
from lightrail.project.loggers.further import check_loggers
from lightrail.project.models.predictions import PredictionTable
from lightrail.project.plain_modules.columns import PlainPredictions
from lightrail.project.plain_modules.hooks import PlainCheckpointIO, add_checkpoints, take_callbacks
from lightrail.project.plain_modules.loading import make_repeatable
from lightrail.project.running.ancestor import FirstWeights
from lightrail.project.running.callbacks import check_callbacks, check_reserved_names
from lightrail.project.running.limits import check_limits, check_processes, check_strategy
from lightrail.project.running.parts import Built, PlainExperiment
from lightrail.project.running.parts import Experiment as Experiment
from lightrail.project.running.training_length import with_length
from lightrail.project.training.checkpoints import DurableCheckpointIO, StepSeeds, checkpoint_callbacks, seed_all
from lightrail.project.training.divergence import StopWhenNotFinite
from lightrail.project.training.progress import TrainingProgress
from lightrail.project.training.samples import sampled_text
from lightrail.project.training.stopping import leave_at_exit
from lightrail.project.training.system_metrics import SystemMetrics, Throughput

Stage = Literal["fit", "validate", "test", "predict"]
_SPLITS: dict[Stage, tuple[Split, ...]] = {
    "fit": ("train", "validation", "test"),
    "validate": ("validation",),
    "test": ("test",),
    "predict": ("predict",),
}
"""The splits that each stage reads."""
_NUM_LONGEST = 8
LIGHTNING_EPOCHS = 1000
"""Lightning's own number of epochs where no setting says how long to train."""
_USUAL_LENGTH = 1000
"""Optimizer steps for which a schedule is tried where the number of a training is not known before its data."""


def build_any(
    configuration: Configuration, stage: Stage, checkpoint: Path | None = None, *, has_run: bool = False
) -> Built:
    """Build the parts of a run, as `build`, of a task or of any other LightningModule.

    Of the latter nothing is read or made before the trainer does: Lightning calls its hooks in their usual order.
    """
    if configuration.is_of_task:
        return build(configuration, stage, checkpoint, has_run=has_run)
    return _build_plain(configuration, stage, checkpoint)


def build(
    configuration: Configuration, stage: Stage, checkpoint: Path | None = None, *, has_run: bool = False
) -> Experiment:
    """Read the data, and build the task for it and the trainer. Nothing is written except the cache of the data.

    Args:
        checkpoint: take vocabulary, labels, architecture and weights from this file. Settings that differ from the
            stored configuration take precedence, as long as the weights fit.
        has_run: a run with these settings exists: what it trained with is not refused as being of no use.

    Raises:
        ConfigError, DataError: a setting or the data cannot be used, or the model is no task of lightrail.
    """
    _prepare(configuration)
    _refuse_plain(configuration)
    data = _data_of_task(configuration)
    stored = read_checkpoint(checkpoint) if checkpoint else None
    if stored is not None:
        _adopt(data, configuration, stored, str(checkpoint))
    if stage == "fit":
        configuration = with_length(configuration, data)
    trainer, predictions = _trainer(configuration)
    check_strategy(trainer)
    if stage != "predict":
        check_processes(trainer)
    data.setup(stage)
    first = None
    if stored is None and configuration.init_from is not None:
        first = FirstWeights.read(configuration.init_from, configuration.tracking())
        if facts := first.continued(data.facts()):
            data = _data_of_task(configuration)
            data.adopt(facts)
            data.setup(stage)
    for split in _SPLITS[stage]:
        data.dataset(split)  # refuses what batches cannot be made of
    model = _fresh(configuration, data.facts()) if stored is None else _restored(configuration, stored, str(checkpoint))
    assert isinstance(model, TaskModule)
    ancestor = None if first is None else first.into(model)
    check_limits(trainer, data, stage, has_run=has_run)
    _check_texts(data, model, stage)
    if stage == "fit":
        _check_training(model, trainer)
        check_loggers(configuration.tracking())
        check_callbacks(trainer, model, configuration.callbacks())
        trainer.callbacks[:0] = sampled_text(model, configuration.tracking().samples)  # type: ignore[attr-defined]
    if configuration.values["trainer"]["enable_checkpointing"] is not False:
        kept = configuration.tracking().checkpoint
        trainer.callbacks += checkpoint_callbacks(model, trainer.callbacks, kept)  # type: ignore[attr-defined]
    return Experiment(configuration, data, model, trainer, predictions, ancestor)


def build_again(experiment: Experiment, configuration: Configuration) -> Experiment:
    """Build data and trainer for further predictions with the model of an experiment, which is not read again.

    Args:
        configuration: that of the experiment but for settings of the data.

    Raises:
        ConfigError, DataError: the data cannot be used.
    """
    _prepare(configuration)
    data, model = _data_of_task(configuration), experiment.model
    data.adopt(configuration.facts_among(model.hparams))
    trainer, predictions = _trainer(configuration)
    data.setup("predict")
    check_limits(trainer, data, "predict")
    _check_texts(data, model, "predict")
    return Experiment(configuration, data, model, trainer, predictions)


def build_in_memory(configuration: Configuration, checkpoint: Path) -> tuple[DataModule, TaskModule]:
    """Build the data and the task of a checkpoint, in evaluation mode, to predict what is given in memory.

    Raises:
        ConfigError: the checkpoint cannot be used, or its model is no task of lightrail.
    """
    _prepare(configuration)
    _refuse_plain(configuration)
    data, stored = _data_of_task(configuration), read_checkpoint(checkpoint)
    _adopt(data, configuration, stored, str(checkpoint))
    return data, _restored(configuration, stored, str(checkpoint)).eval()


def build_resident(configuration: Configuration, checkpoint: Path) -> Experiment:
    """Build the data, the task and the trainer of a checkpoint for any number of predictions, without reading data.

    Raises:
        ConfigError: a setting or the checkpoint cannot be used, or its model is no task of lightrail.
    """
    data, model = build_in_memory(configuration, checkpoint)
    trainer, predictions = _trainer(configuration)
    check_strategy(trainer)
    model.configure_model()
    return Experiment(configuration, data, model, trainer, predictions)


def _refuse_plain(configuration: Configuration) -> None:
    if not configuration.is_of_task:
        name = configuration.values["model"]["class_path"].rpartition(".")[2]
        raise ConfigError(
            f"model: {name} is not derived from TaskModule of lightrail, and this needs a task: a plain "
            "LightningModule is trained, tested, resumed, reproduced and searched, and predicts by its predict_step."
        )


def _adopt(data: DataModule, configuration: Configuration, checkpoint: dict[str, Any], name: str) -> None:
    """Have data encoded with the facts of a checkpoint's task. Raises: ConfigError."""
    _check_task(configuration, checkpoint, name)
    with reading(f"{name} cannot be rebuilt", DAMAGED):
        arguments = checkpoint[TaskModule.CHECKPOINT_HYPER_PARAMS_KEY]
        check_facts(import_class(configuration.values["model"]["class_path"]), arguments)
        data.adopt(configuration.facts_among(arguments))


def _data_of_task(configuration: Configuration) -> DataModule:
    """Return the data, which is not read yet."""
    data = configuration.data()
    if not isinstance(data, DataModule):
        raise ConfigError(
            f"data: {type(data).__name__} is not derived from DataModule of lightrail, whose batches the task "
            f"{configuration.values['model']['class_path'].rpartition('.')[2]} needs. Name one (lightrail list)."
        )
    data.order_seed = configuration.seed
    return data


def _prepare(configuration: Configuration) -> None:
    take_over_lightning()
    leave_at_exit()
    set_threads()
    seed_all([configuration.seed])


def _build_plain(configuration: Configuration, stage: Stage, checkpoint: Path | None) -> PlainExperiment:
    """Build a plain module, its data and a trainer, without reading data. Raises: ConfigError."""
    _prepare(configuration)
    check_loggers(configuration.tracking())
    if configuration.init_from is not None:
        raise ConfigError(
            "model.init_from is for tasks of lightrail, which know what the rows of their weights stand for. Load "
            "weights in the constructor of your module."
        )
    if checkpoint is not None:
        _check_task(configuration, read_checkpoint(checkpoint), str(checkpoint))
    if stage == "fit" and not configuration.has_length:
        configuration = configuration.of_length(LIGHTNING_EPOCHS, f"trainer.max_epochs {LIGHTNING_EPOCHS}, Lightning's")
    trainer, predictions = _trainer(configuration)
    data: pl.LightningDataModule | None = configuration.data()
    facts: Mapping[str, Any] = {}
    if isinstance(data, DataModule):
        data.order_seed = configuration.seed
        data.setup(stage)
        facts = data.facts()
    data = None if isinstance(data, OwnLoaders) else data
    module = _fresh(configuration, facts)
    take_callbacks(module, trainer)
    if stage != "predict":
        check_processes(trainer)
    if stage == "fit":
        if not is_overridden("training_step", module):
            raise ConfigError(f"model: {type(module).__name__} has no training_step, and cannot be trained.")
        if not isinstance(data, DataModule):
            make_repeatable(data or module, configuration.seed)
        check_reserved_names(trainer)
        add_checkpoints(module, trainer, configuration)
    return PlainExperiment(configuration, data, module, trainer, predictions, checkpoint)


def _check_task(configuration: Configuration, checkpoint: dict[str, Any], name: str) -> None:
    for section in ("model", "data"):
        given, stored = (
            values[section]["class_path"].rpartition(".")[2]
            for values in (configuration.values, stored_configuration(checkpoint, name))
        )
        if given != stored:
            raise ConfigError(
                f"{name} is a checkpoint of {stored}, and the configuration asks for {given}. "
                "Use the configuration it was trained with, or no --config."
            )


def _check_texts(data: DataModule, model: TaskModule, stage: Stage) -> None:
    """Refuse texts that a network cannot read: of another tokenizer, or longer than its positions. Raises: ConfigError.

    Only the longest rows are looked at; any other one is refused when it is read.
    """
    networks = [part for part in model.modules() if isinstance(part, TokenNetwork)]
    tokens = data.token_ids() if any(own.own_tokens is not None or own.num_vectors for own in networks) else None
    splits = _SPLITS[stage]
    for network in networks:
        if tokens is not None:
            network.check_tokens(tokens)
        if network.num_vectors and max((tokens or {}).values(), default=0) >= network.num_vectors:
            network.check_ids(max(int(data.rows(split).values("input_ids").max(initial=0)) for split in splits))
        for rows in (data.dataset(split) for split in splits if network.max_length is not None):
            lengths = data.lengths(rows).reshape(len(rows), -1).max(1)
            for number in np.argsort(-lengths)[:_NUM_LONGEST].tolist():
                if lengths[number] <= network.max_length:
                    break
                # Whether a row is one text, or several windows or documents that are short enough, its batch shows.
                batch = data.collate([row_for_batch(rows, number)])
                if "input_ids" in batch:
                    network.check_length(batch["input_ids"], batch.get("document_ids"))


def _check_training(model: TaskModule, trainer: pl.Trainer) -> None:
    """Refuse settings that Lightning would refuse only after the start of the run. Raises: ConfigError."""
    if trainer.precision == "16-true":
        raise ConfigError(
            "trainer.precision is 16-true, which can only evaluate: the square of a gradient below 0.0002 is 0 in "
            "float16, and the optimizer divides by it. Train with 16-mixed, bf16-mixed or bf16-true."
        )
    model.configure_model()
    is_endless = trainer.max_epochs in (None, -1) and trainer.max_steps == -1
    model.optim.check_validation(trainer.limit_val_batches)
    optimizer = build_optimizer(model, model.optim)
    steps = trainer.max_steps if trainer.max_steps > 0 else _USUAL_LENGTH
    build_schedule(optimizer, model.optim, math.inf if is_endless else steps, model.monitor_mode)


def _fresh(configuration: Configuration, facts: Mapping[str, Any]) -> pl.LightningModule:
    try:
        return configuration.model(configuration.facts_among(facts))
    except (MemoryError, OverflowError, RuntimeError) as error:
        words = ("allocate memory", "out of memory", "overflow")
        if isinstance(error, RuntimeError) and not any(word in str(error) for word in words):
            raise
        raise ConfigError(
            f"model: its weights do not fit into memory: {first_line(error)}. Give smaller sizes."
        ) from error


def _restored(configuration: Configuration, checkpoint: dict[str, Any], name: str) -> TaskModule:
    """Build the task of a checkpoint with its weights, under the settings of the configuration."""
    given, before = (values["model"]["init_args"] for values in (configuration.values, checkpoint["configuration"]))
    with rebuilding(name):
        arguments = stored_arguments(import_class(configuration.values["model"]["class_path"]), checkpoint)
    with reading(f"{name} cannot be rebuilt", DAMAGED):
        unchanged = {key: value for key, value in arguments.items() if given.get(key) == before.get(key)}
        model = configuration.model(unchanged)
    try:
        fill(model, checkpoint["state_dict"])
    except ValueError as error:
        changed = ", ".join(f"model.{key}" for key in given if given[key] != before.get(key)) or "the data's settings"
        raise ConfigError(
            f"{name}: its weights do not fit this model, in which {changed} differs. Undo that."
        ) from error
    assert isinstance(model, TaskModule)
    return model


def _trainer(configuration: Configuration) -> tuple[pl.Trainer, PredictionTable]:
    arguments = configuration.trainer_arguments()
    is_of_task, is_of_data = configuration.is_of_task, configuration.is_of_data
    predictions = PredictionTable() if is_of_task else PlainPredictions()
    given = arguments["callbacks"]
    shows_progress = arguments["enable_progress_bar"] is not False
    own: list[pl.Callback] = [StepSeeds(configuration.seed), Throughput(), SystemMetrics(), predictions]
    if configuration.tracking().non_finite_loss == "stop":
        own.append(StopWhenNotFinite())
    if shows_progress and not any(isinstance(callback, ProgressBar) for callback in given):
        own.append(TrainingProgress())
    accelerator = usable_accelerator(str(arguments["accelerator"]))
    arguments |= {
        "accelerator": accelerator,
        "callbacks": [*own, *given],
        "plugins": [_checkpoint_io(configuration), *(arguments["plugins"] or [])],
        "precision": arguments["precision"] or (fastest_precision(accelerator) if is_of_task else None),
        # The batches of our own data are split among the processes already.
        "use_distributed_sampler": arguments["use_distributed_sampler"] and not is_of_data,
        "num_sanity_val_steps": arguments["num_sanity_val_steps"] or 0,
        # Ours are added once the model is built; Lightning would add one that keeps the last under another name.
        "enable_checkpointing": any(isinstance(callback, Checkpoint) for callback in given),
        "enable_model_summary": bool(arguments["enable_model_summary"]),
        "enable_progress_bar": shows_progress,
        "logger": False,  # set when the run has been started
    }
    _check_numbers(arguments)
    try:
        trainer = pl.Trainer(**arguments)
    except Exception as error:
        raise ConfigError(f"trainer: {plain(str(error), 500)}") from error
    return trainer, predictions


def _checkpoint_io(configuration: Configuration) -> DurableCheckpointIO:
    if configuration.is_of_task:
        return DurableCheckpointIO(configuration.values)
    return PlainCheckpointIO(configuration.values, import_class(configuration.values["model"]["class_path"]))


def _check_numbers(arguments: dict[str, Any]) -> None:
    """Refuse values that Lightning accepts and then fails on or trains wrongly with. Raises: ConfigError."""
    if arguments["barebones"]:
        raise ConfigError(
            "trainer.barebones is true: Lightning then logs nothing, and a run has no metrics. Remove it."
        )
    share = arguments["overfit_batches"]
    if isinstance(share, float) and share > 1:
        raise ConfigError(
            f"trainer.overfit_batches is {share:g}, a share above 1: Lightning would train each batch that often. Give "
            "a whole number of batches, or a share up to 1."
        )
