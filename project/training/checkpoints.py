"""Checkpoints: written whole or not at all, the best and the last kept, each with its configuration and its run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, WeightAveraging
from typing_extensions import override

from lightrail.lightning_modules.base import TaskModule, read_checkpoint
from lightrail.project.basics.durable import replacing
from lightrail.project.training.last_checkpoint import LastCheckpoint
from lightrail.project.tracking.settings import CheckpointConfig

BEST, LAST = "best.ckpt", "last.ckpt"


class DurableCheckpointIO(TorchCheckpointIO):
    """Writes under a temporary name, syncs and renames: a kill or a full disk leaves the file before intact.

    Args:
        configuration: stored in each checkpoint, so that the file alone can be tested and predicted with.
    """

    def __init__(self, configuration: dict[str, Any]) -> None:
        self.configuration = configuration
        self.run: dict[str, str] = {}
        """`id` and `folder` of the run that writes; empty before it is started."""

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any = None) -> None:
        _write_whole({**checkpoint, "configuration": self.configuration, "run": self.run}, Path(path))

    @override
    def load_checkpoint(
        self, path: _PATH, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint; what its callbacks keep in the folder of its run is looked for in the folder of this one.

        ModelCheckpoint forgets its best score when its folder has moved, and would keep the next one, however bad.
        """
        checkpoint: dict[str, Any] = super().load_checkpoint(path, map_location, weights_only)
        before, now = checkpoint.get("run", {}).get("folder", ""), self.run.get("folder", "")
        if before and now and before != now and "callbacks" in checkpoint:
            checkpoint["callbacks"] = _moved(checkpoint["callbacks"], before, now)
        return checkpoint


def checkpoint_callbacks(
    model: pl.LightningModule, given: list[Callback], config: CheckpointConfig
) -> list[Checkpoint]:
    """Make the callbacks that keep `best.ckpt`, by the task's own metric, and `last.ckpt`.

    Args:
        given: callbacks of the configuration. A ModelCheckpoint with a `monitor` among them decides what is best.
    """
    if best_checkpoint(given) or not isinstance(model, TaskModule):
        return [LastCheckpoint(config)]
    best = ModelCheckpoint(
        filename=BEST.removesuffix(".ckpt"),
        monitor=model.monitor,
        mode=model.monitor_mode,
        save_top_k=1,
        # Averaged weights are what was validated, and only whole checkpoints hold them.
        save_weights_only=not any(isinstance(callback, WeightAveraging) for callback in given),
        save_on_train_epoch_end=False,
        enable_version_counter=False,
    )
    return [best, LastCheckpoint(config)]


def best_checkpoint(callbacks: list[Callback]) -> ModelCheckpoint | None:
    """The callback that keeps the best checkpoint: the first one with a metric to go by."""
    for callback in callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.monitor:
            return callback
    return None


def place_checkpoints(
    trainer: pl.Trainer, folder: Path, run_id: str = "", upload_soon: Callable[[str], None] | None = None
) -> None:
    """Have every callback without a folder of its own write to `folder`, and every checkpoint name its run.

    Args:
        upload_soon: called after each `last.ckpt` with the name of each new file in `folder`, that one last: whatever
            is lost on the way, no best checkpoint is older than what `last.ckpt` says of it.
    """
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
            callback.dirpath = str(folder)
        if isinstance(callback, LastCheckpoint):
            callback.path = folder / LAST
            callback.after_saving = _NewFiles(folder, upload_soon) if upload_soon else None
    if isinstance(trainer.strategy.checkpoint_io, DurableCheckpointIO):
        trainer.strategy.checkpoint_io.run = {"id": run_id, "folder": str(folder)}


def store_buffers(model: TaskModule, path: Path) -> None:
    """Put the buffers of the model into a checkpoint that holds the same weights; the file is whole at every moment."""
    checkpoint, state = read_checkpoint(path), model.state_dict()
    checkpoint["state_dict"] |= {name: state[name].cpu() for name, _ in model.named_buffers() if name in state}
    _write_whole(checkpoint, path)


def _write_whole(checkpoint: dict[str, Any], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as stream:
        torch.save(checkpoint, stream)


class _NewFiles:
    """Names the checkpoints that were written since the last call."""

    def __init__(self, folder: Path, report: Callable[[str], None]) -> None:
        self.folder, self.report = folder, report
        self.times: dict[str, int] = {}

    def __call__(self) -> None:
        times = {file.name: file.stat().st_mtime_ns for file in self.folder.glob("*.ckpt")}
        for name in sorted(times, key=lambda name: name == LAST):
            if times[name] != self.times.get(name):
                self.report(f"{self.folder.name}/{name}")
        self.times = times


def _moved(value: Any, before: str, now: str) -> Any:
    """Replace the folder `before` by `now` in every text, keys included."""
    if isinstance(value, dict):
        return {_moved(key, before, now): _moved(item, before, now) for key, item in value.items()}
    if isinstance(value, str) and (value == before or value.startswith(f"{before}/")):
        return now + value.removeprefix(before)
    return value
