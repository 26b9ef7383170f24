"""Starting a task from stored weights: of a checkpoint, an exported model, or a safetensors file. No code is run."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lightrail.lightning_modules.base import TaskModule
from lightrail.lightning_modules.checkpoint import read_checkpoint
from lightrail.lightning_modules.model_folder import DESCRIPTION, WEIGHTS
from lightrail.lightning_modules.networks.adapters import adapters_of, merge_adapters
from lightrail.lightning_modules.transfer.exported import restore_task
from lightrail.lightning_modules.transfer.matching import NamedWeights, Transfer, take_weights
from lightrail.project.basics.errors import ConfigError
from lightrail.project.basics.reading import quoted_path, reading, regular_file


@dataclass(frozen=True)
class StoredWeights:
    """Weights of a file, with the task that they belong to, if that is known."""

    name: str
    """Name of the file or folder, for messages."""
    digest: str
    """Digest of the weights' names and values, which other content of the file does not change."""
    run_id: str
    """Empty when no run wrote the file, or it does not say which one."""
    task: TaskModule | None
    tensors: Mapping[str, Tensor]


def read_weights(path: Path) -> StoredWeights:
    """Read a checkpoint, the folder of an exported model, or a safetensors file; random numbers stay as they are.

    Raises: ConfigError when it is damaged, none of these, or of a task that cannot be imported.
    """
    with torch.random.fork_rng(devices=[]):  # a task draws fresh weights before it gets the stored ones
        if path.name == WEIGHTS and (path.parent / DESCRIPTION).exists():
            path = path.parent
        if path.suffix == ".safetensors" and not path.is_dir():
            tensors = _read_safetensors(path)
            return StoredWeights(str(path), digest_of(tensors), "", None, tensors)
        checkpoint = read_checkpoint(path)
        run_id = checkpoint.get("run", {}).get("id", "")
        return _of_task(path, restore_task(checkpoint, str(path)), run_id)


def start_from(task: TaskModule, source: StoredWeights) -> Transfer:
    """Copy the stored weights that fit into a task.

    Adapters are taken where the task has the same ones, and else added to the weights that they adapt.

    Raises: ConfigError when nothing fits.
    """
    if source.task is None:
        weights = NamedWeights(source.tensors, {}, knows_rows=False)
    else:
        if adapters_of(source.task) != adapters_of(task):
            merge_adapters(source.task)
        weights = NamedWeights.of(source.task)
    found = take_weights(task, weights)
    if not found.taken:
        own, other = (", ".join(names[:3]) for names in (found.new, found.left))
        raise ConfigError(
            f"nothing of {source.name} fits this model: no weights have the same name, and the same shape or the same "
            f"tokens or labels. The model has {own}, ...; the file has {other or 'none'}, ... Name a run of such a "
            "network, or give the model the network of that run."
        )
    return found


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """Return a digest of the names and values of weights."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _of_task(path: Path, task: TaskModule, run_id: str) -> StoredWeights:
    tensors = {name: own for name, own in task.state_dict().items() if isinstance(own, Tensor)}
    return StoredWeights(str(path), digest_of(tensors), run_id, task, tensors)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    file = regular_file(path, "weights")
    with reading(f"{quoted_path(file)} cannot be read", "It may be damaged: copy it again, or name another file."):
        tensors: dict[str, Tensor] = load_file(file)
    return tensors
