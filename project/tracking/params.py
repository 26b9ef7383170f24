"""A configuration as MLflow params: one per setting, none cut."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

MAX_VALUE_CHARACTERS = 6000
"""MLflow's limit; it cuts what is longer without a word."""
PARAM_NAME = re.compile(r"[/\w.\- :]{1,200}")


def flatten(configuration: Mapping[str, Any]) -> dict[str, str]:
    """Return one param per setting, named by its dotted path.

    Lists of sections (callbacks) are numbered, other lists are JSON. A section with a key that MLflow takes for no name
    is JSON as a whole. A value over the limit is split: `key.part1`, `key.part2`, ..., to be put together in order.

    >>> flatten({"model": {"width": 64, "layers": [1, 2]}, "callbacks": [{"class_path": "EarlyStopping"}]})
    {'model.width': '64', 'model.layers': '[1, 2]', 'callbacks.0.class_path': 'EarlyStopping'}
    """
    params: dict[str, str] = {}
    for key, value in _leaves("", configuration):
        if len(value) <= MAX_VALUE_CHARACTERS:
            params[key] = value
            continue
        for number, start in enumerate(range(0, len(value), MAX_VALUE_CHARACTERS), start=1):
            params[f"{key}.part{number}"] = value[start : start + MAX_VALUE_CHARACTERS]
    return params


def _leaves(path: str, value: object) -> Iterator[tuple[str, str]]:
    prefix = f"{path}." if path else ""
    if isinstance(value, Mapping) and value and all(_is_name(f"{prefix}{key}") for key in value):
        for key, inner in value.items():
            yield from _leaves(f"{prefix}{key}", inner)
    elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        for number, item in enumerate(value):
            yield from _leaves(f"{prefix}{number}", item)
    elif isinstance(value, Mapping | list | tuple):
        yield path or "configuration", json.dumps(value, ensure_ascii=False, default=str)
    else:
        yield path, str(value)


def _is_name(path: str) -> bool:
    return PARAM_NAME.fullmatch(path) is not None and "//" not in path and not path.startswith(("/", "."))
