"""Type and range checks of values by their annotations, and descriptions of annotations in plain words.

A range is written beside the type, `Annotated[float, Gt(0)]`, with the constraints of the package annotated-types.
"""

import json
import operator
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from inspect import signature
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, GroupedMetadata, Gt, Interval, Le, Lt, MaxLen, MinLen, MultipleOf

from lightrail.project.basics.errors import ConfigError, plain, shown

TypeHint: TypeAlias = Any
"""An annotation: a class, a union, `list[int]`, Any, ..."""
Constraint: TypeAlias = Any
"""A range of annotated-types beside a type, such as Ge(1)."""
PositiveInt: TypeAlias = Annotated[int, Ge(1)]
NaturalInt: TypeAlias = Annotated[int, Ge(0)]
Positive: TypeAlias = Annotated[float, Gt(0)]
NotNegative: TypeAlias = Annotated[float, Ge(0)]
Share: TypeAlias = Annotated[float, Interval(ge=0, le=1)]
ShareBelowOne: TypeAlias = Annotated[float, Interval(ge=0, lt=1)]
ShareAboveZero: TypeAlias = Annotated[float, Interval(gt=0, le=1)]
ShareBetween: TypeAlias = Annotated[float, Interval(gt=0, lt=1)]

_PLAIN = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    type(None): "null",
}
_CONSTRAINTS: dict[type, tuple[str, Callable[[Any, Any], bool], str]] = {
    Gt: ("gt", operator.gt, "above {}"),
    Ge: ("ge", operator.ge, "of at least {}"),
    Lt: ("lt", operator.lt, "below {}"),
    Le: ("le", operator.le, "up to {}"),
    MultipleOf: ("multiple_of", lambda value, factor: value % factor == 0, "that is a multiple of {}"),
    MinLen: ("min_length", lambda value, least: len(value) >= least, "of length {} or more"),
    MaxLen: ("max_length", lambda value, most: len(value) <= most, "of length {} or less"),
}
"""Per constraint: the attribute with its bound, the test of a value, and its description. No others are checked."""


class Ranged:
    """Base of dataclasses that check the ranges of their fields on creation. Raises: ConfigError naming the field."""

    def __post_init__(self) -> None:
        check_arguments(self)


@dataclass(frozen=True, kw_only=True)
class DeferredClass:
    """A class of a library with its arguments, built later, with those that only a training knows.

    A configuration writes it as any other class, `class_path` and `init_args`. Subclasses name what they build.
    """

    given: ClassVar[Mapping[type, Mapping[str, str]]]
    """By class, for those derived from it too: arguments that only a training knows, with what decides on them."""
    refused: ClassVar[Mapping[type, str]]
    """Classes that cannot be used, with the reason and what to use instead."""
    path: str
    """Import path."""
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of the class, without its module."""
        return self.path.rpartition(".")[2]

    @classmethod
    def base(cls) -> type:
        """Return the class that it must be derived from."""
        raise NotImplementedError

    @classmethod
    def decided(cls, found: type) -> Mapping[str, str]:
        """Return those arguments of a class that a configuration cannot give, with what decides on them instead."""
        return {name: why for kind, own in cls.given.items() if issubclass(found, kind) for name, why in own.items()}

    @classmethod
    def check(cls, found: type, setting: str) -> None:
        """Refuse a class that cannot be used. Raises: ConfigError."""
        if found in cls.refused:
            raise ConfigError(f"{setting}: {found.__name__} cannot be used here: it {cls.refused[found]}.")

    def find(self) -> type:
        """Return the class; nothing is imported. Raises: ConfigError when it is not imported, or has another base."""
        module, _, name = self.path.rpartition(".")
        found = getattr(sys.modules.get(module), name, None)
        if not (isinstance(found, type) and issubclass(found, self.base())):
            raise ConfigError(
                f"there is no imported {self.base().__name__} {shown(self.path)}. Import its module first."
            )
        return found


def check_arguments(built: object) -> None:
    """Check the attributes of an object against the ranges of the class arguments of the same names.

    Raises: ConfigError naming class and argument, what was expected and what was found.
    """
    for item in signature(type(built)).parameters.values():
        if has_range(item.annotation):
            check_range(getattr(built, item.name), item.annotation, f"{type(built).__name__}.{item.name}")


def check_range(value: object, annotation: TypeHint, name: str) -> None:
    """Check a value against the range of an annotation. Raises: ConfigError, which calls the value `name`."""
    if not is_in_range(value, annotation):
        raise refusal(value, annotation, name)


def refusal(value: object, annotation: TypeHint, name: str) -> ConfigError:
    """Build the error for a value that an annotation does not allow."""
    try:
        found = plain(json.dumps(value[:99] if isinstance(value, str) else value, ensure_ascii=False, default=str), 63)
    except (ValueError, RecursionError):  # an integer of more than 4,300 digits; deep nesting
        found = shown(value)
    return ConfigError(f"{name}: expected {in_plain_words(annotation)}, found {found}.")


def is_in_range(value: object, annotation: TypeHint) -> bool:
    """Whether a value and its items are in the range of a matching type of the annotation; true when none matches."""
    own = [(member, constraints) for member, constraints in typed_members(annotation) if fits(value, member)]
    return not own or any(
        all(_holds(value, constraint) for constraint in constraints) and _has_items_in_range(value, member)
        for member, constraints in own
    )


def _holds(value: object, constraint: object) -> bool:
    attribute, test, _ = _CONSTRAINTS[type(constraint)]
    return value is None or test(value, getattr(constraint, attribute))


def _has_items_in_range(value: object, annotation: TypeHint) -> bool:
    if isinstance(value, dict):
        return all(is_in_range(item, item_type(annotation, dict)) for item in value.values())
    if isinstance(value, list | tuple):
        return all(is_in_range(item, item_type(annotation, list, index)) for index, item in enumerate(value))
    return True


def has_range(annotation: TypeHint) -> bool:
    """Whether a type, or the type of its items, restricts its values to a range."""
    members = typed_members(annotation)
    return any(constraints or any(map(has_range, get_args(member))) for member, constraints in members)


def without_ranges(annotation: TypeHint) -> TypeHint:
    """Return a type without its ranges: `list[int]` for `list[Annotated[int, Ge(1)]]`."""
    if not has_range(annotation):
        return annotation
    return get_type_hints(types.SimpleNamespace(__annotations__={"value": annotation}))["value"]


def origin_of(annotation: TypeHint) -> TypeHint:
    """Return a type without its parameters: `list` for `list[int]`."""
    origin: TypeHint = get_origin(annotation)
    return annotation if origin is None else origin


def alternatives(annotation: TypeHint) -> tuple[Any, ...]:
    """Return the members of a union, or the type itself, without their ranges."""
    return tuple(member for member, _ in typed_members(annotation))


def typed_members(
    annotation: TypeHint, constraints: tuple[Constraint, ...] = ()
) -> Iterator[tuple[TypeHint, tuple[Constraint, ...]]]:
    """Yield the members of a union, or the type itself, each with its constraints."""
    if isinstance(annotation, types.UnionType) or origin_of(annotation) is Union:
        for argument in get_args(annotation):
            yield from typed_members(argument, constraints)
    elif origin_of(annotation) is Annotated:
        own, *metadata = get_args(annotation)
        single = (one for item in metadata for one in (item if isinstance(item, GroupedMetadata) else [item]))
        yield from typed_members(own, (*constraints, *(one for one in single if type(one) in _CONSTRAINTS)))
    else:
        yield annotation, constraints


def bounds_of(constraint: Constraint) -> tuple[str, Any]:
    """Return the name of a constraint in the terms of annotated-types, such as `ge`, and its bound."""
    name = _CONSTRAINTS[type(constraint)][0]
    return name, getattr(constraint, name)


def item_type(annotation: TypeHint, container: type, index: int = 0) -> TypeHint:
    """Return the type of the items of a list, or of the values of a dict; Any when it is not stated."""
    for member in alternatives(annotation):
        origin, arguments = origin_of(member), get_args(member)
        if not isinstance(origin, type) or not arguments:
            continue
        if issubclass(dict, origin) and container is dict and len(arguments) == 2:
            return arguments[1]
        if origin is tuple and container is list:
            return arguments[0] if arguments[-1] is Ellipsis else arguments[min(index, len(arguments) - 1)]
        if issubclass(list, origin) and container is list:
            return arguments[0]
    return Any


def fits(value: object, annotation: TypeHint) -> bool:
    """Whether a plain value is of a type, its items aside. A list also stands for a tuple or a set."""
    origin = origin_of(annotation)
    if origin is Any:
        return True
    if origin is Literal:
        return value in get_args(annotation)
    if origin in (int, float) and isinstance(value, bool):
        return False
    if isinstance(value, list) and origin in (tuple, set, frozenset):
        return True
    return isinstance(origin, type) and isinstance(value, (int, float) if origin is float else origin)


def check_types(arguments: Mapping[str, object], built: Callable[..., object]) -> None:
    """Check plain arguments of a class, items included, against its annotations; a whole number may be written as 1.0.

    Raises: ConfigError naming class and argument.
    """
    for name, item in signature(built).parameters.items():
        if name in arguments and not fits_with_items(arguments[name], item.annotation):
            raise refusal(arguments[name], item.annotation, f"{getattr(built, '__name__', built)}.{name}")


def fits_with_items(value: object, annotation: TypeHint) -> bool:
    """Whether a plain value and its items at any depth are of a type; numbers are interchangeable.

    >>> fits_with_items(["a"], list[str]), fits_with_items([1], list[str]), fits_with_items({"a": 1}, dict[str, int])
    (True, False, True)
    """
    is_number = isinstance(value, int | float)
    if isinstance(value, dict | list):
        items: Iterable[tuple[int, object]] = enumerate(value if isinstance(value, list) else value.values())
        if not all(fits_with_items(item, item_type(annotation, type(value), number)) for number, item in items):
            return False
    members = alternatives(annotation)
    return any(fits(value, member) or (is_number and member in (int, float, bool)) for member in members)


def in_plain_words(annotation: TypeHint) -> str:
    """Describe a type: `a whole number of at least 1 or null` for `Annotated[int, Ge(1)] | None`."""
    members = list(typed_members(annotation))
    literals = [str(item) for member, _ in members if origin_of(member) is Literal for item in get_args(member)]
    one_of = [f"one of {', '.join(dict.fromkeys(literals))}"] if literals else []
    others = [f"{_plain(own)}{_range_words(found)}" for own, found in members if origin_of(own) is not Literal]
    return " or ".join(dict.fromkeys([*one_of, *others]))


def _range_words(constraints: Sequence[object]) -> str:
    words = [_CONSTRAINTS[type(one)][2].format(getattr(one, _CONSTRAINTS[type(one)][0])) for one in constraints]
    return f" {' and '.join(words)}" if words else ""


def _plain(annotation: TypeHint) -> str:
    origin, arguments = origin_of(annotation), get_args(annotation)
    if origin is Callable or annotation in _PLAIN:
        return _PLAIN.get(annotation, "a function, which a configuration cannot name")
    if isinstance(origin, type) and issubclass(origin, Mapping):
        is_stated = len(arguments) == 2 and arguments[1] is not Any
        return f"a mapping (each {in_plain_words(arguments[1])})" if is_stated else "a mapping"
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        return f"a list of {len(arguments)} values"
    if isinstance(origin, type) and issubclass(origin, Sequence | set | frozenset):
        return f"a list (each {in_plain_words(arguments[0])})" if arguments else "a list"
    if isinstance(annotation, type) and origin is annotation and _is_no_builtin(annotation):
        return f"{'an' if annotation.__name__[0] in 'AEIOU' else 'a'} {annotation.__name__}"
    return getattr(annotation, "__name__", str(annotation))


def _is_no_builtin(annotation: type) -> bool:
    return is_dataclass(annotation) or annotation.__module__.split(".")[0] not in sys.stdlib_module_names
