"""Which predictions of a loaded model are computed in memory, and which by a Trainer from a file."""

from typing import get_args

import lightning.pytorch as pl
from lightning.pytorch.utilities.model_helpers import is_overridden

from lightrail.datamodules.base import DataModule
from lightrail.lightning_modules.base import TaskModule
from lightrail.lightning_modules.networks.token_network import TokenNetwork
from lightrail.project.models.engine import Engine, ServingPrecision
from lightrail.project.models.in_memory import ReadsImages
from lightrail.project.running.build import Experiment

MOST_INPUTS = 10_000
"""Inputs of a call that are encoded in memory; of more, the encoded rows are kept in a file."""

_HOOKS = (
    *("setup", "teardown", "prepare_data", "configure_callbacks", "on_predict_start", "on_predict_end"),
    *("on_predict_model_eval", "on_predict_epoch_start", "on_predict_epoch_end", "on_predict_batch_start"),
    *("on_predict_batch_end", "on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer"),
)
"""What a Trainer calls while it predicts, and an engine does not."""
_OF_DATA = ("teardown", "on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


def engine_of(experiment: Experiment) -> Engine | None:
    """Return the engine that predicts in memory what the experiment's trainer would predict, to the last bit.

    None where only the trainer does: for callbacks, hooks, plugins, devices and number formats that it alone knows, for
    images, whose rows name files, and for data that is read in a way of its own or whose skipped rows are counted.
    """
    data, model, trainer = experiment.data, experiment.model, experiment.trainer
    settings, device = experiment.configuration.values["trainer"], trainer.strategy.root_device
    needs_trainer = (
        trainer.precision not in get_args(ServingPrecision)
        or device.type not in ("cpu", "cuda")
        or trainer.limit_predict_batches != 1.0
        or isinstance(trainer.limit_predict_batches, int)  # 1 is one batch, 1.0 all of them
        or any(settings.get(name) for name in ("callbacks", "plugins", "profiler", "detect_anomaly"))
        or any(is_overridden(name, model) for name in _HOOKS)
        or any(is_overridden(name, data, pl.LightningDataModule) for name in _OF_DATA)
        or isinstance(data, ReadsImages)
        or data.reading.empty == "skip"
        or _reads_its_own(type(data))
        or not _has_all_vectors(data, model)
    )
    if needs_trainer:
        return None
    return Engine(data, model, data.batch, trainer.precision)  # type: ignore[arg-type]  # it is one of them


def _has_all_vectors(data: DataModule, task: TaskModule) -> bool:
    """Whether each token has a vector, so that ids need not be looked at. Raises: ConfigError for other tokens."""
    tokens = data.token_ids()
    if tokens is None:  # not known, nor to a trainer
        return True
    networks = [part for part in task.modules() if isinstance(part, TokenNetwork)]
    for network in networks:
        network.check_tokens(tokens)
    largest = max(tokens.values(), default=0)
    return all(own.num_vectors is None or largest < own.num_vectors for own in networks)


def _reads_its_own(kind: type[DataModule]) -> bool:
    """Whether a class of somebody else's reads files in a way that its inputs in memory do not follow."""
    if kind.__module__.startswith("lightrail."):
        return False
    order = [own for own in kind.__mro__ if not own.__module__.startswith("lightrail.")]
    own = {name for parent in order for name in ("read", "encode_all", "given") if name in vars(parent)}
    return bool(own - {"given"}) and "given" not in own
