"""Settings of the trainer that do not fit the data or a task, refused before the run exists.

Lightning finds them only in training, or understands them in a way that nobody means.
"""

import os

import lightning.pytorch as pl
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from lightrail.datamodules.base import DataModule
from lightrail.project.basics.errors import ConfigError
from lightrail.project.basics.private_names import validation_seconds


def check_strategy(trainer: pl.Trainer) -> None:
    """Refuse strategies under which the processes of a task would not train one model. Raises: ConfigError.

    Without a plan of a network's parts ModelParallelStrategy trains one model per process, each on its part of the
    batches; and clipping, freezing and calibration look at whole parameters, of which FSDP and DeepSpeed keep shards.
    """
    if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
        raise ConfigError(
            f"trainer.strategy is {type(trainer.strategy).__name__}, which divides a model among processes; a task of "
            "lightrail is whole on each. Use ddp, or a smaller batch with trainer.accumulate_grad_batches."
        )


def check_processes(trainer: pl.Trainer) -> None:
    """Refuse processes that `torchrun` started and the trainer does not know of: each would train a model of its own.

    Raises: ConfigError.
    """
    started = os.environ.get("WORLD_SIZE", "1") if "TORCHELASTIC_RUN_ID" in os.environ else "1"
    if started != "1" and started != str(trainer.world_size):
        on_each = os.environ.get("LOCAL_WORLD_SIZE", started)
        raise ConfigError(
            f"torchrun started {started} processes, and trainer.devices x trainer.num_nodes is {trainer.world_size}. "
            f"Give trainer.devices={on_each}, and trainer.num_nodes where there are several machines."
        )


def check_limits(trainer: pl.Trainer, data: DataModule, stage: str, *, has_run: bool = False) -> None:
    """Refuse numbers of batches that the data does not have. Raises: ConfigError naming setting and number.

    Args:
        has_run: a run with these settings exists: what it trained with is not refused as being of no use.
    """
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
        _check_training_batches(trainer, data, has_run=has_run)


def _check_training_batches(trainer: pl.Trainer, data: DataModule, *, has_run: bool) -> None:
    seconds = validation_seconds(trainer)
    every = trainer.val_check_interval if seconds is None else seconds  # Lightning sets it only when it counts batches
    every_epochs, accumulated = trainer.check_val_every_n_epoch, trainer.accumulate_grad_batches
    is_validated = trainer.limit_val_batches > 0
    if every <= 0 and is_validated:
        unit = "" if seconds is None else " seconds"
        raise ConfigError(
            f"trainer.val_check_interval is {every:g}{unit}. For no validation set trainer.limit_val_batches to 0."
        )
    if is_validated and every_epochs and 0 < (trainer.max_epochs or 0) < every_epochs and not has_run:
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
    if accumulated > number and not has_run:
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
