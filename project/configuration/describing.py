"""`--help_all`: every setting of the classes a configuration chose, with type, value and meaning."""

import json
import textwrap
from collections.abc import Iterator, Mapping

from lightrail.project.basics.annotations import alternatives, in_plain_words
from lightrail.project.configuration.classes import import_class
from lightrail.project.configuration.parameters import Parameter, is_fixed, parameters_of
from lightrail.project.configuration.yaml_file import Value


def describe(values: Mapping[str, Value], parameters: Mapping[str, Parameter], prefix: str = "--") -> Iterator[str]:
    """Yield the help lines of parameters and their values."""
    for name, parameter in parameters.items():
        if name in values:
            yield from _describe(values[name], parameter, f"{prefix}{name}")


def _describe(value: Value, parameter: Parameter, option: str) -> Iterator[str]:
    fixed = next(filter(is_fixed, alternatives(parameter.annotation)), None)
    if isinstance(value, dict) and "class_path" in value:
        yield from _line(value["class_path"], parameter, option)
        inner = parameters_of(import_class(value["class_path"]))
        yield from describe(value["init_args"], inner, f"{option}.")
    elif isinstance(value, dict) and fixed is not None:
        yield from describe(value, parameters_of(fixed), f"{option}.")
    else:
        yield from _line(value, parameter, option)


def _line(value: Value, parameter: Parameter, option: str) -> Iterator[str]:
    shown = json.dumps(value, ensure_ascii=False, default=str)
    yield f"{option} ({in_plain_words(parameter.annotation)}) = {shown}"
    yield from textwrap.wrap(
        " ".join(parameter.help.replace("``", "`").split()), 110, initial_indent="    ", subsequent_indent="    "
    )
