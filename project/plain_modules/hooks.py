"""What is added to a plain LightningModule for its run: its own callbacks in place, seeds, checkpoints that load."""

from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.utilities.model_helpers import is_overridden
from typing_extensions import override

from lightrail.lightning_modules.checkpoint import PLAIN_PARTS
from lightrail.project.basics.errors import ConfigError, first_line
from lightrail.project.basics.private_names import begin_epoch_afresh, end_restart
from lightrail.project.configuration import Configuration
from lightrail.project.configuration.classes import import_path
from lightrail.project.plain_modules.best import BestByLogged
from lightrail.project.training.checkpoints import DurableCheckpointIO, LastCheckpoint, best_checkpoint, seed_all

EVALUATION = 3
"""Sets the seeds of evaluations apart from those of training steps and loading."""
DATA_PARTS = ("datamodule_hyper_parameters", "datamodule_hparams_name", "datamodule_hparams_type", "hparams_type")


class PlainSeeds(Callback):
    """Seeds all generators before each evaluation, and writes the state between two epochs where it is whole.

    Lightning advances schedules by epoch after its last hook of an epoch: only before the next one a state has both.

    Args:
        last: writes the states.
    """

    def __init__(self, seed: int, last: LastCheckpoint | None) -> None:
        self.seed, self.last = seed, last

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        begin_epoch_afresh(trainer)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.last is not None:
            self.last.save_between_epochs(trainer)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # Else Lightning (2.6) would not advance a plateau schedule after the rest of a resumed epoch.
        end_restart(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._seed(trainer)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._seed(trainer)

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._seed(trainer)

    def _seed(self, trainer: pl.Trainer) -> None:
        seed_all([self.seed, EVALUATION, trainer.global_step, trainer.global_rank])


def add_checkpoints(module: pl.LightningModule, trainer: pl.Trainer, configuration: Configuration) -> None:
    """Add the callbacks that keep `best.ckpt`, unless one of the user's does, and `last.ckpt`, and seed evaluations."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    last: LastCheckpoint | None = None
    if configuration.values["trainer"]["enable_checkpointing"] is not False:
        if best_checkpoint(callbacks) is None:
            callbacks.append(BestByLogged(is_averaged=any(isinstance(own, WeightAveraging) for own in callbacks)))
        last = LastCheckpoint(configuration.tracking().checkpoint)
        last.is_called_between_epochs, last.is_called_after_batch = True, save_after_own_hook(module)
        callbacks.append(last)
    callbacks.insert(0, PlainSeeds(configuration.seed, last))


def take_callbacks(module: pl.LightningModule, trainer: pl.Trainer) -> None:
    """Add the callbacks of `configure_callbacks` to the trainer's, in place of those of the same class, as Lightning.

    Lightning would add them after all others, and the state of a run would lack what they do last.
    """
    module.trainer = trainer
    found = module.configure_callbacks()
    own = [*found] if isinstance(found, list | tuple) else [found]
    kinds = {type(callback) for callback in own}
    trainer.callbacks = [given for given in trainer.callbacks if type(given) not in kinds] + own  # type: ignore[attr-defined]
    module.configure_callbacks = _none  # type: ignore[method-assign]


def _none() -> list[Callback]:
    return []


def save_after_own_hook(module: pl.LightningModule) -> bool:
    """Have states written after the module's own `on_train_batch_end`, which may change weights; whether it has one."""
    if not is_overridden("on_train_batch_end", module, pl.LightningModule):
        return False
    module.on_train_batch_end = partial(_then_save, module.on_train_batch_end)  # type: ignore[method-assign]
    return True


def _then_save(original: Any, *arguments: Any) -> None:
    original(*arguments)
    trainer = original.__self__.trainer
    for callback in trainer.callbacks:
        if isinstance(callback, LastCheckpoint):
            callback.after_batch(trainer)


class PlainCheckpointIO(DurableCheckpointIO):
    """Writes checkpoints of a plain module so that they load without running code in them.

    Hyper-parameters that are no plain values, such as modules, are left out: the configuration beside them rebuilds
    the module.
    """

    def __init__(self, configuration: dict[str, Any], kind: type) -> None:
        super().__init__(configuration)
        self.kind = kind
        self._is_checked = False

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any = None) -> None:
        kept = {name: value for name, value in checkpoint.items() if name not in DATA_PARTS}
        hyper_parameters = {name: own for name, own in kept.get(PLAIN_PARTS[-1], {}).items() if _is_plain(own)}
        own = {"task": import_path(self.kind), PLAIN_PARTS[-1]: hyper_parameters}
        super().save_checkpoint({**kept, **own}, path, storage_options)
        if not self._is_checked:
            self._check(Path(path))

    def _check(self, path: Path) -> None:
        """Refuse a state that could not be loaded again. Raises: ConfigError."""
        self._is_checked = True
        try:
            torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:
            path.unlink()
            raise ConfigError(
                f"model: what {self.kind.__name__}, its data or a callback stores in a checkpoint cannot be loaded "
                f"without running code: {first_line(error)} Store tensors and plain values in on_save_checkpoint and "
                "state_dict."
            ) from error


def _is_plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(own) for key, own in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str)
