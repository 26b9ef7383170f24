"""Merges configuration files and command-line arguments into one nested dictionary, with the origin of each setting."""

import copy
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lightrail.project.basics.catalogue import experiment_files
from lightrail.project.basics.did_you_mean import did_you_mean
from lightrail.project.basics.errors import ConfigError, plain, shown
from lightrail.project.basics.reading import quoted_path, regular_file
from lightrail.project.configuration.yaml_file import (
    DEEPEST,
    Origin,
    SettingPath,
    Value,
    read_file,
    read_text,
    shown_path,
)

FLAGS = ("--print_config", "--help_all")
"""Options without a value."""
JSON = "--json"
"""Flag of commands that can print values for programs."""
SHORT_NAMES = {
    "epochs": "trainer.max_epochs",
    "max_epochs": "trainer.max_epochs",
    "steps": "trainer.max_steps",
    "max_steps": "trainer.max_steps",
    "lr": "model.optim.lr",
    "learning_rate": "model.optim.lr",
    "batch_size": "data.batch.size",
    "seed": "seed_everything",
    "device": "trainer.accelerator",
    "devices": "trainer.devices",
    "precision": "trainer.precision",
    "name": "tracking.run_name",
    "experiment": "tracking.experiment",
}
"""Short names on the command line, with `-` or `_`, of settings. No section of a configuration has one of them."""
SPEC_KEYS = frozenset({"class_path", "init_args"})
"""Keys of a spec: a class and the arguments to build it with."""


class Text(str):
    """A text value of the command line, parsed as YAML where the type of its setting requires it."""

    __slots__ = ()


def options(
    arguments: Sequence[str], *, bare: str = "", short_names: Mapping[str, str] = SHORT_NAMES
) -> Iterator[tuple[str, str]]:
    """Yield (name, value) for `--name value` and `--name=value`, in order; flags have the value "".

    Args:
        bare: name of the option that an argument without a name stands for, such as `--config`; "": it is refused.
        short_names: short names, with `_`, of settings, whose full names are yielded.

    Raises: ConfigError for an argument that is no option, or an option without a value.
    """
    remaining = iter(arguments)
    for argument in remaining:
        if bare and argument and not argument.startswith("--"):
            yield bare, argument
            continue
        if not argument.startswith("--") or argument == "--":
            raise ConfigError(f"Unexpected argument {shown(argument)}. Settings are given as --name value.")
        name, equals, value = argument.partition("=")
        if name not in FLAGS and not equals:
            value = next(remaining, "--")
            if value.startswith("--"):
                raise ConfigError(f"{plain(name)} needs a value: {plain(name)} VALUE.")
        short = name.removeprefix("--").replace("-", "_")
        yield f"--{short_names[short]}" if short in short_names else name, value


def written_out(arguments: Sequence[str], bare: str) -> list[str]:
    """Return arguments as `--name=value`, with full names; one without a name is the value of the option `bare`."""
    return [_joined(*option) for option in options(arguments, bare=bare)]


def _joined(name: str, value: str) -> str:
    return name if name in FLAGS and not value else f"{name}={value}"


def find_config(name: str) -> Path:
    """Return the file of a `--config` argument: a path, or the name of a shipped experiment.

    Raises:
        ConfigError: there is neither; suggests the most similar shipped experiment.
    """
    file, shipped = Path(name), experiment_files()
    if os.path.isfile(name):  # not Path.is_file, which raises for a name that is too long
        return file
    if name in shipped:
        return shipped[name]
    if os.path.exists(name):
        return regular_file(file, "--config")
    hint = did_you_mean(file.stem, shipped)
    raise ConfigError(f"--config {plain(name)}: no such file, and no shipped experiment has this name.{hint}")


@dataclass
class Draft:
    """The settings given so far; later ones override earlier ones.

    Mappings are merged, lists are replaced, or extended where the key ends in `+`. When another class is chosen, the
    arguments of the previous one are `inherited`: they are kept where the new class takes them too.
    """

    values: dict[str, Value] = field(default_factory=dict)
    inherited: set[SettingPath] = field(default_factory=set)
    _origins: dict[SettingPath, Origin] = field(default_factory=dict)
    _blank: set[SettingPath] = field(default_factory=set)
    """Names of the file being added that nothing is written after, not even null."""
    _num_opened: int = 0

    def add_file(self, file: Path) -> None:
        """Merge the settings of a YAML file over those so far. Raises: ConfigError when it cannot be read."""
        values, found = read_file(file)
        origins = {_written((*path[0].split("."), *path[1:])): origin for path, origin in found.items()}
        self._blank = {path for path, origin in origins.items() if origin.written == ""}
        for key, value in values.items():
            self._merge(self.values, nest(key, value), ())
        self._blank = set()
        self._origins.update(origins)

    def add_values(self, values: Mapping[str, Value]) -> None:
        """Merge nested settings over those so far."""
        self._merge(self.values, copy.deepcopy(dict(values)), ())

    def open_file(self, name: str, over: Mapping[str, Value], path: SettingPath) -> dict[str, Value]:
        """Return the settings of a file that the setting at `path` names, with `over` merged over them.

        Raises:
            ConfigError: the file does not exist, or includes itself.
        """
        by = self._origins.get(_written(path))
        file = (by.file.parent if by else Path()) / name
        if not os.path.exists(file):
            raise ConfigError(f"{shown_path(path)}: there is no file {quoted_path(file)}.")
        self._num_opened += 1
        if self._num_opened > 100:
            raise ConfigError(f"{quoted_path(file)} is opened more than 100 times. Does it include itself?")
        inner = Draft()
        inner.add_file(file)
        self._origins = {(*_written(path), *key): origin for key, origin in inner._origins.items()} | self._origins
        inner.add_values(over)
        return inner.values

    def origin(self, path: SettingPath) -> Origin | None:
        """Return the file and line that gave a setting; None for the command line and for defaults."""
        written = _written(path)
        by_name = self._origins.get(written[:-1]) if path[-1:] == ("class_path",) else None  # a class by name alone
        return self._origins.get(written, by_name)

    def is_from(self, setting: str, file: Path) -> bool:
        """Whether a file is what gave a setting, by its dotted name, that no later file or argument replaced."""
        origin = self.origin(tuple(setting.split(".")))
        return origin is not None and origin.file == file

    def _merge(self, base: dict[str, Value], new: Mapping[str, Value], path: SettingPath) -> None:
        for key, value in new.items():
            if key.endswith("+"):
                base[key[:-1]] = _as_list(base.get(key[:-1])) + _as_list(value)
            else:
                base[key] = self._merged(base.get(key), value, (*path, key))

    def _merged(self, old: Value, new: Value, path: SettingPath) -> Value:
        """Return the value at `path` with `new` merged over `old`."""
        if new is None and isinstance(old, dict | list) and (path[-1] == "init_args" or _written(path) in self._blank):
            return old  # a section in which every line is commented out
        if isinstance(old, list) and old and isinstance(new, dict) and "class_path" not in new:
            old[-1] = self._merged(old[-1], new, (*path, str(len(old) - 1)))  # --trainer.callbacks.patience 3
            return old
        if isinstance(old, dict) and "class_path" in old and isinstance(new, str) and not _is_yaml(new):
            new = {"class_path": new}
        if isinstance(old, str) and isinstance(new, dict) and "class_path" not in new:
            old = {"class_path": old}
        if not isinstance(old, dict) or not isinstance(new, dict):
            self._forget(path)
            old = {}
        if not isinstance(new, dict):
            return new
        if SPEC_KEYS & (old.keys() | new.keys()):
            old, new = as_spec(old), as_spec(new)
            self._note_inherited(old, new, path)
        self._merge(old, new, path)
        return old

    def _note_inherited(self, old: dict[str, Value], new: dict[str, Value], path: SettingPath) -> None:
        classes = {str(spec["class_path"]).rpartition(".")[2] for spec in (old, new) if "class_path" in spec}
        if len(classes) == 2:
            self.inherited.update((*path, "init_args", key) for key in _names_in(old))
        self.inherited.difference_update((*path, "init_args", key) for key in _names_in(new))

    def _forget(self, path: SettingPath) -> None:
        """Remove origins and inherited settings at and below a replaced value."""
        written = _written(path)
        self._origins = {key: item for key, item in self._origins.items() if key[: len(written)] != written}
        self.inherited = {key for key in self.inherited if key[: len(path)] != path}


def _names_in(spec: Mapping[str, Value]) -> Iterable[str]:
    arguments = spec.get("init_args")
    return arguments if isinstance(arguments, dict) else ()  # anything else is refused when it is checked


def nest(dotted: str, value: Value) -> dict[str, Value]:
    """Nest a value under a dotted name: `{"a": {"b": value}}` for "a.b". Raises: ConfigError for too many dots."""
    if dotted.count(".") > DEEPEST:
        raise ConfigError(f"{plain(dotted)}: nested more than {DEEPEST} deep. Give the name of a setting.")
    for key in reversed(dotted.split(".")):
        value = {key: value}
    return dict(value)


def as_spec(values: Mapping[str, Value]) -> dict[str, Value]:
    """Move arguments written beside `class_path` into `init_args`, which `--model.dropout` leaves out."""
    spec = {key: value for key, value in values.items() if key in SPEC_KEYS}
    beside = {key: value for key, value in values.items() if key not in SPEC_KEYS}
    given = spec.get("init_args") or {}
    if beside and isinstance(given, Mapping):  # anything else is refused where the arguments are read
        spec["init_args"] = {**given, **beside}
    return spec


def _written(path: SettingPath) -> SettingPath:
    """Return a path without `init_args`, which may be left out where a setting is written."""
    return tuple(key for key in path if key != "init_args")


def _is_yaml(text: str) -> bool:
    """Whether a text of the command line is a list, a mapping or null in YAML instead of a class name."""
    return isinstance(text, Text) and (text == "null" or isinstance(read_text(text), list | dict))


def _as_list(value: Value) -> list[Value]:
    if isinstance(value, Text) and isinstance(items := read_text(value), list):
        return items
    return list(value) if isinstance(value, list) else [] if value is None else [value]


def take_flag(arguments: Sequence[str], name: str) -> tuple[bool, list[str]]:
    """Remove a flag from the arguments. Returns: whether it was among them, and the other arguments."""
    return name in arguments, [argument for argument in arguments if argument != name]


def take_option(arguments: Sequence[str], name: str) -> tuple[str | None, list[str]]:
    """Remove `name VALUE` or `name=VALUE` from the arguments. Returns: the last value, and the other arguments."""
    value, rest = None, []
    for option, text in options(arguments):
        if option == name:
            value = text
        else:
            rest.append(_joined(option, text))
    return value, rest
