"""A learning-rate range test: training at a growing rate, until the loss diverges.

Source: L. Smith (2017), "Cyclical Learning Rates for Training Neural Networks"; smoothing and stopping after S. Gugger
(2018), "How Do You Find A Good Learning Rate".
"""

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, final

import lightning.pytorch as pl
import numpy as np
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import Callback
from lightning.pytorch.utilities.seed import isolate_rng
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Sampler

from lightrail.datamodules.batches.batching import BucketSampler, Share, Shares
from lightrail.lightning_modules.base import TaskModule
from lightrail.project.running.limits import num_batches
from lightrail.project.running.parts import Experiment
from lightrail.project.training.checkpoints import StepSeeds

FIRST_RATE, LAST_RATE, NUM_STEPS = 1e-7, 10.0, 100
SMOOTHING = 0.9
"""Weight of the earlier losses in the moving average."""
LAG = round(SMOOTHING / (1 - SMOOTHING))
"""Mean age in steps of what the average consists of."""
WINDOW = 20
"""Steps over which the fall of the loss is measured."""
DIVERGED = 4.0
"""The test ends when the smoothed loss is this many times its lowest."""
NUM_UNSETTLED = 10
"""First steps from which nothing is concluded: their average is over a few batches."""
LEAST_FALL = 0.02
"""Fraction of the loss by which it must fall before a rate is suggested."""
NUM_SHOWN = 12


@final
@dataclass(frozen=True)
class RateTest:
    """The curve of a learning-rate range test, and the rate that it suggests."""

    rates: Sequence[float]
    losses: Sequence[float]
    """Smoothed mean loss over the targets of the step at each rate, in nats, before the step is taken."""
    is_diverged: bool

    @property
    def suggestion(self) -> float | None:
        """The rate at which the loss falls fastest before its minimum, to two digits; None where it hardly falls.

        Falls are compared over `WINDOW` steps, or the noise of single batches would decide; and the average follows
        the loss with a delay of `LAG` steps, which are counted back.
        """
        curve = np.asarray(self.losses[NUM_UNSETTLED:])
        lowest = int(curve.argmin()) if len(curve) else 0
        if not lowest or curve[lowest] > (1 - LEAST_FALL) * curve[0]:
            return None
        window = min(WINDOW, lowest)
        falls = curve[: lowest + 1 - window] - curve[window : lowest + 1]
        middle = NUM_UNSETTLED + int(falls.argmax()) + window // 2
        return float(f"{self.rates[max(0, middle - LAG)]:.1e}")

    def render(self) -> str:
        """Format the curve as a table, and the suggestion as an option of the command line."""
        end = f"diverges at {self.rates[len(self.losses) - 1]:.1e}" if self.is_diverged else "does not diverge"
        found = "no rate is suggested: the loss hardly falls at any"
        if self.suggestion is not None:
            found = f"--lr {self.suggestion:g}: there the loss falls fastest"
        every = math.ceil(len(self.losses) / NUM_SHOWN)
        points = list(zip(self.rates, self.losses, strict=False))[::every]
        rows = [f"{'':13}{rate:<10.1e}{loss:.4f}" for rate, loss in points]
        title = f"{'lr':13}{len(self.losses)} steps at a growing rate; the smoothed loss {end}"
        return "\n".join([title, f"{'':13}rate      loss", *rows, f"{'':13}{found}"])


def find_rate(experiment: Experiment) -> RateTest:
    """Train at rates from 1e-7 up, on the batches of the run, with its precision, accumulation and clipping.

    It is done in one process, which takes the parts of all processes one after the other: an optimizer step has the
    loss and the gradient that it has in the run. The model of the experiment is trained by it; nothing is written.
    """
    given, model = experiment.trainer, experiment.model
    num_processes = given.num_devices * given.num_nodes
    device = given.strategy.root_device
    test = _GrowingRate(model.optim.lr)
    loader = experiment.data.train_dataloader()
    loader.sampler.is_repeated = bool(given.overfit_batches)  # type: ignore[attr-defined]
    shares = _AllShares(loader.sampler, num_processes, num_batches(given, len(loader)))
    with isolate_rng():
        trainer = pl.Trainer(
            accelerator=device.type,
            devices=1 if device.index is None else [device.index],
            plugins=[LightningEnvironment()],  # that of torchrun or SLURM demands all of its processes
            precision=given.precision,
            accumulate_grad_batches=given.accumulate_grad_batches * num_processes,
            gradient_clip_val=given.gradient_clip_val,
            gradient_clip_algorithm=given.gradient_clip_algorithm,
            max_epochs=-1,
            max_steps=NUM_STEPS,
            limit_val_batches=0,
            log_every_n_steps=1,
            callbacks=[StepSeeds(experiment.configuration.seed), test],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        train = DataLoader(Shares(loader.rows, loader.collate), sampler=shares, batch_size=None)
        trainer.fit(model, train, experiment.data.val_dataloader())
    return RateTest(test.rates, test.losses, test.is_diverged)


class _AllShares(Sampler[Share]):
    """Yields, of each global batch, the parts of all processes one after the other."""

    def __init__(self, sampler: BucketSampler, num_processes: int, num_batches: int) -> None:
        self.parts = [copy.copy(sampler) for _ in range(num_processes)]
        for rank, part in enumerate(self.parts):
            part.rank, part.world_size = rank, num_processes
        self.num_batches = num_batches

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, on which the order depends; Lightning calls it."""
        for part in self.parts:
            part.set_epoch(epoch)

    def __len__(self) -> int:
        return self.num_batches * len(self.parts)

    def __iter__(self) -> Iterator[Share]:
        for shares in islice(zip(*self.parts, strict=True), self.num_batches):
            yield from shares


class _GrowingRate(Callback):
    """Sets the learning rate of each step, and stops the training when the loss diverges."""

    def __init__(self, peak: float) -> None:
        self.peak = peak
        self.rates = np.geomspace(FIRST_RATE, LAST_RATE, NUM_STEPS).tolist()
        self.losses: list[float] = []
        self.is_diverged = False
        self._average = 0.0

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        for group in optimizer.param_groups:  # with layer_decay each has its own peak
            group["lr"] = group["initial_lr"] / self.peak * self.rates[trainer.global_step]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == len(self.losses):
            return  # the step takes further batches
        assert isinstance(pl_module, TaskModule)
        loss = float(pl_module.loss_window.logged)
        self._average = SMOOTHING * self._average + (1 - SMOOTHING) * loss
        smoothed = self._average / (1 - SMOOTHING ** (len(self.losses) + 1))
        self.is_diverged = not math.isfinite(loss) or smoothed > DIVERGED * min(self.losses, default=math.inf)
        if self.is_diverged:
            trainer.should_stop = True
        else:
            self.losses.append(smoothed)
