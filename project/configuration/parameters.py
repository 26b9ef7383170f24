"""The parameters of classes, their types, and the parsing of values by type."""

import dataclasses
import functools
import inspect
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Annotated, Any, Union, get_args

from annotated_types import Ge
from jsonargparse import ArgumentParser, set_parsing_settings
from lightning.pytorch import LightningModule, Trainer

from lightrail.lightning_modules.arguments import is_from_data
from lightrail.project.basics.annotations import (
    DeferredClass,
    NaturalInt,
    PositiveInt,
    TypeHint,
    alternatives,
    fits,
    origin_of,
    refusal,
    without_ranges,
)
from lightrail.project.basics.private_names import signature_parameters
from lightrail.project.configuration.yaml_file import Value, read_text

REQUIRED = inspect.Parameter.empty
_RANGES_OF_TRAINER: dict[str, TypeHint] = {
    "accumulate_grad_batches": PositiveInt,
    "check_val_every_n_epoch": PositiveInt | None,
    "gradient_clip_val": Annotated[int | float, Ge(0)] | None,
    "log_every_n_steps": NaturalInt | None,
    "min_epochs": NaturalInt | None,
    "min_steps": NaturalInt | None,
    "num_sanity_val_steps": Annotated[int, Ge(-1)] | None,
}
"""Ranges of Trainer arguments for which Lightning accepts any number, and then fails or trains wrongly."""


@dataclass(frozen=True)
class Parameter:
    """One setting of a class."""

    name: str
    annotation: TypeHint
    default: Any = REQUIRED
    help: str = ""

    @property
    def is_from_data(self) -> bool:
        """Whether the data module provides the value instead of the configuration."""
        return is_from_data(self.annotation)

    @property
    def is_required(self) -> bool:
        """Whether the configuration must give a value."""
        return self.default is REQUIRED and not is_fixed(self.annotation)


INIT_FROM = Parameter(
    "init_from",
    str | None,
    None,
    "Run, checkpoint, exported folder or .safetensors file whose weights a new run starts from, as far as they fit; "
    "rows of tokens and labels are matched by name. null: fresh or pretrained ones.",
)
"""A setting of every model, which is no argument of its class: it says how a run begins, not what the model is."""


@functools.cache
def parameters_of(target: type) -> Mapping[str, Parameter]:
    """Return the parameters of a class, including those passed to a base class by `**kwargs`, and `INIT_FROM`."""
    own = _parameters_of(target)
    is_model = issubclass(target, LightningModule) and INIT_FROM.name not in own
    return {**own, INIT_FROM.name: INIT_FROM} if is_model else own


def _parameters_of(target: type) -> Mapping[str, Parameter]:
    defaults, ranges = _real_defaults(target), _RANGES_OF_TRAINER if target is Trainer else {}
    return {
        item.name: Parameter(
            item.name,
            _stated(ranges.get(item.name, item.annotation)),
            defaults.get(item.name, item.default),
            item.doc or "",
        )
        for item in signature_parameters(target)
    }


def _stated(annotation: TypeHint) -> TypeHint:
    return Any if annotation in (REQUIRED, object) else annotation


def _real_defaults(target: type) -> dict[str, Any]:
    """Return the defaults that are dataclasses or come from a factory."""
    # jsonargparse reads these from source text, and misses some.
    written = inspect.signature(target).parameters.items()
    defaults = {name: item.default for name, item in written if dataclasses.is_dataclass(item.default)}
    fields = dataclasses.fields(target) if dataclasses.is_dataclass(target) else ()
    made = {item.name: item.default_factory() for item in fields if item.default_factory is not dataclasses.MISSING}
    return defaults | made


def is_fixed(annotation: TypeHint) -> bool:
    """Whether a value of this type is written as its arguments without a class path, as for concrete dataclasses."""
    if annotation is Trainer:
        return True
    is_settings = isinstance(annotation, type) and dataclasses.is_dataclass(annotation) and not is_deferred(annotation)
    return is_settings and not inspect.isabstract(annotation)


def is_deferred(annotation: TypeHint) -> bool:
    """Whether a value of this type is a class that is built later."""
    return isinstance(annotation, type) and issubclass(annotation, DeferredClass)


def bases_of(annotation: TypeHint) -> tuple[type, ...]:
    """Return the classes from one of which a class must be derived that stands as a value of this type."""
    members = filter(is_open, alternatives(annotation))
    return tuple(member.base() if is_deferred(member) else member for member in members)


def deferred_type(annotation: TypeHint, target: type) -> type[DeferredClass] | None:
    """Return the member of a type that builds objects of a class later; None where they are built at once."""
    members = filter(is_deferred, alternatives(annotation))
    return next((member for member in members if issubclass(target, member.base())), None)


def is_open(annotation: TypeHint) -> bool:
    """Whether a value of this type is written as a class with its arguments."""
    is_class = isinstance(annotation, type) and origin_of(annotation) is annotation
    return is_class and not is_fixed(annotation) and annotation.__module__.split(".")[0] not in sys.stdlib_module_names


def is_callable(annotation: TypeHint) -> bool:
    """Whether a value of this type is a function."""
    return origin_of(annotation) is Callable


def class_of_type(annotation: TypeHint) -> type | None:
    """Return the class in `type[Class]`, whose values are classes instead of objects; None for other types."""
    if annotation is type:
        return object
    arguments = get_args(annotation) if origin_of(annotation) is type else ()
    return next((item for item in arguments if isinstance(item, type)), None)


def has_structure(annotation: TypeHint) -> bool:
    """Whether a value of this type may contain classes, functions or values of any type, and must be checked inside."""
    for member in alternatives(annotation):
        if member is Any or is_open(member) or is_fixed(member) or is_callable(member) or class_of_type(member):
            return True
        origin, arguments = origin_of(member), get_args(member)
        is_container = isinstance(origin, type) and issubclass(origin, Iterable) and not issubclass(origin, str | bytes)
        if is_container and (not arguments or any(map(has_structure, arguments))):
            return True
    return False


def plain_default(parameter: Parameter) -> Value:
    """Return a default that YAML can hold without change of meaning, else REQUIRED."""
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


# A second barrier behind `AllowedClasses`: jsonargparse imports nothing that a value names, whatever its type.
set_parsing_settings(
    import_path_denylist=["*"], instantiate_subclass_spec_in_any=False, docstring_parse_attribute_docstrings=True
)


def read(value: Value, annotation: TypeHint, setting: str = "") -> tuple[Any, Value]:
    """Read a plain value as a type.

    Returns: the typed value, and its form in a file: (timedelta(minutes=1), "0:01:00") for "00:01:00", (3, 3) for "3"
        where a whole number is expected.

    Raises:
        ConfigError: the value is not of this type; with a description of the type.
    """
    # A function cannot be named, and jsonargparse (4.53) would give its own refusal of a text as that text. Where a
    # union has text or a duration beside mappings, it writes a mapping as text.
    members = tuple(member for member in alternatives(annotation) if not is_callable(member))
    if isinstance(value, dict | list):
        members = tuple(member for member in members if fits(value, member)) or members
    if Any in members:
        return value, value
    if isinstance(value, str):
        if str in members and set(members) <= {str, type(None)}:
            return value, value
        # jsonargparse reads every text of a union as YAML, to which `#42` and `~` are null; a deeply nested one, as of
        # a damaged checkpoint, would end the process in C, which `read_text` refuses before.
        if read_text(value) is None and str in members:
            return value, value
    if len(members) < len(alternatives(annotation)):
        annotation = Union[members or (type(None),)]  # noqa: UP007
    is_scalar = bool(members) and _SCALARS.issuperset({*members, type(value)})
    try:
        return _parsed_once(value, repr(value), members) if is_scalar else _parsed(value, annotation)
    except (Exception, RecursionError) as error:  # of jsonargparse, and of the types it calls
        raise refusal(value, annotation, setting) from error


_SCALARS = {bool, int, float, str, type(None)}
"""Types whose values nobody can change, so that all settings may share what was read."""


@lru_cache(maxsize=4096)  # a run reads each setting several times, and so does each trial of a sweep
def _parsed_once(value: Value, _text: str, members: tuple[type, ...]) -> tuple[Any, Value]:
    """Return what `_parsed` does; `_text` tells equal values apart: 1, 1.0 and True, 0.0 and -0.0."""
    return _parsed(value, Union[members])  # noqa: UP007


def _parsed(value: Value, annotation: TypeHint) -> tuple[Any, Value]:
    plain = without_ranges(annotation)  # with which jsonargparse would use pydantic, which has other rules
    parser = _parser(plain, repr(plain))
    if parser is None:
        return value, value
    # jsonargparse changes lists in place, and accepts null for any type
    parsed = parser.parse_object({"value": _copied(value, annotation)}, defaults=False)
    # As JSON, which quotes texts: jsonargparse's YAML writes the text "1e-3" like the number.
    written = parser.dump(parsed, format="json", skip_unset=False, skip_validation=True)
    return parsed["value"], json.loads(written)["value"]


@cache
def _parser(annotation: TypeHint, _written: str) -> ArgumentParser | None:
    """Return the parser for values of a type; None for a type that jsonargparse does not support.

    Args:
        _written: makes types distinct for the cache: `int | str` equals `str | int`, but they read "3" differently.
    """
    parser = ArgumentParser(exit_on_error=False)
    members = list(alternatives(annotation))
    if int in members and float in members:
        # typing (Python 3.11 to 3.13) caches Optional[Union[int, float]] in the order of its first use anywhere, and
        # jsonargparse (4.53) reads 40 as 40.0 where float comes first: Lightning refuses 40.0 batches.
        members.remove(int)
        members.insert(members.index(float), int)
        annotation = Union[tuple(members)]  # noqa: UP007
    try:
        parser.add_argument("--value", type=annotation)
    except ValueError:
        return None
    return parser


def _copied(value: Value, annotation: TypeHint) -> Value:
    if value is None and not any(fits(value, member) for member in alternatives(annotation)):
        raise TypeError("null")
    return json.loads(json.dumps(value)) if isinstance(value, list | dict) else value
