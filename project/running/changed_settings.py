"""Settings that are changed when a run goes on: which may be, and making them count above what a checkpoint holds."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import lightning.pytorch as pl
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping

from lightrail.lightning_modules.base import TaskModule
from lightrail.lightning_modules.optimization import apply_settings
from lightrail.project.basics.errors import ConfigError
from lightrail.project.tracking.params import flatten

OF_THIS_CALL = "tracking."
"""Where a run is recorded says nothing about what is trained."""
UNKNOWN = "-"
"""Stands for a setting that a configuration lacks; one that is older than the setting ran with its default."""
FIXED = (
    "seed_everything",
    "model.class_path",
    "data.class_path",
    "model.init_args.optim.optimizer",
    "model.init_args.optim.freeze",
    "model.init_args.optim.layer_decay",
    "model.init_args.optim.unfreeze_fraction",
)


class Change(NamedTuple):
    """A setting with another value than before."""

    old: str
    new: str


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Change]:
    """Compare two configurations, by dotted name; a setting that one of them lacks is `-` there."""
    old, new = flatten(before), flatten(now)
    names = [name for name in (old | new) if not name.startswith(OF_THIS_CALL)]
    values = {name: Change(old.get(name, UNKNOWN), new.get(name, UNKNOWN)) for name in names}
    return {name: change for name, change in values.items() if change.old != change.new}


def refuse_fixed(changes: Mapping[str, Change]) -> None:
    """Raises: ConfigError for a setting without whose old value a run is another run."""
    for name, change in changes.items():
        if name in FIXED and change.old != UNKNOWN:
            raise ConfigError(
                f"{name} was {change.old} and is {change.new}: a run that goes on cannot change it. "
                f"Leave it out, or start a new run with `lightrail fit`."
            )


def change_tags(changes: Mapping[str, Change], earlier: Mapping[str, str], step: int) -> dict[str, str]:
    """Tags that tell what was changed, and at which optimizer step; earlier changes of a setting stay in front."""
    tags = {}
    for name, change in changes.items():
        tag = f"lightrail.changed.{name}"
        before = f"{earlier[tag]}; " if tag in earlier else ""
        tags[tag] = f"{before}{change.old} -> {change.new} at step {step}"
    return tags


class ApplyChanges(Callback):
    """Puts settings of the configuration in the place of those that Lightning restored from the checkpoint.

    These are the optimizer's and its schedule's, the patience of EarlyStopping, and an early stop decided before.
    """

    def __init__(self) -> None:
        self._patience: dict[int, int] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._patience = {id(own): own.patience for own in _early_stopping(trainer)}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, TaskModule)
        (optimizer,), (schedule,) = trainer.optimizers, trainer.lr_scheduler_configs
        apply_settings(pl_module, pl_module.optim, optimizer, schedule.scheduler)  # type: ignore[arg-type]
        for callback in _early_stopping(trainer):
            callback.patience = self._patience[id(callback)]
        trainer.should_stop = False


def _early_stopping(trainer: pl.Trainer) -> list[EarlyStopping]:
    return [own for own in trainer.callbacks if isinstance(own, EarlyStopping)]  # type: ignore[attr-defined]
