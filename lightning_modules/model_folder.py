"""Models as folders: weights as safetensors, and as JSON all else that a prediction needs. No code in them is run.

A folder reads as a checkpoint does, with the same entries. It names no path outside of itself, so that it may be moved.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from lightrail.lightning_modules.arguments import is_from_data_of
from lightrail.project.basics.errors import ConfigError, shown
from lightrail.project.basics.reading import quoted_path, reading, regular_file
from lightrail.project.basics.renamed import with_current_paths

WEIGHTS, DESCRIPTION = "model.safetensors", "lightrail.json"
"""The two files that every exported model has."""
ARGUMENTS = pl.LightningModule.CHECKPOINT_HYPER_PARAMS_KEY
OF_PREDICTIONS = {"trainer": ("accelerator", "precision")}
"""Settings of a section that change predictions, where the section as a whole is about the training."""
_SECTIONS = ("seed_everything", "model", "data", *OF_PREDICTIONS)
_MOST_BYTES = 2**30
_FIX = "Export the model again with --format safetensors."
_TYPES = {"task": str, "hyper_parameters": dict, "shared": dict}
_MORE_TYPES = {"configuration": dict, "run": dict, "tokenizers": dict, "files": dict}
"""Entries that exports of version 0.1.0 lack."""


def read_folder(folder: Path, map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """Read an exported model as the entries of a checkpoint; without `configuration` for one of version 0.1.0.

    Raises: ConfigError when the folder holds no such model, or a file in it is damaged.
    """
    from safetensors.torch import load_file

    description = read_description(folder)
    file = regular_file(folder / WEIGHTS, "weights of the exported model")
    _check_digests(folder, description.get("files", {}))
    with reading(f"{file} cannot be read", _FIX):
        weights = load_file(file, device=str(map_location))
        for name, same in description["shared"].items():
            weights[name] = weights[same]
    checkpoint = {"task": description["task"], ARGUMENTS: description["hyper_parameters"], "state_dict": weights}
    if "configuration" in description:
        checkpoint["configuration"] = _with_tokenizers(folder, description)
    return {**checkpoint, "run": description.get("run", {})}


def read_description(folder: Path) -> dict[str, Any]:
    """Read `lightrail.json` of a folder. Raises: ConfigError when it is missing or describes no task."""
    file, description = folder / DESCRIPTION, _parsed(folder)
    if not all(isinstance(description.get(key), own) for key, own in _TYPES.items()):
        raise ConfigError(f"{file} describes no task. {_FIX}")
    for key, own in _MORE_TYPES.items():
        if not isinstance(description.get(key, own()), own):
            raise ConfigError(f"{file} is damaged: its {key} is {shown(description[key])}. {_FIX}")
    restated: dict[str, Any] = with_current_paths(description)
    return restated


def can_predict(folder: Path) -> bool:
    """Whether a folder is an exported model with its data side: one of version 0.1.0, or for transformers, is not.

    Raises: ConfigError when it has an unreadable `lightrail.json`.
    """
    return os.path.lexists(folder / DESCRIPTION) and "configuration" in _parsed(folder)


def _parsed(folder: Path) -> dict[str, Any]:
    where = f"{folder} holds no exported model: {DESCRIPTION} cannot be read"
    file = folder / DESCRIPTION
    with reading(where, "Name a folder that `lightrail export RUN_ID --format safetensors --output DIR` wrote."):
        if file.exists():
            regular_file(file, "description of the exported model", most_bytes=_MOST_BYTES)
        description = json.loads(file.read_text(encoding="utf-8"))
    return description if isinstance(description, dict) else {}


def write_folder(folder: Path, checkpoint: Mapping[str, Any], state: Mapping[str, Tensor], task: type) -> None:
    """Write the entries of a checkpoint into a folder that holds nothing but tokenizers.

    A folder in it is the tokenizer of the setting `data.NAME` of its name.

    Args:
        state: the weights, on any device.
        task: the task's class.

    Raises: ConfigError when an argument of the task is something that JSON would change.
    """
    from safetensors.torch import save_file

    tokenizers = {path.name: path.name for path in sorted(folder.iterdir()) if path.is_dir()}
    weights, shared = separate_weights(state)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    files = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    given, from_data = checkpoint[ARGUMENTS], is_from_data_of(task)
    description = {
        "task": checkpoint["task"],
        "hyper_parameters": {
            name: own if from_data(name) else without_paths(own) for name, own in given.items() if name != "init_from"
        },
        "shared": shared,
        "configuration": _kept(checkpoint["configuration"]),
        "run": {name: own for name, own in checkpoint.get("run", {}).items() if name == "id"},
        "tokenizers": tokenizers,
        "files": {name: file_digest(folder / name) for name in files},
    }
    (folder / DESCRIPTION).write_text(_as_json(description), encoding="utf-8")


def without_paths(value: Any) -> Any:
    """Copy a plain value with the last part alone of each setting that is a path from the root or the home folder.

    Lists of texts, such as labels, stay as they are.

    >>> without_paths({"path": "/data/reviews/train.csv", "separator": "/", "labels": ["/m/1"], "name": "owner/model"})
    {'path': 'train.csv', 'separator': '/', 'labels': ['/m/1'], 'name': 'owner/model'}
    """
    if isinstance(value, Mapping):
        return {key: without_paths(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [item if isinstance(item, str) else without_paths(item) for item in value]
    if isinstance(value, str) and value.startswith(("/", "~/")) and len(PurePosixPath(value).parts) > 2:
        return PurePosixPath(value).name
    return value


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


def file_digest(file: Path) -> str:
    """Return the digest of a file's content, as `sha256sum` prints it."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check_digests(folder: Path, files: Mapping[str, Any]) -> None:
    """Refuse files that are missing, or not as they were written. Raises: ConfigError."""
    for name, digest in files.items():
        if not _is_inside(name.split("/")):
            raise ConfigError(f"{quoted_path(folder / DESCRIPTION)} names {shown(name)}, no file of the folder. {_FIX}")
        file = regular_file(folder / name, "file of the exported model")
        with reading(f"{quoted_path(file)} cannot be read", _FIX):
            found = file_digest(file)
        if found != digest:
            raise ConfigError(
                f"{quoted_path(file)} is not as it was exported: its SHA-256 begins with {found[:8]}, and "
                f"{DESCRIPTION} states {shown(digest)}. Copy the folder again, or export the model again."
            )


def _with_tokenizers(folder: Path, description: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration with the paths that the tokenizers of a folder have on this machine."""
    configuration: dict[str, Any] = description["configuration"]
    for setting, place in description.get("tokenizers", {}).items():
        with reading(f"{quoted_path(folder / DESCRIPTION)} describes no data", _FIX):
            if not _is_inside([place]):
                raise ValueError(f"{shown(place)} is no folder in it")
            configuration["data"]["init_args"][setting] = str((folder / place).absolute())
    return configuration


def _is_inside(parts: Iterable[object]) -> bool:
    return all(isinstance(own, str) and own not in ("", ".", "..") and not {"/", "\0"} & {*own} for own in parts)


def _kept(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a run's configuration predictions need, without paths."""
    kept = {name: configuration[name] for name in _SECTIONS if name in configuration}
    for section, names in OF_PREDICTIONS.items():
        if section in kept:
            kept[section] = {name: own for name, own in kept[section].items() if name in names}
    model = kept["model"]
    arguments = {name: own for name, own in model["init_args"].items() if name != "init_from"}
    plain: dict[str, Any] = without_paths({**kept, "model": {**model, "init_args": arguments}})
    return plain


def _as_json(description: Mapping[str, Any]) -> str:
    """Format a description. Raises: ConfigError when an argument is something that JSON would change."""
    task = description["task"]
    try:
        text = json.dumps(description, ensure_ascii=False, indent=1)
    except TypeError as error:
        raise ConfigError(f"an argument of {task} is no plain value: {error}. Pass plain ones.") from error
    if json.loads(text)["hyper_parameters"] != description["hyper_parameters"]:
        raise ConfigError(f"an argument of {task} has keys that are no texts. Pass a list of pairs.")
    return text
