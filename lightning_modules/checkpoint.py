"""Checkpoints as files, and as exported folders, read without running anything in them."""

import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import lightning.pytorch as pl
import torch
from torch import nn

from lightrail.lightning_modules.arguments import check_facts, check_own_types, from_plain
from lightrail.lightning_modules.model_folder import read_folder
from lightrail.project.basics.durable import replacing
from lightrail.project.basics.errors import ConfigError, first_line, shown
from lightrail.project.basics.reading import reading, regular_file
from lightrail.project.basics.renamed import with_current_paths

Module = TypeVar("Module", bound=nn.Module)
PLAIN_PARTS = ("task", "configuration", pl.LightningModule.CHECKPOINT_HYPER_PARAMS_KEY)
"""Entries of a checkpoint that hold class paths."""
RESUME_STATE = ("optimizer_states", "lr_schedulers", "callbacks", "current_model_state", "averaging_state")
"""Entries of a checkpoint that only a resumed training reads; the last two are those of averaged weights."""
DAMAGED = "It may be damaged, or of another version: name another file."
_USUAL_SIZE = 100_000
_TYPES = {"state_dict": dict, "configuration": dict, "run": dict, PLAIN_PARTS[-1]: dict}


def read_checkpoint(path: str | Path, map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """Read a task's checkpoint, or exported folder, without running anything in it.

    Names of moved classes are brought up to date.

    Raises: ConfigError when the file is missing, damaged or not a task's checkpoint.
    """
    if not Path(path).exists():
        raise ConfigError(f"{path}: no such checkpoint. Name a file, or runs:/RUN_ID.")
    checkpoint: Any = read_folder(Path(path), map_location) if Path(path).is_dir() else _loaded(path, map_location)
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("task"), str):
        raise ConfigError(f"{path} is not a checkpoint of a lightrail task. Name one that `lightrail fit` wrote.")
    if missing := [name for name in ("state_dict", PLAIN_PARTS[-1]) if name not in checkpoint]:
        raise ConfigError(f"{path} is damaged: it has no {' and no '.join(missing)}. Name another checkpoint.")
    for name, kind in _TYPES.items():
        if not isinstance(checkpoint.get(name, kind()), kind):
            raise ConfigError(f"{path} is damaged: its {name} is {shown(checkpoint[name])}. Name another checkpoint.")
    run = checkpoint.get("run", {})
    if not all(isinstance(own, str) for own in run.values()):
        raise ConfigError(f"{path} is damaged: its run is {shown(run)}. Name another checkpoint.")
    # Not the weights: a plain copy would lose the versions that PyTorch keeps beside them.
    plain = {name: value for name, value in checkpoint.items() if name in PLAIN_PARTS}
    return {**checkpoint, **with_current_paths(plain)}


def _loaded(path: str | Path, map_location: str | torch.device) -> Any:
    regular_file(Path(path), "checkpoint")
    with reading(f"{path} is not a checkpoint that can be read", "Name one that `lightrail fit` wrote."):
        _check_packing(Path(path))
        try:
            return torch.load(path, map_location=map_location, weights_only=True)
        except Exception as error:  # messages that advise to run the code, or tell a byte's number
            raise ValueError("it is damaged, or holds objects that could run code, which is never done") from error


def drop_resume_state(path: Path) -> bool:
    """Rewrite a checkpoint without what only a resumed training reads, whole or not at all; it loads as before.

    Returns: whether there was any. Raises: ConfigError when the file cannot be read.
    """
    regular_file(path, "checkpoint")
    with reading(f"{path} is not a checkpoint that can be read", "Restore it from a copy."):
        _check_packing(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)  # only the kept part is read
        kept = {name: value for name, value in checkpoint.items() if name not in RESUME_STATE}
    if len(kept) == len(checkpoint):
        return False
    with replacing(path) as stream:
        torch.save(kept, stream)
    return True


def stored_configuration(checkpoint: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the configuration of the run that wrote a checkpoint; `name` stands for its file in messages.

    Raises: ConfigError when it has none that is complete, as one that was saved without `lightrail fit`.
    """
    configuration: dict[str, Any] = checkpoint.get("configuration", {})
    for section in ("model", "data"):
        part = configuration.get(section)
        if not (
            isinstance(part, Mapping)
            and isinstance(part.get("class_path"), str)
            and isinstance(part.get("init_args"), Mapping)
        ):
            raise ConfigError(
                f"{name} has no configuration of its {section}. Name one that `lightrail fit` wrote, and export again "
                "what version 0.1 exported."
            )
    return configuration


def rebuild(task: Callable[..., Module], checkpoint: Mapping[str, Any], name: str) -> Module:
    """Build a task, by its class, from a checkpoint's arguments and weights; `name` stands for its file in messages.

    Lightning's own loading (2.6) passes plain mappings where the constructor takes dataclasses.

    Raises: ConfigError when an argument or a weight does not fit.
    """
    with rebuilding(name):
        arguments = stored_arguments(task, checkpoint)
        _check_sizes(task, arguments, checkpoint)
        built = task(**arguments)
        fill(built, checkpoint["state_dict"])
    return built


@contextmanager
def rebuilding(name: str) -> Iterator[None]:
    """Name the file in every refusal of the block: it is damaged, or of another version. Raises: ConfigError."""
    try:
        with reading(f"{name} cannot be rebuilt", DAMAGED):
            yield
    except ConfigError as error:
        if error.__cause__ is not None:  # raised at the boundary, which has named the file
            raise
        raise ConfigError(f"{name}: {error}") from error


def stored_arguments(task: Callable[..., Any], checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a task in a checkpoint. Raises: ConfigError, ValueError for damaged ones."""
    stored = checkpoint[PLAIN_PARTS[-1]]
    check_facts(task, stored)
    arguments: dict[str, Any] = from_plain(stored)
    check_own_types(arguments, task)
    return arguments


def check_task(task: type, checkpoint: Mapping[str, Any], name: str) -> None:
    """Refuse a checkpoint of another task. Raises: ConfigError."""
    if checkpoint["task"] != f"{task.__module__}.{task.__qualname__}":
        raise ConfigError(
            f"{name} is a checkpoint of {checkpoint['task'].rpartition('.')[2]}, not of {task.__name__}. "
            f"Name a checkpoint of this task, or the configuration that it was trained with."
        )


def fill(module: nn.Module, weights: Mapping[str, Any]) -> None:
    """Copy weights into a module. Raises: ValueError with those that are missing, unexpected or of other sizes."""
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(" ".join(str(error).partition("\n")[2].split())[:300] or first_line(error)) from error


def _check_sizes(task: Callable[..., nn.Module], arguments: dict[str, Any], checkpoint: Mapping[str, Any]) -> None:
    """Refuse arguments that describe far more weights than there are, before memory is reserved. Raises: ValueError."""
    if _largest(checkpoint[PLAIN_PARTS[-1]]) < _USUAL_SIZE:
        return
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            described = sum(weight.numel() for weight in task(**arguments).parameters())
    except Exception:  # it computes with the weights; what else is wrong shows when it is built
        return
    held = sum(weight.numel() for weight in checkpoint["state_dict"].values())
    if described > 2 * held + _USUAL_SIZE:
        raise ValueError(f"its arguments describe {described:,} weights, and it holds {held:,}")


def _largest(value: Any) -> float:
    if isinstance(value, Mapping | list):
        return max(map(_largest, value.values() if isinstance(value, Mapping) else value), default=0)
    return value if isinstance(value, int | float) else 0


def _check_packing(path: Path) -> None:
    """Refuse an archive that would unpack to more than it is; PyTorch compresses nothing. Raises: ValueError."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > path.stat().st_size:
            raise ValueError(f"it would unpack to {unpacked:,} bytes")
