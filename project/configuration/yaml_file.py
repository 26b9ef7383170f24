"""Reading YAML files with the line number of each setting, and writing them."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import yaml

from lightrail.project.basics.errors import ConfigError

Value: TypeAlias = Any
"""A YAML value: None, bool, int, float, str, and lists and dicts with text keys of these."""
SettingPath: TypeAlias = tuple[str, ...]
"""("trainer", "callbacks", "0", "init_args", "monitor"): keys from the top, items of lists by number."""


class Origin(NamedTuple):
    """The file and line in which a setting was given."""

    file: Path
    line: int


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
    """Parse a text as YAML; return the text itself when it is not valid YAML."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        return text


def read_file(file: Path) -> tuple[dict[str, Value], dict[SettingPath, Origin]]:
    """Return the mapping in a YAML file, and the origin of each of its keys.

    Raises:
        ConfigError: the file cannot be read, is not YAML, contains no mapping, or gives a key twice.
    """
    try:
        return _read(file)
    except OSError as error:
        raise ConfigError(f"Cannot read the configuration {file}: {error.strerror}.") from error
    except (UnicodeDecodeError, yaml.reader.ReaderError) as error:
        raise ConfigError(f"{file} is not a configuration: it is not UTF-8 text.") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ConfigError(f"{file}:{mark.line + 1 if mark else 1}: not valid YAML: {error.problem}.") from error
    except RecursionError as error:
        raise ConfigError(f"{file}: an anchor in this YAML contains itself.") from error


def _read(file: Path) -> tuple[dict[str, Value], dict[SettingPath, Origin]]:
    loader = _Loader(file.read_text("utf-8"))
    node = loader.get_single_node()
    if node is None:
        return {}, {}
    if not isinstance(node, yaml.MappingNode):
        found = "a list" if isinstance(node, yaml.SequenceNode) else "a single value"
        raise ConfigError(f"{file}: expected settings as `name: value`, found {found}.")
    origins: dict[SettingPath, Origin] = {}
    return _construct(loader, node, file, (), origins), origins


def _construct(
    loader: _Loader, node: yaml.Node, file: Path, path: SettingPath, origins: dict[SettingPath, Origin]
) -> Value:
    if isinstance(node, yaml.SequenceNode):
        return [_construct(loader, item, file, (*path, str(index)), origins) for index, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return loader.construct_object(node, deep=True)
    _refuse_repeated_keys(node, file, path)
    loader.flatten_mapping(node)  # puts the keys of `<<: *anchor` first, so that keys written here override them
    values: dict[str, Value] = {}
    for key_node, value_node in node.value:
        key = str(key_node.value)  # as written: `yes` and `1` are names here
        origins[*path, key] = Origin(file, key_node.start_mark.line + 1)
        values[key] = _construct(loader, value_node, file, (*path, key), origins)
    return values


def _refuse_repeated_keys(node: yaml.MappingNode, file: Path, path: SettingPath) -> None:
    """Refuse a mapping with two equal keys. Raises: ConfigError."""
    # YAML readers silently keep the last one.
    lines: dict[str, int] = {}
    for key_node, _ in node.value:
        line = key_node.start_mark.line + 1
        first = lines.setdefault(str(key_node.value), line)
        if first != line:
            dotted = ".".join((*path, key_node.value))
            raise ConfigError(f"{file}:{line}: {dotted} is given twice, first in line {first}. Keep one of them.")
