"""Models outside of runs: a folder with weights as safetensors and, as JSON, all else that rebuilds the task.

    from lightrail.lightning_modules.exported import load_exported
    model = load_exported("DIR")

`lightrail export RUN_ID --output DIR` writes such a folder. Nothing in it is executed when it is read.
"""

import importlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightrail.lightning_modules.base import TaskModule
from lightrail.project.basics.errors import ConfigError, shown
from lightrail.project.basics.reading import reading, regular_file
from lightrail.project.basics.renamed import with_current_paths

WEIGHTS, DESCRIPTION = "model.safetensors", "lightrail.json"
"""The two files of an exported model."""
_MOST_BYTES = 2**30
_FIX = "Export the model again with --format safetensors."


def load_exported(folder: str | Path, device: str | torch.device = "cpu") -> TaskModule:
    """Build an exported task with its weights, in evaluation mode.

    A task or network of your own must be imported first.

    Raises: ConfigError when the folder holds no such model, or one of a class that cannot be imported.
    """
    from safetensors.torch import load_file

    place = Path(folder)
    description = read_description(place)
    file = regular_file(place / WEIGHTS, "weights of the exported model")
    with reading(f"{file} cannot be read", _FIX):
        weights = load_file(file, device=str(device))
        for name, same in description["shared"].items():
            weights[name] = weights[same]
    arguments = description["hyper_parameters"]
    checkpoint = {"task": description["task"], TaskModule.CHECKPOINT_HYPER_PARAMS_KEY: arguments, "state_dict": weights}
    return restore_task(checkpoint, str(place)).to(device).eval()


def read_description(folder: Path) -> dict[str, Any]:
    """Read `lightrail.json` of a folder. Raises: ConfigError when it is missing or describes no task."""
    where = f"{folder} holds no exported model: {DESCRIPTION} cannot be read"
    file = folder / DESCRIPTION
    with reading(where, "Name a folder that `lightrail export RUN_ID --format safetensors --output DIR` wrote."):
        if file.exists():
            regular_file(file, "description of the exported model", most_bytes=_MOST_BYTES)
        description = json.loads(file.read_text(encoding="utf-8"))
    types = {"task": str, "hyper_parameters": dict, "shared": dict}
    is_dict = isinstance(description, dict)
    if not (is_dict and all(isinstance(description.get(key), own) for key, own in types.items())):
        raise ConfigError(f"{file} describes no task. {_FIX}")
    restated: dict[str, Any] = with_current_paths(description)
    return restated


def restore_task(checkpoint: Mapping[str, Any], name: str) -> TaskModule:
    """Build the task of a checkpoint with its weights, whichever task it is.

    Args:
        name: the file or folder, for messages.

    Raises: ConfigError when its class is neither a task of lightrail nor one that was imported before.
    """
    return _task_class(str(checkpoint["task"]), name).from_checkpoint(checkpoint, name)


def describe_task(checkpoint: Mapping[str, Any], shared: Mapping[str, str]) -> str:
    """Return the text of `lightrail.json`: class and constructor arguments of a checkpoint's task, and shared weights.

    Raises: ConfigError when an argument of the task is something that JSON would change.
    """
    arguments = checkpoint[TaskModule.CHECKPOINT_HYPER_PARAMS_KEY]
    description = {"task": checkpoint["task"], "hyper_parameters": arguments, "shared": dict(shared)}
    try:
        text = json.dumps(description, ensure_ascii=False, indent=1)
    except TypeError as error:
        raise ConfigError(
            f"an argument of {checkpoint['task']} is no plain value: {error}. Pass plain ones."
        ) from error
    if json.loads(text)["hyper_parameters"] != arguments:
        raise ConfigError(f"an argument of {checkpoint['task']} has keys that are no texts. Pass a list of pairs.")
    return text


def separate_weights(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Copy each tensor into memory of its own, as safetensors requires, and name those that are another one entirely.

    Returns: the weights on the CPU, and for each name left out (tied embeddings) the name it shares its values with.
    """
    weights: dict[str, Tensor] = {}
    shared: dict[str, str] = {}
    seen: dict[tuple[object, ...], str] = {}
    for name, tensor in state.items():
        place = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and place in seen:
            shared[name] = seen[place]
        else:
            seen[place] = name
            weights[name] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    return weights, shared


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
