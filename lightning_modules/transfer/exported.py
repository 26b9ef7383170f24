"""Tasks of stored models, whichever they are: of an exported folder, or of a checkpoint that was read.

    from lightrail.lightning_modules.transfer.exported import load_exported
    model = load_exported("DIR")

`lightrail export RUN_ID --output DIR` writes such a folder. Nothing in it is executed when it is read.
"""

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lightrail.lightning_modules.base import TaskModule
from lightrail.lightning_modules.model_folder import read_folder
from lightrail.project.basics.errors import ConfigError, shown
from lightrail.project.basics.reading import reading


def load_exported(folder: str | Path, device: str | torch.device = "cpu") -> TaskModule:
    """Build an exported task with its weights, in evaluation mode.

    A task or network of your own must be imported first.

    Raises: ConfigError when the folder holds no such model, or one of a class that cannot be imported.
    """
    return restore_task(read_folder(Path(folder), device), str(folder)).to(device).eval()


def restore_task(checkpoint: Mapping[str, Any], name: str) -> TaskModule:
    """Build the task of a checkpoint with its weights, whichever task it is.

    Args:
        name: the file or folder, for messages.

    Raises: ConfigError when its class is neither a task of lightrail nor one that was imported before.
    """
    return _task_class(str(checkpoint["task"]), name).from_checkpoint(checkpoint, name)


def _task_class(path: str, name: str) -> type[TaskModule]:
    module, _, task = path.rpartition(".")
    if module.startswith("lightrail.lightning_modules."):
        what = f"{name} needs the task {shown(path)}, which this version of lightrail lacks"
        with reading(what, "Use the version that wrote it."):
            importlib.import_module(module)
    found = getattr(sys.modules.get(module), task, None)
    if isinstance(found, type) and not issubclass(found, TaskModule):
        raise ConfigError(
            f"{name} is a checkpoint of {task}, which is not derived from TaskModule of lightrail, as this needs. "
            f"Load it with {task}.load_from_checkpoint, or use `lightrail predict`."
        )
    if not isinstance(found, type):
        raise ConfigError(
            f"{name} needs the task {shown(path)}, which cannot be imported. If it is your own, import its module "
            f"first (--allow_modules on the command line)."
        )
    return found
