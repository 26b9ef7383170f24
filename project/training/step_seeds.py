"""Random numbers that follow from the seed and the step alone."""

import random
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch import Callback


class StepSeeds(Callback):
    """Seeds every generator before each training batch, from the run's seed, the batch's number and the process.

    Dropout at step 1,000 is then the same whether or not the run was interrupted at 999, and whatever validation or a
    callback drew in between: there is no random state that a checkpoint could fail to restore.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        num_batches = trainer.fit_loop.epoch_loop.batch_progress.total.ready  # checkpoints restore it
        seed_all([self.seed, num_batches, trainer.global_rank])


def seed_all(entropy: list[int]) -> None:
    """Seed Python, NumPy and PyTorch on all devices from a few whole numbers."""
    first, second, third = np.random.SeedSequence(entropy).generate_state(3).tolist()
    random.seed(first)
    np.random.seed(second)  # libraries draw from it
    torch.manual_seed(third)
