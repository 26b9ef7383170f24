"""Training loaders of a plain LightningModule, in an order that a resumed run repeats."""

import logging
from functools import partial
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset

from lightrail.project.basics.private_names import combination_mode
from lightrail.project.tracking.logger import is_process_zero
from lightrail.project.training.checkpoints import seed_all

log = logging.getLogger(__name__)

ORDER = 2
"""Sets the seeds of loading apart from those of training steps, which are shorter."""
OWN_STATE = "a loader has its own state_dict, by which it resumes: exact if that state is"
WORKERS = "persistent workers do not repeat their random transforms; the order of the examples is exact"
ITERABLE = "an IterableDataset is read again up to the batches already seen: exact if it yields the same again"
EXACT = "a resumed epoch has the same order of examples, and skips the batches already seen"


class RepeatableLoader(CombinedLoader):
    """Loads the batches of an epoch in an order that follows from seed and epoch alone.

    Python's, NumPy's and PyTorch's generators are seeded before each batch is loaded, those of loaders before each
    epoch. A resumed epoch loads the batches already seen again, without training on them, so that loader workers and
    random transforms end in the same state. Loaders with a `state_dict` are left to Lightning, which restores it.

    Args:
        loaders: what `train_dataloader` returned.
    """

    def __init__(self, loaders: Any, trainer: pl.Trainer, seed: int) -> None:
        is_combined = isinstance(loaders, CombinedLoader)
        super().__init__(loaders.iterables if is_combined else loaders, combination_mode(loaders))
        self.trainer, self.seed = trainer, seed
        self._epoch = self._number = 0

    def __iter__(self) -> "RepeatableLoader":
        loop, self._number = self.trainer.fit_loop, 0
        self._epoch = self.trainer.current_epoch
        for place, loader in enumerate(self.flattened):
            self._seed_generators(loader, place)
        seed_all([self.seed, ORDER, self._epoch, self._number])
        super().__iter__()
        if loop.restarting and not all(map(has_state, self.flattened)):
            for _ in range(loop.epoch_loop.batch_progress.current.ready):
                next(self)
        return self

    def __next__(self) -> Any:
        seed_all([self.seed, ORDER, self._epoch, self._number])
        self._number += 1
        return super().__next__()

    def _seed_generators(self, loader: Any, place: int) -> None:
        batches = getattr(loader, "batch_sampler", None)
        parts = (loader, getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None))
        for own in parts:
            if isinstance(generator := getattr(own, "generator", None), torch.Generator):
                entropy = np.random.SeedSequence([self.seed, ORDER, self._epoch, place])
                generator.manual_seed(int(entropy.generate_state(1)[0]))
            if isinstance(own, DistributedSampler) and not own.seed:  # the one that Lightning adds
                own.seed = self.seed


def make_repeatable(owner: pl.LightningModule | pl.LightningDataModule, seed: int) -> None:
    """Have the `train_dataloader` of a module, or of its data, return a `RepeatableLoader`."""
    owner.train_dataloader = partial(_repeatable, owner.train_dataloader, seed)  # type: ignore[method-assign]


def _repeatable(original: Any, seed: int) -> RepeatableLoader:
    trainer = original.__self__.trainer  # not an argument: a copy of the module, as of averaged weights, would copy it
    loader = RepeatableLoader(original(), trainer, seed)
    if is_process_zero():
        log.info("resuming: %s", how_exact(loader.flattened))
    return loader


def has_state(loader: object) -> bool:
    """Whether a loader stores its own position."""
    return hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")


def how_exact(loaders: list[Any]) -> str:
    """Say how exactly a resumed run repeats the batches of these loaders."""
    if any(map(has_state, loaders)):
        return OWN_STATE
    if any(isinstance(own, DataLoader) and own.persistent_workers for own in loaders):
        return WORKERS
    return ITERABLE if any(isinstance(getattr(own, "dataset", None), IterableDataset) for own in loaders) else EXACT
