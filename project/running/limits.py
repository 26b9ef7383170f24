"""Settings of the trainer that do not fit the data or a task, refused before the run exists.

Lightning finds them only in training, or understands them in a way that nobody means.
"""

import lightning.pytorch as pl
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BaseFinetuning,
    BatchSizeFinder,
    LearningRateFinder,
    ModelCheckpoint,
    Timer,
)

from lightrail.datamodules.base import DataModule
from lightrail.lightning_modules.base import TaskModule
from lightrail.project.basics.did_you_mean import did_you_mean
from lightrail.project.basics.errors import ConfigError, shown
from lightrail.project.training.checkpoints import BEST, LAST, best_checkpoint

_FREEZING = "Set model.optim.freeze and model.optim.unfreeze_fraction"
UNUSABLE: dict[type, str] = {
    LearningRateFinder: "it needs a model with an attribute `lr`. Search model.optim.lr with `lightrail sweep`",
    BatchSizeFinder: "it needs data with an attribute `batch_size`. `lightrail check` shows the memory of the largest "
    "batch: set data.batch.size or data.batch.max_tokens by it",
    BackboneFinetuning: f"it needs a model with an attribute `backbone`. {_FREEZING}",
    BaseFinetuning: f"it is a base class that freezes nothing. {_FREEZING}",
}
"""Callbacks of Lightning that cannot work here, with the reason and what to use instead."""


def check_callbacks(trainer: pl.Trainer, model: TaskModule) -> None:
    """Refuse callbacks that could only fail, or overwrite the checkpoints of the run. Raises: ConfigError."""
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
            reserved = (LAST,) if callback is best_checkpoint(callbacks) else (BEST, LAST)
            if f"{callback.filename}.ckpt" in reserved:
                raise ConfigError(f"{name} cannot write {callback.filename}.ckpt, which every run has. Set filename.")


def check_limits(trainer: pl.Trainer, data: DataModule, stage: str) -> None:
    """Refuse numbers of batches that the data does not have. Raises: ConfigError naming setting and number."""
    loaders = {
        "train": data.train_dataloader,
        "val": data.val_dataloader,
        "test": data.test_dataloader,
        "predict": data.predict_dataloader,
    }
    for split in {"fit": ("train", "val", "test"), "validate": ("val",)}.get(stage, (stage,)):
        limit = getattr(trainer, f"limit_{split}_batches")
        is_overfit = trainer.overfit_batches > 0 and split != "test"  # type: ignore[attr-defined]
        if isinstance(limit, float) and 0 < limit < 1 and 0 < (number := len(loaders[split]())) * limit < 1:
            name = "overfit_batches" if is_overfit else f"limit_{split}_batches"
            raise ConfigError(
                f"trainer.{name} is {limit}, less than one of the {_batches(number)} for {split}. Give a number of "
                f"batches, such as 1, or a larger share."
            )
    if stage == "fit":
        _check_training_batches(trainer, data)


def _check_training_batches(trainer: pl.Trainer, data: DataModule) -> None:
    every, every_epochs = trainer.val_check_interval, trainer.check_val_every_n_epoch
    accumulated, is_validated = trainer.accumulate_grad_batches, trainer.limit_val_batches > 0
    if every == 0 and is_validated:
        raise ConfigError("trainer.val_check_interval is 0. For no validation set trainer.limit_val_batches to 0.")
    if is_validated and every_epochs and 0 < (trainer.max_epochs or 0) < every_epochs:
        raise ConfigError(
            f"trainer.check_val_every_n_epoch is {every_epochs}, more than trainer.max_epochs ({trainer.max_epochs}): "
            "there would be no validation. Give a smaller number, or set trainer.limit_val_batches to 0."
        )
    is_counted = isinstance(every, int) and is_validated and every_epochs is not None
    if not trainer.limit_train_batches or not (is_counted or accumulated > 1):
        return
    number = num_batches(trainer, len(data.train_dataloader()))
    if is_counted and every > number:
        raise ConfigError(
            f"trainer.val_check_interval is {every}, and an epoch has {_batches(number)}. Give a smaller number, a "
            "share such as 0.5, or set trainer.check_val_every_n_epoch to null to count over epochs."
        )
    if accumulated > number:
        raise ConfigError(
            f"trainer.accumulate_grad_batches is {accumulated}, and an epoch has {_batches(number)}. Give at most "
            f"{number}."
        )


def num_batches(trainer: pl.Trainer, available: int) -> int:
    """Return the number of training batches of an epoch, of those available."""
    limit = trainer.limit_train_batches
    return min(available, limit) if isinstance(limit, int) else int(available * limit)


def _batches(number: int) -> str:
    return "1 batch" if number == 1 else f"{number:,} batches"
