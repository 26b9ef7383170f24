"""Checkpoints: written whole or not at all, the best and the last kept, each with its configuration."""

import os
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from typing_extensions import override

from lightning_modules import TaskModule


class DurableCheckpointIO(TorchCheckpointIO):
    """Writes under a temporary name, syncs and renames: a kill or a full disk leaves the file before intact.

    Args:
        configuration: stored in each checkpoint, so that the file alone can be tested and predicted with.
    """

    def __init__(self, configuration: dict[str, Any]) -> None:
        self.configuration = configuration

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any = None) -> None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_name(target.name + ".unfinished")
        try:
            with unfinished.open("wb") as stream:
                torch.save({**checkpoint, "configuration": self.configuration}, stream)
                stream.flush()
                os.fsync(stream.fileno())
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)


class LastCheckpoint(ModelCheckpoint):
    """Keeps the newest state as `last.ckpt`.

    Checkpoints hold the state of callbacks by class and settings. Were this no class of its own, a ModelCheckpoint of
    the configuration might be given this one's state when a run goes on, and take `last.ckpt` for its own.
    """

    def __init__(self) -> None:
        super().__init__(filename="last", save_top_k=1, enable_version_counter=False)


def checkpoint_callbacks(model: pl.LightningModule, given: list[Callback]) -> list[ModelCheckpoint]:
    """Make the callbacks that keep `best.ckpt`, by the task's own metric, and `last.ckpt`.

    Args:
        given: callbacks of the configuration. A ModelCheckpoint with a `monitor` among them decides what is best.
    """
    if best_checkpoint(given) or not isinstance(model, TaskModule):
        return [LastCheckpoint()]
    best = ModelCheckpoint(
        filename="best",
        monitor=model.monitor,
        mode=model.monitor_mode,
        save_top_k=1,
        save_weights_only=True,
        enable_version_counter=False,
    )
    return [best, LastCheckpoint()]


def best_checkpoint(callbacks: list[Callback]) -> ModelCheckpoint | None:
    """The callback that keeps the best checkpoint: the first one with a metric to go by."""
    for callback in callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.monitor:
            return callback
    return None


def place_checkpoints(trainer: pl.Trainer, folder: Path) -> None:
    """Have every ModelCheckpoint without a folder of its own write to `folder`."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
            callback.dirpath = str(folder)
