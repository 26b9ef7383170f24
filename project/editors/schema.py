"""`lightrail schema`: a JSON schema of configurations, made from the signatures of their classes.

Editors complete and check configuration files with it.
"""

import functools
import inspect
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, get_args

from lightrail.project.basics.annotations import (
    Constraint,
    TypeHint,
    bounds_of,
    item_type,
    origin_of,
    typed_members,
)
from lightrail.project.basics.errors import ConfigError, shown
from lightrail.project.configuration.checking import OWNED
from lightrail.project.configuration.classes import descendants_of, import_path
from lightrail.project.configuration.configuration import SECTIONS
from lightrail.project.configuration.parameters import (
    REQUIRED,
    Parameter,
    class_of_type,
    is_callable,
    is_fixed,
    is_open,
    parameters_of,
    plain_default,
)

Schema = dict[str, Any]
_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}
_KEYWORDS = {
    "gt": "exclusiveMinimum",
    "ge": "minimum",
    "lt": "exclusiveMaximum",
    "le": "maximum",
    "multiple_of": "multipleOf",
}
_LENGTHS = {"min_length": ("minItems", "minLength"), "max_length": ("maxItems", "maxLength")}


def schema_of(sections: Mapping[str, Parameter], owned: Iterable[str]) -> Schema:
    """Return the JSON schema (draft 2020-12) of a configuration file.

    A file may hold any part of a configuration, since files are merged: no setting is required.

    Args:
        sections: the settings at the top of a file.
        owned: dotted settings that a file may not have.
    """
    classes = _Classes(set(owned))
    properties = classes.properties(sections, ())
    return {"$schema": _DIALECT, **_closed(properties), "$defs": classes.schemas}


def _closed(properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "additionalProperties": False}


class _Classes:
    """The schemas of classes that were met, each once."""

    def __init__(self, owned: set[str]) -> None:
        self.owned = owned
        self.schemas: dict[str, Schema] = {}

    def properties(self, parameters: Mapping[str, Parameter], path: tuple[str, ...]) -> Schema:
        """Return the schema of each setting of a class; `path` leads to it where it is one of the sections."""
        return {
            name: self._setting(parameter, (*path, name))
            for name, parameter in parameters.items()
            if not parameter.is_from_data and ".".join((*path, name)) not in self.owned
        }

    def _setting(self, parameter: Parameter, path: tuple[str, ...]) -> Schema:
        schema = self._of(parameter.annotation, path)
        default = plain_default(parameter)
        if parameter.help:
            schema = {"description": " ".join(parameter.help.split()), **schema}
        return schema if default is REQUIRED else {**schema, "default": default}

    def _of(self, annotation: TypeHint, path: tuple[str, ...]) -> Schema:
        """Return the schema of a type; {}, which allows everything, where a file may hold a form that it cannot say."""
        found = [self._member(member, constraints, path) for member, constraints in typed_members(annotation)]
        if {} in found:
            return {}
        return found[0] if len(found) == 1 else {"anyOf": found}

    def _member(self, member: TypeHint, constraints: tuple[Constraint, ...], path: tuple[str, ...]) -> Schema:
        if member in _TYPES:
            return {"type": _TYPES[member], **_bounds(constraints, is_text=member is str)}
        if origin_of(member) is Literal:
            return {"enum": list(get_args(member))}
        if is_fixed(member):
            return self._reference(member, path)
        return self._spec(member) if is_open(member) else self._container(member, constraints)

    def _container(self, member: TypeHint, constraints: tuple[Constraint, ...]) -> Schema:
        origin = origin_of(member)
        if is_callable(member) or class_of_type(member) or not isinstance(origin, type):
            return {}
        if issubclass(origin, Mapping):
            return {"type": "object", "additionalProperties": self._of(item_type(member, dict), ())}
        if not issubclass(origin, list | tuple | set | frozenset):
            return {}
        items = {} if origin is tuple else self._of(item_type(member, list), ())
        return {"type": "array", "items": items, **_bounds(constraints, is_text=False)}

    def _reference(self, target: type, path: tuple[str, ...] = ()) -> Schema:
        """Refer to the schema of the arguments of a class."""
        name = import_path(target)
        if name not in self.schemas:
            self.schemas[name] = {}  # a class may have settings of its own type
            self.schemas[name] = _closed(self.properties(parameters_of(target), path))
        return {"$ref": f"#/$defs/{name}"}

    def _spec(self, base: type) -> Schema:
        """Return the schema of a class to choose, with the arguments of each that is lightrail's."""
        own = list(_concrete(base))
        name = {"anyOf": [{"enum": [import_path(one) for one in own] + [one.__name__ for one in own]}, {}]}
        chosen = [
            {
                "if": {"properties": {"class_path": {"enum": [import_path(one), one.__name__]}}, "required": [_CLASS]},
                "then": {"properties": {"init_args": self._reference(one)}},
            }
            for one in own
        ]
        spec = {"type": "object", "properties": {_CLASS: {"type": "string", **name}, "init_args": {"type": "object"}}}
        return {"anyOf": [{"type": "string", **name}, {**spec, "allOf": chosen} if chosen else spec]}


_CLASS = "class_path"


@functools.cache
def _concrete(base: type) -> tuple[type, ...]:
    """Return lightrail's classes derived from a base, in the order of their names."""
    found = (one for one in descendants_of((base,)) if not inspect.isabstract(one))
    return tuple(sorted(found, key=import_path))


def _bounds(constraints: Iterable[Constraint], *, is_text: bool) -> Schema:
    return dict(_named_bounds(constraints, is_text=is_text))


def _named_bounds(constraints: Iterable[Constraint], *, is_text: bool) -> Iterator[tuple[str, Any]]:
    for name, bound in map(bounds_of, constraints):
        yield (_LENGTHS[name][is_text] if name in _LENGTHS else _KEYWORDS[name]), bound


def run(arguments: list[str]) -> int:
    """Print the JSON schema of a configuration file. Raises: ConfigError."""
    if arguments:
        raise ConfigError(f"`lightrail schema` takes no arguments; found {shown(' '.join(arguments))}.")
    sys.stdout.write(json.dumps(schema_of(SECTIONS, OWNED), indent=1, ensure_ascii=False) + "\n")
    return 0
