"""The model that a name stands for, ready to be served."""

import gc
from collections.abc import Sequence
from dataclasses import replace

import torch

from lightrail.datamodules.batches.batching import BatchConfig
from lightrail.lightning_modules.checkpoint import read_checkpoint, stored_configuration
from lightrail.lightning_modules.model_folder import can_predict
from lightrail.lightning_modules.networks.decoders.generation import TextWriter
from lightrail.project.basics.errors import ConfigError, shown
from lightrail.project.commands.predict import saved_for_path
from lightrail.project.configuration import parse
from lightrail.project.configuration.classes import AllowedClasses
from lightrail.project.models.engine import Engine, ServingPrecision
from lightrail.project.models.generating import TextModel, load_text_model, text_model
from lightrail.project.running.build import build_in_memory
from lightrail.project.serving.limits import Limits
from lightrail.project.serving.routes import Served
from lightrail.project.tracking.naming import find_checkpoint
from lightrail.project.tracking.settings import TrackingConfig

_GIVEN = "input.txt"
"""A file of texts that stands for what is given: some data read other columns of texts than of the run's own files."""
_ONE_PROCESS = {"trainer.accelerator": "cpu", "trainer.devices": 1, "trainer.strategy": "auto", "data.path": _GIVEN}
"""Settings of the training that are replaced: nothing here is computed by a Trainer, and no file is read."""


def load_served(
    named: str,
    tracking: TrackingConfig,
    limits: Limits,
    device: torch.device,
    precision: ServingPrecision,
    modules: Sequence[str] = (),
) -> Served:
    """Load a model by any name that `find_checkpoint` takes; of a folder without its data side, a language model.

    Raises: ConfigError when there is no such model, it is a plain LightningModule, or it cannot be read.
    """
    AllowedClasses(modules)
    name, path = named.rstrip("/").rpartition("/")[2], find_checkpoint(named, tracking)
    if path.is_dir() and not can_predict(path):
        written = load_text_model(str(path.absolute()), tracking)
        if not isinstance(written, TextModel):
            raise ConfigError(f"{shown(named)} is a folder without the data side of its model. Name its run.")
        return Served(name, "language model", None, written)
    saved = stored_configuration(read_checkpoint(path), str(path))
    allowed = [f"--allow_modules={','.join(modules)}"] if modules else []
    configuration = parse(allowed, saved=saved_for_path(saved, _GIVEN), settings=_ONE_PROCESS)
    data, task = build_in_memory(configuration, path)
    gc.collect()
    gc.freeze()  # collections while it serves look at no module and no weight
    engine = Engine(
        data, task.to(device), BatchConfig(size=limits.max_batch, max_tokens=limits.max_positions), precision
    )
    model = text_model(task, named) if isinstance(task, TextWriter) else None
    if model is not None:
        model = replace(model, template=saved["data"]["init_args"].get("template"))
    return Served(name, type(task).__name__, engine, model)
