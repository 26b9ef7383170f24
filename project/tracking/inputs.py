"""What a run is made from, as MLflow shows it: its settings as params, its data as one data set per split."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput

    from lightrail.datamodules.base import SplitSummary


MOST_ATTEMPTS = 10
MAX_DIGEST_CHARACTERS = 36
"""MLflow's limit. 36 hexadecimal digits of a content digest are 144 bits: two data sets do not share them."""


MAX_VALUE_CHARACTERS = 6000
"""MLflow's limit; it cuts what is longer without a word."""
PARAM_NAME = re.compile(r"[/\w.\- :]{1,200}")


def log_inputs(client: "MlflowClient", run_id: str, splits: "Sequence[SplitSummary]") -> None:
    """Record the splits of a run.

    MLflow looks whether it knows a data set and then adds it: where runs on the same data begin at one moment, as
    trials of a sweep do, all but one are refused. Nothing of a refused record is kept; the next attempt finds it known.
    """
    from mlflow.exceptions import MlflowException

    for attempt in range(1, MOST_ATTEMPTS + 1):
        try:
            client.log_inputs(run_id, datasets=dataset_inputs(splits))
        except MlflowException as error:
            is_race = any(word in str(error).lower() for word in ("unique", "duplicate"))
            if not is_race or attempt == MOST_ATTEMPTS:
                raise
        else:
            break


def dataset_inputs(splits: "Sequence[SplitSummary]") -> "list[DatasetInput]":
    """Return one MLflow data set per split, named by it, with the context tag train, validation or test."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    inputs = []
    for split in splits:
        dataset = Dataset(
            name=split.name,
            digest=split.digest[:MAX_DIGEST_CHARACTERS],
            source_type="local",
            source=json.dumps({"uri": split.source}, ensure_ascii=False),
            profile=json.dumps({"num_rows": split.num_rows}),
        )
        context = InputTag("mlflow.data.context", split.name)
        inputs.append(DatasetInput(dataset, [context]))
    return inputs


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
