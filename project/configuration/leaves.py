"""Plain values, such as numbers and lists of texts: jsonargparse checks and converts them to the type a setting has."""

import json
from argparse import ArgumentError
from functools import cache
from typing import Any

from jsonargparse import ArgumentParser, set_parsing_settings

from lightrail.project.configuration.parameters import TypeHint, alternatives, fits, in_plain_words
from lightrail.project.configuration.yaml_file import Value
from lightrail.project.basics.errors import ConfigError

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
