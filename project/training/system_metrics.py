"""How fast a run trains."""

import time
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed
from lightning.pytorch import Callback


class Throughput(Callback):
    """Logs examples and tokens a second over all processes, padding and the time of validation left out."""

    def __init__(self) -> None:
        self._num_examples = self._num_tokens = 0
        self._last_step = 0
        self._since = 0.0
        self._paused_seconds = 0.0
        self._paused_at = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start_over(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._paused_at = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._paused_seconds += time.perf_counter() - self._paused_at

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not batch.get("is_filler", False):
            self._num_examples += len(batch["id"])
            self._num_tokens += batch["num_tokens"]
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        is_step_over = trainer.global_step != self._last_step  # an epoch's last step may take fewer batches
        if every and is_step_over and trainer.global_step % every == 0:
            self._log(trainer, pl_module)

    def _log(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        seconds = time.perf_counter() - self._since - self._paused_seconds
        counts = torch.tensor([self._num_examples, self._num_tokens], device=pl_module.device)
        if trainer.world_size > 1:
            torch.distributed.all_reduce(counts)
        rates = {
            "throughput/examples_per_second": float(counts[0]) / seconds,
            "throughput/tokens_per_second": float(counts[1]) / seconds,
        }
        if trainer.logger is not None:
            trainer.logger.log_metrics(rates, step=trainer.global_step)
        self._start_over(trainer)

    def _start_over(self, trainer: pl.Trainer) -> None:
        self._last_step = trainer.global_step
        self._num_examples = self._num_tokens = 0
        self._since, self._paused_seconds = time.perf_counter(), 0.0
