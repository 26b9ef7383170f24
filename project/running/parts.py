"""The parts of a run, built and consistent with each other: of a task of lightrail, or of any LightningModule."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.utilities.model_helpers import is_overridden

from lightrail.datamodules.base import DataModule, SplitSummary
from lightrail.lightning_modules.base import TaskModule
from lightrail.lightning_modules.metrics.scores import StoredScore
from lightrail.project.configuration import Configuration
from lightrail.project.models.predictions import PredictionTable
from lightrail.project.running.ancestor import Ancestor
from lightrail.project.training.checkpoints import best_checkpoint

RESUME_STATE = ("optimizer_states", "loops")
"""Entries of a checkpoint without which no training can be resumed."""


class Built(ABC):
    """What a run needs of its model and its data, whichever they are."""

    configuration: Configuration
    """With what was chosen by the data."""
    trainer: pl.Trainer
    predictions: PredictionTable
    ancestor: Ancestor | None = None
    """Where the first weights of a new run come from, other than the model itself."""
    weights_from: Path | None = None
    """The checkpoint that Lightning restores in an evaluation; None: the module has its weights."""
    needed_to_resume: Sequence[str] = RESUME_STATE
    """Entries that the checkpoint of a resumed training must have."""
    fixed: Sequence[str] = ()
    """Beginnings of the names of settings that a resumed training cannot change."""

    @property
    @abstractmethod
    def module(self) -> pl.LightningModule:
        """The model for the trainer."""

    @property
    @abstractmethod
    def datamodule(self) -> pl.LightningDataModule | None:
        """The data for the trainer; None: the model makes its own loaders."""

    @property
    @abstractmethod
    def monitor(self) -> str:
        """The metric of the best checkpoint; "" where there is none, or it is not known yet."""

    @property
    @abstractmethod
    def is_tested(self) -> bool:
        """Whether there is a test."""

    @abstractmethod
    def known_metrics(self) -> set[str]:
        """Return the metrics that a validation logs, as far as that is known before."""

    def can_log(self, metric: str) -> bool:
        """Whether a validation may log a metric."""
        return metric in self.known_metrics()

    @abstractmethod
    def scores(self) -> Mapping[str, StoredScore]:
        """Return the metrics that stored predictions give, by name without `test/`."""

    @abstractmethod
    def summaries(self) -> list[SplitSummary]:
        """Return a summary of each split whose content is known."""


@dataclass(frozen=True)
class Experiment(Built):
    """A task of lightrail and its data."""

    configuration: Configuration
    data: DataModule
    model: TaskModule
    trainer: pl.Trainer
    predictions: PredictionTable
    ancestor: Ancestor | None = None
    needed_to_resume = (*RESUME_STATE, "lr_schedulers", "loss_window")

    @property
    def module(self) -> TaskModule:
        return self.model

    @property
    def datamodule(self) -> DataModule:
        return self.data

    @property
    def monitor(self) -> str:
        return self.model.monitor

    @property
    def is_tested(self) -> bool:
        return True

    def known_metrics(self) -> set[str]:
        return self.model.validation_metrics()

    def scores(self) -> Mapping[str, StoredScore]:
        return self.model.scores()

    def summaries(self) -> list[SplitSummary]:
        return self.data.summaries()


@dataclass(frozen=True)
class PlainExperiment(Built):
    """Any LightningModule, with any LightningDataModule or loaders of its own."""

    configuration: Configuration
    plain_data: pl.LightningDataModule | None
    plain_module: pl.LightningModule
    trainer: pl.Trainer
    predictions: PredictionTable
    weights_from: Path | None = None
    fixed = ("model.", "data.", "trainer.devices", "trainer.num_nodes")

    @property
    def module(self) -> pl.LightningModule:
        return self.plain_module

    @property
    def datamodule(self) -> pl.LightningDataModule | None:
        return self.plain_data

    @property
    def monitor(self) -> str:
        callback = best_checkpoint(self.trainer.callbacks)  # type: ignore[attr-defined]
        return (callback.monitor or "") if callback else ""

    @property
    def is_tested(self) -> bool:
        owner = self.plain_data or self.plain_module
        return is_overridden("test_step", self.plain_module) and is_overridden("test_dataloader", owner)

    def known_metrics(self) -> set[str]:
        return set()

    def can_log(self, metric: str) -> bool:
        return True

    def scores(self) -> Mapping[str, StoredScore]:
        return {}

    def summaries(self) -> list[SplitSummary]:
        return self.plain_data.summaries() if isinstance(self.plain_data, DataModule) else []
