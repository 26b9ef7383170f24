"""Callbacks that could only fail in training, refused before the run exists."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BaseFinetuning,
    BasePredictionWriter,
    BatchSizeFinder,
    Callback,
    Checkpoint,
    EarlyStopping,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    LambdaCallback,
    LearningRateFinder,
    ModelCheckpoint,
    ModelPruning,
    ModelSummary,
    OnExceptionCheckpoint,
    ProgressBar,
    RichModelSummary,
    RichProgressBar,
    StochasticWeightAveraging,
    Timer,
    WeightAveraging,
)
from rich.console import Console

from lightrail.lightning_modules.base import TaskModule
from lightrail.lightning_modules.optimization import parameter_groups
from lightrail.project.basics.did_you_mean import did_you_mean
from lightrail.project.basics.durable import UNFINISHED
from lightrail.project.basics.errors import ConfigError, first_line, shown
from lightrail.project.basics.reading import quoted_path
from lightrail.project.training.checkpoints import BEST, LAST, best_checkpoint

_FREEZING = "Set model.optim.freeze and model.optim.unfreeze_fraction"
UNUSABLE: dict[type, str] = {
    LearningRateFinder: "it needs a model with an attribute `lr`. Use `lightrail check --find lr`",
    BatchSizeFinder: "it needs data with an attribute `batch_size`. Use `lightrail check --find batch_size`",
    BackboneFinetuning: f"it needs a model with an attribute `backbone`. {_FREEZING}",
    BasePredictionWriter: "it is a base class. `lightrail predict` writes predictions",
    Callback: "it is a base class. Derive your own, and allow its module with --allow_modules",
    Checkpoint: "it is a base class. Use ModelCheckpoint",
    LambdaCallback: "it takes functions, which a configuration cannot name. Derive your own class from Callback",
    ProgressBar: "it is a base class. Use RichProgressBar or TQDMProgressBar, or none for that of every run",
    BaseFinetuning: f"it is a base class that freezes nothing. {_FREEZING}",
}
"""Callbacks of Lightning that cannot work here, with the reason and what to use instead."""
LONGEST_FILE_NAME = 255 - len(UNFINISHED)
"""Bytes of a checkpoint's name, metrics filled in, with its ending."""


def check_callbacks(
    trainer: pl.Trainer, model: TaskModule, arguments: Iterable[tuple[type, Mapping[str, Any]]]
) -> None:
    """Refuse callbacks that could only fail, or overwrite the checkpoints of the run. Raises: ConfigError.

    Args:
        arguments: class and arguments of each callback of the configuration.
    """
    check_reserved_names(trainer)
    callbacks, known = trainer.callbacks, model.validation_metrics()  # type: ignore[attr-defined]
    for callback in callbacks:
        name = f"trainer.callbacks: {type(callback).__name__}"
        if type(callback) in UNUSABLE:
            raise ConfigError(f"{name} cannot be used here: {UNUSABLE[type(callback)]}.")
        monitor = getattr(callback, "monitor", None)
        if monitor is not None and monitor not in known:
            raise ConfigError(f"{name} has no metric {shown(monitor)}.{did_you_mean(str(monitor), known)}")
        if isinstance(callback, Timer) and (left := callback.time_remaining()) is not None and left <= 0:
            raise ConfigError("trainer.max_time, or the duration of a Timer, is not above 0. Give a longer time.")
        if isinstance(callback, ModelCheckpoint):
            _check_file_name(callback, known, name)
    for kind, given in arguments:
        for fault in _FAULTS[kind](given, trainer, model) if kind in _FAULTS else ():
            raise ConfigError(f"trainer.callbacks: {kind.__name__}.{fault}")


def check_reserved_names(trainer: pl.Trainer) -> None:
    """Refuse callbacks that would overwrite the checkpoints of the run. Raises: ConfigError."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    for callback in (own for own in callbacks if isinstance(own, ModelCheckpoint)):
        if f"{callback.filename}.ckpt" in ((LAST,) if callback is best_checkpoint(callbacks) else (BEST, LAST)):
            raise ConfigError(
                f"trainer.callbacks: {type(callback).__name__} cannot write {callback.filename}.ckpt, which every run "
                "has. Set filename."
            )


def _check_file_name(callback: ModelCheckpoint, known: Iterable[str], name: str) -> None:
    """Fill the name of a checkpoint in as Lightning does after a validation."""
    metrics = {metric: torch.tensor(0.5) for metric in known} | {key: torch.tensor(1) for key in ("epoch", "step")}
    try:
        written = Path(callback.format_checkpoint_name(metrics))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{name}.filename is {shown(callback.filename)}, which cannot be filled in: {first_line(error)}. "
            "Write names in braces, such as {epoch}-{val/loss:.2f}."
        ) from error
    if any(len(os.fsencode(part)) > LONGEST_FILE_NAME for part in written.parts):
        raise ConfigError(f"{name}.filename is longer than {LONGEST_FILE_NAME} bytes. Give a shorter one.")


def _early_stopping(given: Mapping[str, Any], trainer: pl.Trainer, _model: TaskModule) -> Iterator[str]:
    if not given["strict"]:
        return
    found, every = f"monitor is {given['monitor']}", trainer.check_val_every_n_epoch
    if not trainer.limit_val_batches:
        yield f"{found}, and trainer.limit_val_batches is 0. Validate, or remove the callback."
    elif given["check_on_train_epoch_end"] and every not in (None, 1):
        yield (
            f"check_on_train_epoch_end is true, and trainer.check_val_every_n_epoch is {every}: the first epoch ends "
            "without a validation. Set check_on_train_epoch_end to false."
        )


def _weight_averaging(given: Mapping[str, Any], _trainer: pl.Trainer, _model: TaskModule) -> Iterator[str]:
    device = given.get("device")
    try:
        torch.empty(0, device=device)
    except Exception as error:  # AssertionError, RuntimeError, AcceleratorError: it depends on the device
        yield f"device is {shown(device)}, which cannot be used: {first_line(error).rstrip('.')}. Set it to cpu."


def _stochastic_weight_averaging(given: Mapping[str, Any], trainer: pl.Trainer, model: TaskModule) -> Iterator[str]:
    yield from _weight_averaging(given, trainer, model)
    rates, number = given["swa_lrs"], len(parameter_groups(model, model.optim))
    if isinstance(rates, list) and len(rates) != number:
        yield f"swa_lrs has {len(rates)} rates, and the optimizer has {number} groups. Give one number for all."
    if given["annealing_epochs"] < 0:
        yield f"annealing_epochs is {given['annealing_epochs']}. Give a number of at least 0."
    if isinstance(given["swa_epoch_start"], float) and trainer.max_epochs in (None, -1):
        yield f"swa_epoch_start is {given['swa_epoch_start']} of trainer.max_epochs, which is not set. Set it."


def _accumulation(_given: Mapping[str, Any], trainer: pl.Trainer, _model: TaskModule) -> Iterator[str]:
    if trainer.accumulate_grad_batches > 1:
        yield (
            f"scheduling is given, and trainer.accumulate_grad_batches is {trainer.accumulate_grad_batches}. "
            "Give only one of them."
        )


def _summary(given: Mapping[str, Any], _trainer: pl.Trainer, _model: TaskModule) -> Iterator[str]:
    if given["max_depth"] < -1:
        yield f"max_depth is {given['max_depth']}. Give a number of levels, 0 for none, or -1 for all."


def _progress(given: Mapping[str, Any], _trainer: pl.Trainer, _model: TaskModule) -> Iterator[str]:
    try:
        Console(**(given["console_kwargs"] or {}))
    except Exception as error:
        yield f"console_kwargs is {shown(given['console_kwargs'])}: {first_line(error)}. Remove it."


def _pruning(given: Mapping[str, Any], _trainer: pl.Trainer, model: TaskModule) -> Iterator[str]:
    amount, most = given["amount"], sum(weight.numel() for weight in model.parameters())
    if not 0 <= amount <= (1 if isinstance(amount, float) else most):
        yield f"amount is {amount}. Give a share from 0.0 to 1.0, or a number of the {most:,} weights."


def _folder(given: Mapping[str, Any], _trainer: pl.Trainer, _model: TaskModule) -> Iterator[str]:
    folder = str(given["dirpath"] or "")
    if not folder or "://" in folder:
        return
    absolute = Path(folder).absolute()
    existing = next(place for place in (absolute, *absolute.parents) if os.path.lexists(place))
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        yield f"dirpath is {shown(folder)}, and {quoted_path(existing)} is no folder that can be written. Name another."


Faults: TypeAlias = Callable[[Mapping[str, Any], pl.Trainer, TaskModule], Iterator[str]]
_FAULTS: dict[type, Faults] = {
    EarlyStopping: _early_stopping,
    StochasticWeightAveraging: _stochastic_weight_averaging,
    EMAWeightAveraging: _weight_averaging,
    WeightAveraging: _weight_averaging,
    GradientAccumulationScheduler: _accumulation,
    ModelCheckpoint: _folder,
    ModelPruning: _pruning,
    ModelSummary: _summary,
    RichModelSummary: _summary,
    OnExceptionCheckpoint: _folder,
    RichProgressBar: _progress,
}
"""Per class of Lightning: what is wrong with its arguments, each beginning with the name of one."""
