"""Progress display of training: a bar on a terminal, a log line every 15 seconds elsewhere."""

import logging
import sys
import time
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ProgressBar
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from lightrail.lightning_modules.base import TaskModule
from lightrail.project.basics.logs import terminal

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 15.0
SECONDS_BETWEEN_LOSSES = 1.0


class TrainingProgress(ProgressBar):
    """Shows step, loss and remaining time, and of each validation the loss and the monitored metric.

    A batch costs two attribute reads and a clock; the loss is read from the device once a second at most, and rich
    draws the bar in its own thread.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_terminal = sys.stderr.isatty()
        self.is_enabled = True
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._started = self._last_shown = 0.0
        self._first_step = 0

    def disable(self) -> None:
        """Turn the display off; Lightning calls it on every process but the first."""
        self.is_enabled = False

    def enable(self) -> None:
        """Turn the display on."""
        self.is_enabled = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started = self._last_shown = time.monotonic()
        self._first_step = trainer.global_step
        if not self.is_enabled:
            return
        total, parameters = self._num_steps(), sum(parameter.numel() for parameter in pl_module.parameters())
        log.info("training %s parameters, steps: %s", f"{parameters:,}", total or "unlimited")
        if self.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=terminal(),
                refresh_per_second=4,
            )
            self._task = self._bar.add_task("training", total=total, completed=trainer.global_step)
            self._bar.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.monotonic()
        pause = SECONDS_BETWEEN_LOSSES if self._bar else SECONDS_BETWEEN_LINES
        if self.is_enabled and now - self._last_shown >= pause:
            self._last_shown = now
            loss = _recent(trainer, pl_module)
            if self._bar:
                self._bar.update(self._task, completed=trainer.global_step, description=f"training, {loss}")
            else:
                log.info("step %d of %s, %s, %s", trainer.global_step, self._num_steps() or "?", loss, self._left(now))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        values = _headlines(trainer, pl_module)
        if self.is_enabled and values and trainer.state.fn == "fit" and not trainer.sanity_checking:
            shown = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
            log.info("step %d: %s", trainer.global_step, shown)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar:
            self._bar.update(self._task, completed=self.trainer.global_step)
            self._bar.stop()
            self._bar = None

    def _num_steps(self) -> int | None:
        steps = self.trainer.estimated_stepping_batches
        return None if steps == float("inf") else int(steps)

    def _left(self, now: float) -> str:
        """Format the remaining time at the pace so far, in seconds."""
        done, total = self.trainer.global_step - self._first_step, self._num_steps()
        if not done or total is None:
            return f"{now - self._started:.0f} s so far"
        return f"{(now - self._started) / done * (total - self.trainer.global_step):.0f} s to go"


def _recent(trainer: pl.Trainer, module: pl.LightningModule) -> str:
    """Format the recent loss; of a module without one, what it logs for the progress bar."""
    if isinstance(module, TaskModule):
        return f"loss {module.recent_loss:.3f}"
    shown = [f"{name} {float(own):.3f}" for name, own in trainer.progress_bar_metrics.items()]
    return ", ".join(shown) or "no metric with prog_bar=True"


def _headlines(trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, float]:
    """Return loss and monitored metric of a validation; of a module without them, all it logged. The run has all."""
    values = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val")}
    headlines = ("val/loss", module.monitor) if isinstance(module, TaskModule) else values
    return {name: values[name] for name in headlines if name in values}
