"""Arguments of a task's constructor: which of them come from the data, and all of them as plain values.

A checkpoint stores plain values alone, so that loading it runs no code.
"""

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from inspect import Parameter, get_annotations, signature
from typing import Annotated, Any, TypeVar, get_args, get_origin

from lightrail.project.basics.annotations import check_types, fits_with_items, in_plain_words
from lightrail.project.basics.errors import ConfigError, shown
from lightrail.project.basics.renamed import current_path

T = TypeVar("T")
_MARK = object()
FromData = Annotated[T, _MARK]
"""The type of an argument that comes from the data: `labels: FromData[list[str]]` of a task's constructor is passed
`facts()["labels"]` of the datamodule when a run is built. Like every fact it is a plain value, and no configuration can
set it."""
DESCRIPTION = {"class_path", "init_args"}
"""Keys of a mapping that describes a dataclass."""


def is_from_data(annotation: Any) -> bool:
    """Whether an argument with this annotation comes from the data.

    >>> is_from_data(FromData[list[str]]), is_from_data(list[str])
    (True, False)
    """
    return get_origin(annotation) is Annotated and _MARK in get_args(annotation)


def is_from_data_of(task: type) -> Callable[[str], bool]:
    """Return the function that tells whether an argument of a task's constructor comes from the data, by its name."""
    annotations = get_annotations(task.__init__)  # type: ignore[misc]  # of a class, not of an instance
    return lambda name: is_from_data(annotations.get(name))


def facts_for(task: Callable[..., Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return those facts of the data that the constructor of a task takes.

    Raises: ConfigError when one is missing that it needs.
    """
    annotations, given = get_annotations(task.__init__), signature(task).parameters
    taken = {name: own for name, own in given.items() if is_from_data(annotations.get(name))}
    for name, own in taken.items():
        if own.default is Parameter.empty and name not in facts:
            raise ConfigError(f"{task.__name__} needs `{name}` from the data, which does not provide it.")
    return {name: facts[name] for name in taken if name in facts}


def check_facts(task: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Check those of a task's arguments that came from the data, as a file gives them. Raises: ValueError."""
    defaults = signature(task).parameters
    for name, annotation in get_annotations(task.__init__).items():
        if is_from_data(annotation) and name not in arguments and defaults[name].default is Parameter.empty:
            raise ValueError(f"its argument {name}, which came from the data, is missing")
        if is_from_data(annotation) and name in arguments and not fits_with_items(arguments[name], annotation):
            raise ValueError(f"its argument {name} is {shown(arguments[name])}, not {in_plain_words(annotation)}")


def to_plain(value: Any) -> Any:
    """Return a copy of a value with dataclasses as `{"class_path": ..., "init_args": ...}`, and tuples as lists.

    >>> to_plain({"sizes": (1, 2)})
    {'sizes': [1, 2]}
    """
    if is_dataclass(value) and not isinstance(value, type):
        arguments = {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
        return {"class_path": f"{type(value).__module__}.{type(value).__qualname__}", "init_args": arguments}
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return value


def from_plain(value: Any, base: type = object) -> Any:
    """Rebuild the dataclasses that `to_plain` described: only those of lightrail, or of a module already imported.

    Args:
        base: class that each of them must be derived from.

    Raises: ConfigError for any other class path, or an argument of another type.
    """
    if isinstance(value, Mapping):
        items = {key: from_plain(item, base) for key, item in value.items()}
        if set(items) != DESCRIPTION:
            return items
        found = _dataclass(items["class_path"], base)
        check_own_types(items["init_args"], found)
        return found(**items["init_args"])
    if isinstance(value, list):
        return [from_plain(item, base) for item in value]
    return value


def check_own_types(arguments: Mapping[str, Any], built: Callable[..., Any]) -> None:
    """Check stored arguments of a class of lightrail, whose annotations hold; those of others may be looser.

    Raises: ConfigError naming class and argument.
    """
    if built.__module__.startswith("lightrail."):
        check_types(arguments, built)


def _dataclass(class_path: str, base: type) -> Any:
    module_name, _, name = current_path(class_path).rpartition(".")
    if module_name.startswith("lightrail.lightning_modules."):
        importlib.import_module(module_name)
    found = getattr(sys.modules.get(module_name), name, None)
    if not (isinstance(found, type) and is_dataclass(found) and issubclass(found, base)):
        raise ConfigError(
            f"the checkpoint names {class_path}, which is no settings class of lightrail. "
            "If it is your own, import its module first (--allow_modules on the command line)."
        )
    return found
