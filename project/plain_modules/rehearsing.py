"""A dry run of a plain LightningModule: a few of its own steps, with their time and memory, and what it logs."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch import Callback

from lightrail.project.basics.errors import ConfigError, shown
from lightrail.project.basics.hardware import peak_bytes
from lightrail.project.plain_modules.best import NAME_ONE, choose
from lightrail.project.training.checkpoints import best_checkpoint

NUM_STEPS = 5


class Stopwatch(Callback):
    """Measures training steps, and notes which metrics a validation logs."""

    def __init__(self) -> None:
        self.started = 0.0
        self.seconds: list[float] = []
        self.before: set[str] = set()
        self.validated: list[str] = []

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.seconds.append(time.perf_counter() - self.started)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.before = set(trainer.callback_metrics)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.validated = [name for name in trainer.callback_metrics if name not in self.before]


@dataclass(frozen=True)
class PlainRehearsal:
    """Measurements of a few steps."""

    num_parameters: int
    precision: str
    peak_bytes: int
    """Peak memory of the device, or of the process on a CPU."""
    seconds_per_step: float
    batches_per_epoch: str
    trained: Sequence[str] = field(default_factory=list)
    validated: Sequence[str] = field(default_factory=list)
    best: str = ""

    def render(self) -> str:
        """Format the measurements, one per line."""
        logged = [*self.trained, *self.validated]
        return "\n".join(
            [
                "data         not known to lightrail: it is not checked",
                f"model        {self.num_parameters:,} parameters, {self.precision}",
                f"memory       {self.peak_bytes / 2**30:.2f} GiB at most, in {NUM_STEPS} steps and a validation",
                f"epoch        {self.batches_per_epoch} batches",
                f"step         {self.seconds_per_step * 1000:.0f} ms",
                f"metrics      {', '.join(logged) or 'none'}",
                f"best         {self.best}",
            ]
        )


def rehearse_plain(
    module: pl.LightningModule, data: pl.LightningDataModule | None, trainer: pl.Trainer
) -> PlainRehearsal:
    """Train a few steps, and validate once, with a trainer of `fast_dev_run`.

    Raises: ConfigError where a callback monitors a metric that is not logged.
    """
    watch = Stopwatch()
    monitors = {type(own).__name__: own.monitor for own in trainer.callbacks if getattr(own, "monitor", None)}  # type: ignore[attr-defined]
    given = best_checkpoint(trainer.callbacks)  # type: ignore[attr-defined]
    trainer.callbacks.append(watch)  # type: ignore[attr-defined]
    trainer.fit(module, datamodule=data)
    metrics = list(trainer.callback_metrics)
    for name, monitor in monitors.items():
        if monitor not in metrics:
            found = f"it logs {', '.join(map(shown, metrics))}" if metrics else "it logs none"
            raise ConfigError(
                f"trainer.callbacks: {name} monitors {shown(monitor)}, which the model does not log: {found}."
            )
    chosen = choose(watch.validated)
    best = f"the {chosen[1]} of {chosen[0]}" if chosen else f"none is kept. {NAME_ONE}"
    loader: Any = trainer.train_dataloader
    steady = watch.seconds[1:] or watch.seconds
    return PlainRehearsal(
        num_parameters=sum(weight.numel() for weight in module.parameters()),
        precision=str(trainer.precision),
        peak_bytes=peak_bytes(trainer.strategy.root_device),
        seconds_per_step=sum(steady) / len(steady) if steady else 0.0,
        batches_per_epoch=f"{len(loader):,}" if hasattr(loader, "__len__") else "an unknown number of",
        trained=[name for name in metrics if name not in watch.validated],
        validated=watch.validated,
        best=f"the {given.mode} of {given.monitor}" if given is not None else best,
    )
