"""What a class can be given: its parameters, their types, and the one parser of each type."""

import dataclasses
import functools
import inspect
import json
import sys
import types
from argparse import ArgumentError
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin

from jsonargparse import ArgumentParser, set_parsing_settings
from lightning.pytorch import Trainer

from lightrail.lightning_modules.arguments import is_from_data
from lightrail.project.basics.errors import ConfigError
from lightrail.project.basics.private_names import signature_parameters
from lightrail.project.configuration.yaml_file import Value

TypeHint: TypeAlias = Any
"""An annotation: a class, a union, `list[int]`, Any, ..."""
REQUIRED = inspect.Parameter.empty


_PLAIN = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    type(None): "null",
}


@dataclass(frozen=True)
class Parameter:
    """One setting of a class."""

    name: str
    annotation: TypeHint
    default: Any = REQUIRED
    help: str = ""

    @property
    def is_from_data(self) -> bool:
        """Whether the datamodule gives it, and no configuration."""
        return is_from_data(self.annotation)

    @property
    def is_required(self) -> bool:
        return self.default is REQUIRED and not is_fixed(self.annotation)


@functools.cache
def parameters_of(target: type) -> Mapping[str, Parameter]:
    """The parameters of a class, those included that its `**kwargs` hand on to a base class."""
    defaults = _real_defaults(target)
    return {
        item.name: Parameter(item.name, _stated(item.annotation), defaults.get(item.name, item.default), item.doc or "")
        for item in signature_parameters(target)
    }


def _stated(annotation: TypeHint) -> TypeHint:
    return Any if annotation in (REQUIRED, object) else annotation


def _real_defaults(target: type) -> dict[str, Any]:
    """Defaults that are dataclasses or made by a factory: jsonargparse reads these from source text, and not all."""
    written = inspect.signature(target).parameters.items()
    defaults = {name: item.default for name, item in written if dataclasses.is_dataclass(item.default)}
    fields = dataclasses.fields(target) if dataclasses.is_dataclass(target) else ()
    made = {item.name: item.default_factory() for item in fields if item.default_factory is not dataclasses.MISSING}
    return defaults | made


def _origin(annotation: TypeHint) -> TypeHint:
    """`list` for `list[int]`, and a type without parameters for itself."""
    origin: TypeHint = get_origin(annotation)
    return annotation if origin is None else origin


def alternatives(annotation: TypeHint) -> tuple[Any, ...]:
    """The members of a union, or the type itself."""
    if isinstance(annotation, types.UnionType) or _origin(annotation) is Union:
        return tuple(member for argument in get_args(annotation) for member in alternatives(argument))
    if _origin(annotation) is Annotated:
        return alternatives(get_args(annotation)[0])
    return (annotation,)


def is_fixed(annotation: TypeHint) -> bool:
    """Whether a value of this type is written as its arguments, without naming a class: a concrete dataclass does."""
    if annotation is Trainer:
        return True
    return isinstance(annotation, type) and dataclasses.is_dataclass(annotation) and not inspect.isabstract(annotation)


def is_open(annotation: TypeHint) -> bool:
    """Whether a value of this type is written as a class with its arguments."""
    is_class = isinstance(annotation, type) and _origin(annotation) is annotation
    return is_class and not is_fixed(annotation) and annotation.__module__.split(".")[0] not in sys.stdlib_module_names


def is_callable(annotation: TypeHint) -> bool:
    return _origin(annotation) is Callable


def class_of_type(annotation: TypeHint) -> type | None:
    """`Module` for `type[Module]`: a value of this type is the name of a class, not an object."""
    if annotation is type:
        return object
    arguments = get_args(annotation) if _origin(annotation) is type else ()
    return next((item for item in arguments if isinstance(item, type)), None)


def item_type(annotation: TypeHint, container: type, index: int = 0) -> TypeHint:
    """The type of the items of a list, or of the values of a dict; Any when the type does not say."""
    for member in alternatives(annotation):
        origin, arguments = _origin(member), get_args(member)
        if not isinstance(origin, type) or not arguments:
            continue
        if issubclass(dict, origin) and container is dict and len(arguments) == 2:
            return arguments[1]
        if origin is tuple and container is list:
            return arguments[0] if arguments[-1] is Ellipsis else arguments[min(index, len(arguments) - 1)]
        if issubclass(list, origin) and container is list:
            return arguments[0]
    return Any


def has_structure(annotation: TypeHint) -> bool:
    """Whether a value of this type may hold classes, functions or values of any type: one must look into it."""
    for member in alternatives(annotation):
        if member is Any or is_open(member) or is_fixed(member) or is_callable(member) or class_of_type(member):
            return True
        origin, arguments = _origin(member), get_args(member)
        is_container = isinstance(origin, type) and issubclass(origin, Iterable) and not issubclass(origin, str | bytes)
        if is_container and (not arguments or any(map(has_structure, arguments))):
            return True
    return False


def fits(value: object, annotation: TypeHint) -> bool:
    """Whether a plain value is of a type, as far as one can see without looking at its items.

    A list is written for a tuple or a set too.
    """
    origin = _origin(annotation)
    if origin is Any:
        return True
    if origin is Literal:
        return value in get_args(annotation)
    if origin in (int, float) and isinstance(value, bool):
        return False
    if isinstance(value, list) and origin in (tuple, set, frozenset):
        return True
    return isinstance(origin, type) and isinstance(value, (int, float) if origin is float else origin)


def plain_default(parameter: Parameter) -> Value:
    """A default that can be written in YAML and read again with the same meaning, else REQUIRED."""
    value = parameter.default
    if not _is_plain(value) or not any(fits(value, member) for member in alternatives(parameter.annotation)):
        return REQUIRED
    if type(value) is int and float in (members := alternatives(parameter.annotation)) and int not in members:
        return float(value)
    return list(value) if isinstance(value, tuple) else value


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return "class_path" not in value and all(map(_is_plain, value.values()))
    return value is None or type(value) in (bool, int, float, str)


def in_plain_words(annotation: TypeHint) -> str:
    """`a whole number or null` for `int | None`."""
    members = alternatives(annotation)
    literals = [str(item) for member in members if _origin(member) is Literal for item in get_args(member)]
    one_of = [f"one of {', '.join(dict.fromkeys(literals))}"] if literals else []
    others = [_plain(member) for member in members if _origin(member) is not Literal]
    return " or ".join(dict.fromkeys([*one_of, *others]))


def _plain(annotation: TypeHint) -> str:
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    origin, arguments = _origin(annotation), get_args(annotation)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "a mapping"
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        return f"a list of {len(arguments)} values"
    if isinstance(origin, type) and issubclass(origin, Sequence | set | frozenset):
        return f"a list (each {in_plain_words(arguments[0])})" if arguments else "a list"
    if is_open(annotation) or is_fixed(annotation):
        return f"{'an' if annotation.__name__[0] in 'AEIOU' else 'a'} {annotation.__name__}"
    return getattr(annotation, "__name__", str(annotation))


# A second barrier behind `AllowedClasses`: jsonargparse imports nothing that a value names, whatever its type.
set_parsing_settings(
    import_path_denylist=["*"], instantiate_subclass_spec_in_any=False, docstring_parse_attribute_docstrings=True
)


def read(value: Value, annotation: TypeHint, setting: str = "") -> tuple[Any, Value]:
    """Read a plain value as a type.

    Returns: the typed value, and the same as a file holds it: (timedelta(minutes=1), "0:01:00") for "00:01:00",
        (3, 3) for "3" where a whole number is meant.

    Raises:
        ConfigError: it is not of this type; says so in plain words.
    """
    if annotation is Any:
        return value, value
    parser = _parser(annotation, repr(annotation))
    if parser is None:
        return value, value
    try:
        # jsonargparse changes lists in place, and takes null for any type
        parsed = parser.parse_object({"value": _copied(value, annotation)}, defaults=False)
    except (ArgumentError, TypeError) as error:
        found = json.dumps(value, ensure_ascii=False, default=str)
        found = found if len(found) <= 60 else f"{found[:60]}..."
        raise ConfigError(f"{setting}: expected {in_plain_words(annotation)}, found {found}.") from error
    # As JSON, in which a text is quoted: jsonargparse's YAML writes the text "1e-3" like the number.
    written = parser.dump(parsed, format="json", skip_unset=False, skip_validation=True)
    return parsed["value"], json.loads(written)["value"]


@cache
def _parser(annotation: TypeHint, _written: str) -> ArgumentParser | None:
    """What reads values of a type; None for a type that jsonargparse does not know.

    Args:
        _written: `int | str` equals `str | int`, though "3" is not the same in both.
    """
    parser = ArgumentParser(exit_on_error=False)
    try:
        parser.add_argument("--value", type=annotation)
    except ValueError:
        return None
    return parser


def _copied(value: Value, annotation: TypeHint) -> Value:
    if value is None and not any(fits(value, member) for member in alternatives(annotation)):
        raise TypeError("null")
    return json.loads(json.dumps(value)) if isinstance(value, list | dict) else value
