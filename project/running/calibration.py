"""Calibration: what a task fits on the validation split once its weights are final, kept with these weights."""

import logging
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch.distributed
from lightning.pytorch import Callback

from lightrail.lightning_modules.base import TaskModule
from lightrail.project.running.build import Experiment
from lightrail.project.training.checkpoints import store_buffers

log = logging.getLogger(__name__)


def calibrate(experiment: Experiment, checkpoint: str | None) -> None:
    """Calibrate the weights of a checkpoint, and write the outcome into that file; None: the weights as they are.

    Done again, as after a kill in the middle, it ends the same. Without a validation split nothing happens.
    """
    trainer, model = experiment.trainer, experiment.model
    calibration = _Calibration(checkpoint)
    trainer.callbacks.append(calibration)  # type: ignore[attr-defined]
    model.is_calibrating = True
    try:
        trainer.validate(model, datamodule=experiment.data, ckpt_path=checkpoint, verbose=False, weights_only=True)
    finally:
        model.is_calibrating = False
        trainer.callbacks.remove(calibration)  # type: ignore[attr-defined]


class _Calibration(Callback):
    """Gathers the rows of a validation from all processes; at its end all calibrate alike, and the first one writes."""

    def __init__(self, checkpoint: str | None) -> None:
        self.checkpoint = checkpoint
        self.rows: dict[int, Any] = {}
        """By the number of the example."""

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
        if trainer.logger is not None:
            trainer.logger.log_metrics(dict(figures), step=0)
        if trainer.is_global_zero:
            shown = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
            log.info("calibrated on %d validation examples: %s", len(rows), shown)

    def _all_rows(self, trainer: pl.Trainer) -> list[Any]:
        parts: list[dict[int, Any]] = [self.rows]
        if trainer.world_size > 1:
            parts = [{} for _ in range(trainer.world_size)]
            torch.distributed.all_gather_object(parts, self.rows)
        merged = {number: row for part in parts for number, row in part.items()}
        return [merged[number] for number in sorted(merged)]
