"""The newest state of a training, kept where going on from it ends as if nothing had been."""

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed
from lightning.pytorch.callbacks import Checkpoint

from lightrail.project.training.stopping import StopRequest, exception_for, queue_again
from lightrail.project.tracking.settings import CheckpointConfig


class LastCheckpoint(Checkpoint):
    """Keeps the newest state as `last.ckpt`, and stops training there when a signal asks for it.

    A state is written only where going on from it skips nothing and repeats nothing: after an optimizer step; where a
    validation is due, after that; and at the end of an epoch after all that other callbacks do there. All processes
    write and stop at the same step.

    Args:
        config: how often a state is written besides after each validation.
    """

    def __init__(self, config: CheckpointConfig) -> None:
        self.config = config
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
            trainer.should_stop = True  # an early stop was decided before the checkpoint, and Lightning forgets it
        self.stop.listen()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self._step:
            return  # gradients of this step are still being added up, and checkpoints do not hold them
        self._step = trainer.global_step
        self._agree(trainer)
        if not (_is_epoch_over(trainer) or _is_validation_due(trainer)):
            self._save_if(trainer, self._is_due)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._agree(trainer)  # once more: it may have taken long
            self._is_due = True
            is_between_steps = not trainer.fit_loop.epoch_loop._should_accumulate()
            self._save_if(trainer, is_between_steps and not _is_epoch_over(trainer))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # After max_steps Lightning ends the epoch in the middle: its state is written already, as one in the middle.
        self._is_between_epochs = _is_epoch_over(trainer)
        self._save_if(trainer, self._is_due and self._is_between_epochs)
        self._is_between_epochs = False

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
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
        """Decide whether to write and to stop, on all processes alike; time is that of the first."""
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


def _is_epoch_over(trainer: pl.Trainer) -> bool:
    return bool(trainer.fit_loop.epoch_loop._num_ready_batches_reached())


def _is_validation_due(trainer: pl.Trainer) -> bool:
    fetcher = trainer.fit_loop._data_fetcher
    assert fetcher is not None, "training has begun"
    return bool(trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher))


def _before_the_next_epoch(state: dict[str, Any]) -> dict[str, Any]:
    """Restate the progress of the loops at an epoch's end as that of the next one's start.

    With `max_steps` Lightning would count the epoch once more when it goes on from its end, and skip the next.
    """
    progress = state["epoch_progress"]
    for counts in progress.values():
        counts["completed"] = counts["processed"]
    return {name: _with_current_zero(item) if name.startswith("epoch_loop.") else item for name, item in state.items()}


def _with_current_zero(progress: Any) -> Any:
    if not isinstance(progress, dict):
        return False if progress is True else progress  # is_last_batch
    zero = {name: dict.fromkeys(item, 0) for name, item in progress.items() if name == "current"}
    return {name: _with_current_zero(item) for name, item in progress.items()} | zero


def _leave(trainer: pl.Trainer, number: int) -> None:
    if not trainer.is_global_zero:
        raise SystemExit(0)  # any other status would have Lightning kill the first process, which has the end to write
    if number == signal.SIGUSR1:
        queue_again()
    raise exception_for(number)
