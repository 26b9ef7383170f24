"""The configuration that a call from Python gives: names or files, and settings as Python values."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from lightrail.project.basics.errors import ConfigError, shown
from lightrail.project.configuration import Configuration, parse
from lightrail.project.configuration.classes import import_path
from lightrail.project.configuration.sources import FLAGS
from lightrail.project.configuration.yaml_file import Value

Source: TypeAlias = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Mapping[str, Any]
"""A configuration: the name of a shipped experiment, a YAML file, several of them, or all of its values."""
Settings: TypeAlias = Mapping[str, Any]
"""Python values by dotted or short name: `{"data.path": "reviews.csv", "epochs": 3, "trainer.callbacks": None}`."""
_OPTIONS = {"config", "allow_modules", "seeds", "ckpt_path", "output", *(flag.removeprefix("--") for flag in FLAGS)}


def configuration_of(
    source: Source, settings: Settings | None = None, allow_modules: Sequence[str] = ()
) -> Configuration:
    """Return the configuration that `--config` and settings of the command line give. Raises: ConfigError.

    Args:
        allow_modules: modules whose classes may be named; those of classes among the settings are added.
    """
    values, modules = plain_settings(settings)
    saved = plain_settings(source)[0] if isinstance(source, Mapping) else None
    return parse([*written(source), *allowing([*allow_modules, *modules])], saved=saved, settings=values)


def written(source: Source) -> list[str]:
    """Return `--config` for each name and file; nothing for a mapping."""
    if isinstance(source, Mapping):
        return []
    sources = [source] if isinstance(source, str | os.PathLike) else source
    if not isinstance(sources, Sequence) or not all(isinstance(own, str | os.PathLike) for own in sources):
        raise ConfigError(f"the configuration is {shown(source)}. Give a name, a file, several, or a mapping.")
    return [f"--config={os.fspath(own)}" for own in sources]


def allowing(modules: Sequence[str]) -> list[str]:
    """Return `--allow_modules` for modules of the caller's own, if any."""
    return [f"--allow_modules={','.join(modules)}"] if modules else []


def plain_settings(settings: Settings | None) -> tuple[dict[str, Value], list[str]]:
    """Return settings as YAML values, and the modules of the classes among them. Raises: ConfigError naming one."""
    modules: list[str] = []
    if not isinstance(settings, Mapping | None):
        raise ConfigError(
            f'the settings are {shown(settings)}. Give a mapping, such as {{"data.path": "reviews.csv"}}.'
        )
    for name in settings or {}:
        if name in _OPTIONS:
            raise ConfigError(f"{name} is no setting, but an option of the command line: give it as an argument.")
    return _plain_mapping(settings or {}, "settings", modules), modules


def _plain_mapping(values: Mapping[Any, Any], where: str, modules: list[str]) -> dict[str, Value]:
    for name in values:
        if not isinstance(name, str):
            raise ConfigError(f"{where}: the name {shown(name)} is no text. Give dotted names of settings.")
    return {name: _plain(value, name, modules) for name, value in values.items()}


def _plain(value: Any, name: str, modules: list[str]) -> Value:
    if isinstance(value, type):
        modules.append(value.__module__)
        return import_path(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return _plain_mapping(value, name, modules)
    if isinstance(value, list | tuple):
        return [_plain(item, name, modules) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ConfigError(
        f"{name}: {shown(value)} is a {type(value).__name__}. Give a plain value: a number, a text, a list, a mapping, "
        f"a class, or None."
    )
