"""Copying weights from one network into another where they mean the same: by name, and rows by what they stand for."""

import json
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import get_annotations
from typing import Any

import torch
from torch import Tensor, nn

from lightrail.lightning_modules.arguments import is_from_data, to_plain
from lightrail.lightning_modules.base import TaskModule
from lightrail.lightning_modules.model_folder import without_paths
from lightrail.lightning_modules.networks.row_names import AllOrNothing, Hashed, NamesRows, RowNames
from lightrail.project.basics.errors import ConfigError
from lightrail.project.basics.private_names import norms_with_statistics

_NUM_SHOWN = 4
_HELD_BY_OTHERS = (
    *(nn.Linear, nn.Bilinear, nn.Embedding, nn.EmbeddingBag),
    *(nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict),
)
"""Layers that do not know what their rows stand for: the module that made them does."""
_KNOWN_PACKAGES = ("lightrail", "torch", "torchvision", "transformers", "peft")
"""Packages whose modules name their rows here, or have none that the data decides on."""
_INSIDE_OF_ADAPTER = ".base_layer."


@dataclass(frozen=True)
class NamedWeights:
    """The weights of a network, with what their rows stand for."""

    tensors: Mapping[str, Tensor]
    rows: Mapping[str, RowNames]
    knows_rows: bool = True
    """False for a file of weights alone, which does not tell what rows stand for."""

    @classmethod
    def of(cls, task: TaskModule) -> "NamedWeights":
        """Return the parameters of a task, and its buffers but those that a calibration sets."""
        tensors = dict(_tensors(task))
        return cls(tensors, _row_names(task, tensors))


@dataclass
class Transfer:
    """What one network took from another."""

    taken: dict[str, int] = field(default_factory=dict)
    """Number of weights taken, by the name of the tensor."""
    in_part: dict[str, str] = field(default_factory=dict)
    """How many rows were taken, in words, of the tensors of which not all were."""
    new: list[str] = field(default_factory=list)
    """Tensors that nothing was taken for."""
    left: list[str] = field(default_factory=list)
    """Tensors of the other network that nothing was taken of."""
    num_tensors: int = 0
    num_weights: int = 0

    def __str__(self) -> str:
        counts = f"{_short(sum(self.taken.values()))} of {_short(self.num_weights)} weights"
        parts = [f"{len(self.taken)} of {self.num_tensors} tensors ({counts})"]
        in_part = [f"{name} ({rows})" for name, rows in self.in_part.items()]
        for what, names in (("in part", in_part), ("new", self.new), ("left", self.left)):
            if names:
                more = f" and {len(names) - _NUM_SHOWN} more" if len(names) > _NUM_SHOWN else ""
                parts.append(f"{what}: {', '.join(names[:_NUM_SHOWN])}{more}")
        return "; ".join(parts)


@torch.no_grad()
def take_weights(task: TaskModule, source: NamedWeights) -> Transfer:
    """Copy the weights of `source` that fit into a task, in place.

    Rows that stand for tokens or labels are copied by name; a row that `source` lacks keeps its fresh values.
    """
    own, found, used = NamedWeights.of(task), Transfer(), set()
    for name, tensor in own.tensors.items():
        found.num_tensors += 1
        found.num_weights += tensor.numel()
        other = next((key for key in (name, name.replace(_INSIDE_OF_ADAPTER, ".")) if key in source.tensors), None)
        places = None
        if other is not None and (source.knows_rows or name not in own.rows):
            places = _places(tensor.shape, own.rows.get(name), source.tensors[other].shape, source.rows.get(other))
        if other is None or places is None:
            found.new.append(name)
            continue
        taken = _placed(tensor.data, source.tensors[other].to(tensor.device, tensor.dtype), places)
        tensor.data.copy_(taken)
        used.add(other)
        found.taken[name] = tensor.numel()
        for dimension, mine, _ in places:
            found.taken[name] = found.taken[name] // tensor.shape[dimension] * len(mine)
            if len(mine) < tensor.shape[dimension]:
                found.in_part[name] = f"{len(mine):,} of {tensor.shape[dimension]:,} rows"
    found.left = [name for name in source.tensors if name not in used]
    return found


Place = tuple[int, list[int], list[int]]
"""A dimension, and the indices there of one tensor and of the other that stand for the same."""


def _places(
    shape: Sequence[int], names: RowNames | None, other_shape: Sequence[int], others: RowNames | None
) -> list[Place] | None:
    """Return what of one tensor another one has; [] for all of it, None for nothing."""
    if names is None or others is None or isinstance(names, AllOrNothing) or isinstance(others, AllOrNothing):
        return [] if _mean_the_same(names, others) and shape == other_shape else None
    if len(shape) != len(other_shape):
        return None
    places = []
    for dimension, (size, other_size) in enumerate(zip(shape, other_shape, strict=True)):
        own, other = (all_names[dimension] if dimension < len(all_names) else None for all_names in (names, others))
        if own is None or other is None:
            if (own is None) != (other is None) or size != other_size:
                return None
        elif size != other_size or list(own) != list(other):
            numbers = {name: number for number, name in enumerate(other)}
            shared = [(number, numbers[name]) for number, name in enumerate(own) if name in numbers]
            if not shared:
                return None
            mine, theirs = zip(*shared, strict=True)
            places.append((dimension, list(mine), list(theirs)))
    return places


def _placed(own: Tensor, other: Tensor, places: Sequence[Place]) -> Tensor:
    """Return a tensor with the values of another one in the places that stand for the same."""
    if not places:
        return other
    (dimension, mine, theirs), *rest = places
    index = torch.tensor(mine, device=own.device)
    inner = other.index_select(dimension, torch.tensor(theirs, device=other.device))
    return own.index_copy(dimension, index, _placed(own.index_select(dimension, index), inner, rest))


def _tensors(task: TaskModule) -> Iterator[tuple[str, Tensor]]:
    parameters = {name for name, _ in task.named_parameters()}
    norms = norms_with_statistics()
    inside = [f"{name}." for name, part in task.named_modules() if isinstance(part, norms)]
    for name, tensor in task.state_dict(keep_vars=True).items():
        if isinstance(tensor, nn.Parameter):
            is_own = name in parameters  # once for tied ones
        else:
            is_own = isinstance(tensor, Tensor) and (
                not task.can_be_calibrated() or f"{name.rpartition('.')[0]}." in inside
            )
        if is_own:
            yield name, tensor


def _row_names(task: TaskModule, tensors: Mapping[str, Tensor]) -> dict[str, RowNames]:
    """Return what rows stand for, as modules say; of modules that do not say it, that they are of this data alone."""
    found: dict[str, RowNames] = {}
    parts = dict(task.named_modules(remove_duplicate=False))
    for prefix, part in parts.items():
        if isinstance(part, NamesRows):
            for name, names in part.row_names().items():
                found.setdefault(f"{prefix}.{name}" if prefix else name, names)
    of_this_data = AllOrNothing(_facts(task))
    for name, tensor in tensors.items():
        if name not in found and not _says_all(parts, name):
            found[name] = of_this_data
        names = found.get(name, ())
        sizes = [] if isinstance(names, AllOrNothing) else [None if own is None else len(own) for own in names]
        if any(size not in (None, held) for size, held in zip(sizes, tensor.shape, strict=False)):
            raise ConfigError(
                f"row_names of {type(task).__name__} names {sizes} rows of {name}, which is {list(tensor.shape)}. Name "
                "each row, or leave the parameter out."
            )
    return found


def _mean_the_same(names: RowNames | None, others: RowNames | None) -> bool:
    """Whether rows stand for the same; an exported model has the last part alone of the path to its checkpoint."""
    if isinstance(names, Hashed) and isinstance(others, Hashed):
        return names.is_continued(others)
    if isinstance(names, AllOrNothing) and isinstance(others, AllOrNothing):
        one, other = names.meaning, others.meaning
        if isinstance(one, str) and isinstance(other, str):
            return one == other or without_paths(one) == other or one == without_paths(other)
    return names == others


def _says_all(parts: Mapping[str, nn.Module], name: str) -> bool:
    """Whether the module that made a layer is known to say what rows stand for."""
    path = name.rpartition(".")[0]
    while path and isinstance(parts[path], _HELD_BY_OTHERS):
        path = path.rpartition(".")[0]
    package = _package(parts[path])
    if package in _KNOWN_PACKAGES:
        return True
    while path and not _names_rows(parts[path], package):
        path = path.rpartition(".")[0]
    return _names_rows(parts[path], package)


def _names_rows(part: nn.Module, package: str) -> bool:
    return _package(part) == package and isinstance(part, NamesRows)


def _package(part: nn.Module) -> str:
    return type(part).__module__.partition(".")[0]


def _facts(task: TaskModule) -> Hashable:
    """Return what a task took from its data, as a text that can be compared."""
    facts: dict[str, Any] = {
        name: to_plain(task.hparams[name])
        for name, annotation in get_annotations(type(task).__init__).items()
        if is_from_data(annotation) and name in task.hparams
    }
    return json.dumps(facts, sort_keys=True, default=str)


def _short(number: int) -> str:
    """Format a number of weights in at most four digits.

    >>> _short(5_230_000), _short(41_000), _short(812)
    ('5.2 M', '41.0 k', '812')
    """
    return next(
        (f"{number / size:.1f} {unit}" for size, unit in ((10**6, "M"), (1000, "k")) if number >= size), f"{number}"
    )
