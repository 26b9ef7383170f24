"""The data of a run, as MLflow shows it: one data set per split."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput

    from lightrail.datamodules.base import SplitSummary

MOST_ATTEMPTS = 10
MAX_DIGEST_CHARACTERS = 36
"""MLflow's limit. 36 hexadecimal digits of a content digest are 144 bits: two data sets do not share them."""


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
