"""Dry run: time and memory of a training, measured on a few of its own steps."""

import math
import time
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities import move_data_to_device

from lightrail.datamodules.batches.batching import row_for_batch
from lightrail.lightning_modules.base import TaskModule
from lightrail.lightning_modules.optimization import build_optimizer
from lightrail.project.basics.hardware import peak_bytes
from lightrail.project.running.limits import num_batches
from lightrail.project.running.parts import Experiment

NUM_TIMED = 5


@dataclass(frozen=True)
class Rehearsal:
    """Measurements of a dry run."""

    num_parameters: int
    precision: str
    longest: tuple[int, int]
    """Examples and positions of the largest batch."""
    peak_bytes: int
    """Peak memory of the device, or of the process on a CPU, after a step on the largest batch."""
    batches_per_epoch: int
    num_steps: float
    seconds_per_step: float

    def render(self) -> str:
        """Format the measurements, one per line."""
        examples, positions = self.longest
        lines = [
            f"model        {self.num_parameters / 1e6:.1f} M parameters, {self.precision}",
            f"memory       {self.peak_bytes / 2**30:.2f} GiB at most: largest batch {examples} x {positions} positions",
            f"epoch        {self.batches_per_epoch} batches",
        ]
        if math.isinf(self.num_steps):
            return "\n".join([*lines, f"step         {self.seconds_per_step * 1000:.0f} ms; ends at trainer.max_time"])
        minutes = self.num_steps * self.seconds_per_step / 60
        steps = f"{self.num_steps:.0f} steps of about {self.seconds_per_step * 1000:.0f} ms"
        return "\n".join([*lines, f"run          {steps}: {minutes:.1f} minutes, without validation"])


def rehearse(experiment: Experiment) -> Rehearsal:
    """Train one step on the largest batch, then time steps of median size, on the run's device and in its precision."""
    trainer, model = experiment.trainer, experiment.model
    step = TrainingStep(model, trainer)
    loader = experiment.data.train_dataloader()
    batches = loader.sampler.global_batches()
    lengths = loader.sampler.positions()[batches.longest()]
    by_size = np.argsort(batches.sizes() * lengths, kind="stable")
    largest = int(by_size[-1])
    middle = [batches[int(number)] for number in by_size[len(by_size) // 2 :][: NUM_TIMED - 1]]
    step(loader, batches[largest])
    started = time.perf_counter()
    for batch in middle:
        step(loader, batch)
    seconds = (time.perf_counter() - started) / len(middle) * trainer.accumulate_grad_batches
    return Rehearsal(
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        precision=str(trainer.precision),
        longest=(len(batches[largest]), int(lengths[largest])),
        peak_bytes=peak_bytes(step.device),
        batches_per_epoch=num_batches(trainer, len(loader)),
        num_steps=_num_steps(trainer, len(loader)),
        seconds_per_step=seconds,
    )


class TrainingStep:
    """A training step as in the run, on its device and in its precision, without its logging."""

    def __init__(self, model: TaskModule, trainer: pl.Trainer) -> None:
        self.model, self.device, self.precision = model, trainer.strategy.root_device, trainer.precision_plugin
        self.precision.convert_module(model).to(self.device).train()
        model.configure_model()
        self.optimizer = build_optimizer(model, model.optim)

    def __call__(self, loader: Any, batch: Any) -> None:
        rows = [row_for_batch(loader.rows, index) for index in batch.tolist()]
        moved = move_data_to_device(self.precision.convert_input(loader.collate(rows)), self.device)
        with self.precision.forward_context():
            loss, _ = self.model.loss(self.model(moved), moved)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _num_steps(trainer: pl.Trainer, available: int) -> float:
    per_epoch = math.ceil(num_batches(trainer, available) / trainer.accumulate_grad_batches)
    by_epochs = per_epoch * trainer.max_epochs if trainer.max_epochs not in (None, -1) else math.inf
    return min(by_epochs, trainer.max_steps if trainer.max_steps != -1 else math.inf)
