"""Checkpoints, written whole or not at all, with configuration and run; and seeding that needs no stored state."""

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
import torch.distributed
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, WeightAveraging
from typing_extensions import override

from lightrail.lightning_modules.base import TaskModule
from lightrail.lightning_modules.checkpoint import read_checkpoint
from lightrail.project.basics.durable import link_or_copy, replacing
from lightrail.project.basics.private_names import is_accumulating, is_epoch_over, is_validation_due
from lightrail.project.basics.reading import reading, regular_file
from lightrail.project.tracking.logger import is_process_zero
from lightrail.project.tracking.processes import exception_for
from lightrail.project.tracking.settings import CheckpointConfig
from lightrail.project.training.stopping import StopRequest, queue_again

BEST, LAST = "best.ckpt", "last.ckpt"


class LastCheckpoint(Checkpoint):
    """Keeps the newest state as `last.ckpt`, and stops training after writing it when a signal was received.

    A state is written only where resuming skips and repeats nothing: after an optimizer step; where a validation is
    due, after it; and at the end of an epoch after all other callbacks. All processes write and stop at the same step.

    Args:
        config: how often a state is written, in addition to after each validation.
    """

    def __init__(self, config: CheckpointConfig) -> None:
        self.config = config
        self.is_called_after_batch = self.is_called_between_epochs = False
        """Whether another calls `after_batch`, or `save_between_epochs`, later than the hook of this callback."""
        self.path: Path | None = None
        self.after_saving: Callable[[], None] | None = None
        self.stop = StopRequest()
        self._stop_number = 0
        self._is_due = self._is_stopped_early = self._is_between_epochs = False
        self._step = 0
        self._saved_at = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._step, self._saved_at = trainer.global_step, time.monotonic()
        self._is_due, self._stop_number = False, 0
        if self._is_stopped_early:
            trainer.should_stop = True  # an early stop decided before the checkpoint, which Lightning does not restore
        self.stop.listen()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self.is_called_after_batch:
            self.after_batch(trainer)

    def after_batch(self, trainer: pl.Trainer) -> None:
        """Write a state if one is due and the batch ended an optimizer step."""
        if trainer.global_step == self._step:
            return  # gradients are still being accumulated, and checkpoints do not contain them
        self._step = trainer.global_step
        self._agree(trainer)
        if not (is_epoch_over(trainer) or is_validation_due(trainer)):
            self._save_if(trainer, self._is_due)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._agree(trainer)  # again: the validation may have taken long
            self._is_due = True
            is_between_steps = not is_accumulating(trainer)
            self._save_if(trainer, is_between_steps and not is_epoch_over(trainer))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # After max_steps Lightning ends the epoch in the middle: its state is already written, as a mid-epoch one.
        self._is_between_epochs = is_epoch_over(trainer)
        if not self.is_called_between_epochs:
            self.save_between_epochs(trainer)

    def save_between_epochs(self, trainer: pl.Trainer) -> None:
        """Write a state if one is due and an epoch is over."""
        self._save_if(trainer, self._is_due and self._is_between_epochs)
        self._is_between_epochs = False

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._is_due |= self.is_called_between_epochs  # without a validation there are no other weights
        self.save_between_epochs(trainer)
        self.stop.ignore()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.stop.ignore()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["is_stopped_early"] = trainer.should_stop
        if self._is_between_epochs:
            checkpoint["loops"]["fit_loop"] = _before_the_next_epoch(checkpoint["loops"]["fit_loop"])

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._is_stopped_early = checkpoint.get("is_stopped_early", False)

    def _agree(self, trainer: pl.Trainer) -> None:
        """Decide whether to write and to stop, for all processes together, by the clock of the first."""
        seconds = time.monotonic() - self._saved_at if trainer.is_global_zero else 0.0
        flags = [self.stop.number, int(seconds >= 60 * self.config.every_minutes)]
        if trainer.world_size > 1:
            tensor = torch.tensor(flags, device=trainer.strategy.root_device)
            torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.MAX)
            flags = tensor.tolist()
        self._stop_number = flags[0]
        is_at_step = self.config.every_steps is not None and trainer.global_step % self.config.every_steps == 0
        self._is_due |= any(flags) or is_at_step or trainer.global_step == trainer.max_steps

    def _save_if(self, trainer: pl.Trainer, is_due: bool) -> None:
        if not is_due or self.path is None:
            return
        trainer.save_checkpoint(self.path)
        self._is_due, self._saved_at = False, time.monotonic()
        if self.after_saving is not None:
            self.after_saving()
        if self._stop_number:
            _leave(trainer, self._stop_number)


def _before_the_next_epoch(state: dict[str, Any]) -> dict[str, Any]:
    """Convert the progress of the loops at the end of an epoch to that at the start of the next one."""
    # With `max_steps` Lightning, resumed at the end of an epoch, would count it twice and skip the next one.
    progress = state["epoch_progress"]
    for counts in progress.values():
        counts |= dict.fromkeys(counts, counts["processed"])
    return {name: _with_current_zero(item) if name.startswith("epoch_loop.") else item for name, item in state.items()}


def _with_current_zero(progress: Any) -> Any:
    if not isinstance(progress, dict):
        return False if progress is True else progress  # is_last_batch
    zero = {name: dict.fromkeys(item, 0) for name, item in progress.items() if name == "current"}
    return {name: _with_current_zero(item) for name, item in progress.items()} | zero


def _leave(trainer: pl.Trainer, number: int) -> None:
    if not trainer.is_global_zero:
        raise SystemExit(0)  # on another status Lightning kills the first process, which still writes the run's end
    if number == signal.SIGUSR1:
        queue_again()
    raise exception_for(number)


class DurableCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints under a temporary name, syncs and renames: a kill or a full disk leaves the old file intact.

    Args:
        configuration: stored in each checkpoint, so that test and predict need only the file.
    """

    def __init__(self, configuration: dict[str, Any]) -> None:
        self.configuration = configuration
        self.run: dict[str, str] = {}
        """`id` and `folder` of the run; empty before its start."""

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any = None) -> None:
        _write_whole({**checkpoint, "configuration": self.configuration, "run": self.run}, Path(path))

    @override
    def load_checkpoint(
        self, path: _PATH, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint, with the paths in its callbacks' states moved to the folder of this run."""
        regular_file(Path(path), "checkpoint")
        # ModelCheckpoint resets its best score when its folder has changed, and would keep the next one, however bad.
        with reading(f"{path} is not a checkpoint that can be read", "Restore it from a copy, or start a new run."):
            checkpoint: dict[str, Any] = super().load_checkpoint(path, map_location, weights_only)
        before, now = checkpoint.get("run", {}).get("folder", ""), self.run.get("folder", "")
        if before and now and before != now and "callbacks" in checkpoint:
            checkpoint["callbacks"] = _moved(checkpoint["callbacks"], before, now)
        return checkpoint


def checkpoint_callbacks(model: TaskModule, given: list[Callback], config: CheckpointConfig) -> list[Checkpoint]:
    """Build the callbacks that keep `best.ckpt`, by the task's own metric, and `last.ckpt`.

    Args:
        given: callbacks of the configuration. A ModelCheckpoint with a `monitor` among them replaces `best.ckpt`.
    """
    if best_checkpoint(given):
        return [LastCheckpoint(config)]
    best = ModelCheckpoint(
        filename=BEST.removesuffix(".ckpt"),
        monitor=model.monitor,
        mode=model.monitor_mode,
        save_top_k=1,
        # Averaged weights are the validated ones, and only full checkpoints contain them.
        save_weights_only=not any(isinstance(callback, WeightAveraging) for callback in given),
        save_on_train_epoch_end=False,
        enable_version_counter=False,
    )
    return [best, LastCheckpoint(config)]


def best_checkpoint(callbacks: list[Callback]) -> ModelCheckpoint | None:
    """Return the callback that keeps the best checkpoint: the first ModelCheckpoint with a `monitor` that keeps any."""
    for callback in callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.monitor and callback.save_top_k != 0:
            return callback
    return None


def place_checkpoints(
    trainer: pl.Trainer, folder: Path, run_id: str = "", upload_soon: Callable[[str], None] | None = None
) -> None:
    """Have checkpoint callbacks without their own folder write to `folder`, and every checkpoint name its run.

    Args:
        upload_soon: called after each `last.ckpt` with the name of each new file in `folder`, `last.ckpt` last: even
            if uploads are lost, no stored best checkpoint is older than the state of `last.ckpt`.
    """
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
            callback.dirpath = str(folder)
            callback.save_last = None  # it would write `last.ckpt` where resuming skips or repeats something
        if isinstance(callback, LastCheckpoint):
            callback.path = folder / LAST
            callback.after_saving = _NewFiles(folder, callbacks, upload_soon) if upload_soon else None
    if isinstance(trainer.strategy.checkpoint_io, DurableCheckpointIO):
        trainer.strategy.checkpoint_io.run = {"id": run_id, "folder": str(folder)}


def keep_best(callbacks: list[Callback], folder: Path) -> None:
    """Have `best.ckpt` also where a ModelCheckpoint of the configuration keeps the best under another name."""
    callback = best_checkpoint(callbacks)
    best, own = Path(callback.best_model_path if callback else ""), folder / BEST
    if is_process_zero() and best.is_file() and not (own.is_file() and own.samefile(best)):
        link_or_copy(best, own)


def store_buffers(model: TaskModule, path: Path) -> None:
    """Replace the buffers in a checkpoint by those of the model, which has the same weights, in one atomic write."""
    checkpoint, state = read_checkpoint(path), model.state_dict()
    checkpoint["state_dict"] |= {name: state[name].cpu() for name, _ in model.named_buffers() if name in state}
    _write_whole(checkpoint, path)


def _write_whole(checkpoint: dict[str, Any], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as stream:
        torch.save(checkpoint, stream)


class _NewFiles:
    """Reports the checkpoints written since the last call, `last.ckpt` last."""

    def __init__(self, folder: Path, callbacks: list[Callback], report: Callable[[str], None]) -> None:
        self.folder, self.callbacks, self.report = folder, callbacks, report
        self.times: dict[str, int] = {}

    def __call__(self) -> None:
        keep_best(self.callbacks, self.folder)
        files = self.folder.rglob("*.ckpt")  # a metric's name in a file's name, `val/loss`, makes a folder
        times = {str(file.relative_to(self.folder)): file.stat().st_mtime_ns for file in files}
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


class StepSeeds(Callback):
    """Seeds all generators before each training batch, from the run's seed, the batch number and the process rank.

    Dropout at step 1,000 is then the same whether or not the run was interrupted at 999, whatever a validation or a
    callback has drawn in between: there is no random state that a checkpoint could fail to restore.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        num_batches = trainer.fit_loop.epoch_loop.batch_progress.total.ready  # checkpoints restore it
        seed_all([self.seed, num_batches, trainer.global_rank])


def seed_all(entropy: list[int]) -> None:
    """Seed Python, NumPy and PyTorch on all devices from a list of integers."""
    first, second, third = np.random.SeedSequence(entropy).generate_state(3).tolist()
    random.seed(first)
    np.random.seed(second)  # libraries use the global generator
    torch.manual_seed(third)
