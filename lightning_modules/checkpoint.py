"""Checkpoints as files, read without running anything in them."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from lightrail.project.basics.errors import ConfigError
from lightrail.project.basics.renamed import with_current_paths

PLAIN_PARTS = ("task", "configuration", pl.LightningModule.CHECKPOINT_HYPER_PARAMS_KEY)
"""Entries of a checkpoint that hold class paths."""


def read_checkpoint(path: str | Path, map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """Read a task's checkpoint without running anything in it; names of moved classes are brought up to date.

    Raises: ConfigError when the file is missing, damaged or not a task's checkpoint.
    """
    try:
        checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such checkpoint. Name a file, or runs:/RUN_ID.") from error
    except Exception as error:
        raise ConfigError(
            f"{path} is not a checkpoint that can be read ({type(error).__name__}). "
            f"Name one that `lightrail fit` wrote."
        ) from error
    if not isinstance(checkpoint, dict) or "task" not in checkpoint:
        raise ConfigError(f"{path} is not a checkpoint of a lightrail task. Name one that `lightrail fit` wrote.")
    # Not the weights: a plain copy would lose the versions that PyTorch keeps beside them.
    plain = {name: value for name, value in checkpoint.items() if name in PLAIN_PARTS}
    return {**checkpoint, **with_current_paths(plain)}
