"""Inputs to predict, out of the bodies of requests: ours, and those of MLflow's clients."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from starlette.requests import Request

from lightrail.datamodules.reading.rows import num_characters
from lightrail.project.basics.errors import ConfigError, first_line, shown
from lightrail.project.serving.limits import Limits, Refused

_ONE = ("text", "row", "image")
_SEVERAL = ("texts", "rows", "images", "inputs")
MOST_TYPED = 100
"""Characters of a text that candidates are offered for."""
_OF_MLFLOW = ("dataframe_split", "dataframe_records", "instances", "inputs")


async def body_of(request: Request, limits: Limits) -> bytes:
    """Return the body of a request. Raises: Refused when it is too large."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limits.max_body_bytes:
            raise too_large(limits)
        parts.append(part)
    return b"".join(parts)


def too_large(limits: Limits) -> Refused:
    """Return the refusal of a body that is too large."""
    return Refused(413, f"the body has more than {limits.max_body_mb:g} MB. Send less at once.")


def parsed(body: bytes) -> Any:
    """Return the value of a body of JSON. Raises: ConfigError when it is none."""
    try:
        return json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:  # no UTF-8; no JSON; a number of 5,000 digits; deep nesting
        raise ConfigError(f"the body is no JSON: {first_line(error).rstrip('.')}.") from error


def object_of(body: bytes) -> dict[str, Any]:
    """Return the JSON object of a body. Raises: ConfigError when it is none."""
    value = parsed(body)
    if not isinstance(value, dict):
        raise ConfigError(f"the body is {shown(value, 40)}. Send an object of JSON.")
    return value


def given_inputs(body: bytes) -> list[Any]:
    """Return the inputs of a request for `/predict`. Raises: ConfigError."""
    value = parsed(body)
    if isinstance(value, list):
        return value
    keys = [key for key in (*_ONE, *_SEVERAL) if isinstance(value, dict) and key in value]
    if len(keys) != 1:
        found = shown(list(value), 60) if isinstance(value, dict) else shown(value, 40)
        raise ConfigError(
            f'the body has {found}. Send one of text, texts, row, rows, image, images, such as {{"texts": ["..."]}}.'
        )
    (key,) = keys
    return [value[key]] if key in _ONE else _listed(value[key], key)


def typed_text(body: bytes) -> str:
    """Return what somebody has typed, of a request for `/candidates`. Raises: ConfigError, Refused."""
    value = object_of(body)
    text = value.get("text")
    if list(value) != ["text"] or not isinstance(text, str) or not text:
        raise ConfigError(f'the body has {shown(value, 60)}. Send what was typed, such as {{"text": "nihao"}}.')
    if len(text) > MOST_TYPED:
        raise Refused(413, f"the text has {len(text):,} characters, more than {MOST_TYPED}. Use /predict.")
    return text


def mlflow_inputs(body: bytes, content_type: str) -> list[Any]:
    """Return the inputs of a request in a format of MLflow's scoring server. Raises: ConfigError, Refused."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "text/csv":
        return _records_of_csv(body)
    if kind != "application/json":
        raise Refused(415, f"the content type is {shown(content_type, 60)}. Send application/json or text/csv.")
    value = object_of(body)
    keys = [key for key in _OF_MLFLOW if key in value]
    if len(keys) != 1 or value.get("params"):
        raise ConfigError(f"the body has {shown(list(value), 60)}. Send one of {', '.join(_OF_MLFLOW)}, and no params.")
    (key,) = keys
    if key == "dataframe_split":
        return _records_of_split(value[key])
    if key != "dataframe_records" and isinstance(value[key], dict):
        return _records_of_columns(value[key])
    return _listed(value[key], key)


def check_sizes(inputs: Sequence[Any], limits: Limits, *, are_texts: bool) -> None:
    """Refuse more or longer inputs than a request may have. Raises: Refused, ConfigError."""
    if not inputs:
        raise ConfigError("there is no input. Give at least one.")
    if len(inputs) > limits.max_texts:
        raise Refused(413, f"{len(inputs):,} inputs, more than {limits.max_texts:,}. Send several requests.")
    for number, own in enumerate(inputs if are_texts else (), 1):
        if (size := num_characters(own)) > limits.max_characters:
            raise Refused(413, f"input {number} has {size:,} characters, more than {limits.max_characters:,}.")


def _records_of_csv(body: bytes) -> list[Any]:
    try:
        rows = list(csv.reader(io.StringIO(body.decode("utf-8-sig"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"the body is no CSV in UTF-8: {first_line(error).rstrip('.')}.") from error
    header, *rows = rows or [[]]
    return [_record(header, row, number) for number, row in enumerate(rows, 2) if row]


def _records_of_split(value: Any) -> list[Any]:
    columns, rows = (value.get("columns"), value.get("data")) if isinstance(value, dict) else (None, None)
    if not isinstance(columns, list) or not isinstance(rows, list):
        raise ConfigError("dataframe_split: expected an object with the lists columns and data.")
    return [_record(columns, row, number) for number, row in enumerate(rows, 1)]


def _records_of_columns(columns: Mapping[str, Any]) -> list[Any]:
    lists = [own if isinstance(own, list) else [own] for own in columns.values()]
    if len({len(own) for own in lists}) != 1:
        raise ConfigError("the columns have different numbers of values. Give each the same number.")
    return [dict(zip(columns, row, strict=True)) for row in zip(*lists, strict=True)]


def _record(columns: Sequence[Any], row: Any, number: int) -> dict[Any, Any]:
    if not isinstance(row, list) or len(row) != len(columns):
        raise ConfigError(f"row {number}: expected {len(columns)} values, found {shown(row, 40)}.")
    return dict(zip(map(str, columns), row, strict=True))


def _listed(value: Any, key: str) -> list[Any]:
    if not isinstance(value, list):
        raise ConfigError(f"{key}: expected a list, found {shown(value, 40)}.")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"it has {name}, which is no number of JSON")
