"""Reading YAML files with the line number of each setting, and writing them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import yaml

from lightrail.project.basics.errors import ConfigError, plain, shown
from lightrail.project.basics.reading import quoted_path, reading, regular_file

Value: TypeAlias = Any
"""A YAML value: None, bool, int, float, str, and lists and dicts with text keys of these."""
SettingPath: TypeAlias = tuple[str, ...]
"""("trainer", "callbacks", "0", "init_args", "monitor"): keys from the top, items of lists by number."""


class Origin(NamedTuple):
    """The file and line in which a setting was given."""

    file: Path
    line: int
    written: str | None
    """A single value as it is written, "1.10" for the number 1.1 and "" for nothing; None for a list or a mapping."""


MOST_BYTES, MOST_VALUES, DEEPEST = 10_000_000, 100_000, 50
"""Limits of a configuration: bytes of a file, values after aliases are written out, and nested sections."""
_TAGS = ("str", "int", "float", "bool", "null", "map", "seq", "value")
_FIX = "Write settings as `name: value`, as `lightrail fit --config NAME --print_config` prints them."


class _Loader(yaml.SafeLoader):
    """Reads plain values only. 1e-3 is a number; a date is text, since no setting is a date."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - how PyYAML declares it
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


class _Dumper(yaml.SafeDumper):
    """Quotes texts that `_Loader` would read as another type, and writes repeated values out in full."""

    def ignore_aliases(self, data: Value) -> bool:
        return True


for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
    )


def write_text(values: Mapping[str, Value]) -> str:
    """Format values as YAML that `read_file` reads without change."""
    return yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def read_text(text: str) -> Value:
    """Parse a text as YAML; return the text itself when it is not valid YAML.

    Raises: ConfigError when it is YAML that no setting can hold, such as one nested more than 50 deep.
    """
    try:
        return _Reading("the command line").read(text)
    except yaml.YAMLError:
        return text


def read_file(file: Path) -> tuple[dict[str, Value], dict[SettingPath, Origin]]:
    """Return the mapping in a YAML file, and the origin of each of its keys.

    Raises:
        ConfigError: the file cannot be read, is not YAML, contains no mapping, or gives a key twice.
    """
    regular_file(file, "the configuration", most_bytes=MOST_BYTES)
    name = quoted_path(file)
    with reading(f"{name} is not a configuration", _FIX):
        content = _Reading(name, file)
        try:
            values = content.read(file.read_text("utf-8"))
        except (UnicodeDecodeError, yaml.reader.ReaderError) as error:
            raise ConfigError(f"{name} is not a configuration: it is not UTF-8 text. {_FIX}") from error
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = mark.line + 1 if mark else 1
            raise ConfigError(f"{name}:{line}: not valid YAML: {plain(str(error.problem))}. {_FIX}") from error
    if values is None:
        return {}, {}
    if not isinstance(values, dict):
        found = "a list" if isinstance(values, list) else "a single value"
        raise ConfigError(f"{name}: expected settings as `name: value`, found {found}.")
    return values, content.origins


@dataclass
class _Reading:
    """Turns the nodes of one YAML text into plain values."""

    name: str
    """Of the text, for messages."""
    file: Path | None = None
    origins: dict[SettingPath, Origin] = field(default_factory=dict)
    _num_values: int = 0
    _sizes: dict[int, int] = field(default_factory=dict)

    def read(self, text: str) -> Value:
        """Return the value. Raises: yaml.YAMLError; ConfigError for valid YAML that is no configuration."""
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            return None if node is None else self._construct(loader, node, ())
        except RecursionError as error:
            raise ConfigError(f"{self.name}: nested too deep, or an anchor contains itself. {_FIX}") from error

    def _construct(self, loader: _Loader, node: yaml.Node, path: SettingPath) -> Value:
        self._check(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self._construct(loader, item, (*path, str(index))) for index, item in enumerate(node.value)]
        if not isinstance(node, yaml.MappingNode):
            with reading(f"{self.name}:{node.start_mark.line + 1}: {shown_path(path)}", "Give a plain value."):
                return loader.construct_object(node, deep=True)
        self._refuse_unusable_keys(node, path)
        self._num_values += self._num_merged(node)
        self._check(node, path)
        loader.flatten_mapping(node)  # puts the keys of `<<: *anchor` first, so that keys written here override them
        values: dict[str, Value] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)  # as written: `yes` and `1` are names here
            if self.file is not None:
                written = value_node.value if isinstance(value_node, yaml.ScalarNode) else None
                self.origins[*path, key] = Origin(self.file, key_node.start_mark.line + 1, written)
            values[key] = self._construct(loader, value_node, (*path, key))
        return values

    def _check(self, node: yaml.Node, path: SettingPath) -> None:
        """Refuse what would take forever, and values of other types than YAML's plain ones. Raises: ConfigError."""
        self._num_values += 1
        place = f"{self.name}:{node.start_mark.line + 1}: {shown_path(path)}"
        if self._num_values > MOST_VALUES:  # a few lines of aliases of aliases stand for billions
            raise ConfigError(f"{place}: more than {MOST_VALUES:,} values, aliases written out. {_FIX}")
        if len(path) > DEEPEST:
            raise ConfigError(f"{place}: nested more than {DEEPEST} deep. {_FIX}")
        if node.tag.rpartition(":")[2] not in _TAGS or not node.tag.startswith("tag:yaml.org,2002:"):
            raise ConfigError(f"{place}: a value of the type {shown(node.tag)}. Give a plain value, without a tag.")

    def _num_merged(self, node: yaml.Node) -> int:
        """Count the values of a mapping after its `<<: *anchor` are replaced by what they stand for."""
        if id(node) not in self._sizes:
            items = node.value if isinstance(node, yaml.MappingNode) else []
            merged = [value for key, value in items if key.tag == "tag:yaml.org,2002:merge"]
            parts = [part for own in merged for part in (own.value if isinstance(own, yaml.SequenceNode) else [own])]
            self._sizes[id(node)] = len(items) + sum(map(self._num_merged, parts))
        return self._sizes[id(node)]

    def _refuse_unusable_keys(self, node: yaml.MappingNode, path: SettingPath) -> None:
        """Refuse a name that is a list or a mapping, and one given twice. Raises: ConfigError."""
        # YAML readers silently keep the last one.
        lines: dict[str, int] = {}
        for key_node, _ in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise ConfigError(f"{self.name}:{line}: a name is a list or a mapping. {_FIX}")
            key = str(key_node.value)
            if key in lines:
                dotted = shown_path((*path, key_node.value))
                raise ConfigError(
                    f"{self.name}:{line}: {dotted} is given twice, first in line {lines[key]}. Keep one of them."
                )
            lines[key] = line


def shown_path(path: SettingPath) -> str:
    """Return the dotted name of a setting for a message, printable and at most 200 characters long."""
    return plain(".".join(path), 200) or ("''" if path else "the whole")
