"""Which splits hold something else than they did."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightrail.datamodules.base import SplitSummary
from lightrail.project.reproducing.original import Original

if TYPE_CHECKING:
    from mlflow.entities import Dataset

NUM_DIGITS = 10
"""Of a digest, shown."""


def data_changes(original: Original, summaries: Sequence[SplitSummary]) -> list[str]:
    """Compare the content of each split, whatever its file is called, with what the run recorded."""
    then = {item.dataset.name: item.dataset for item in original.run.inputs.dataset_inputs}
    return [
        f"{now.name} ({now.source}): {_then(then.get(now.name))} -> {_in_words(now.num_rows, now.digest)}"
        for now in summaries
        if now.name not in then or not now.digest.startswith(then[now.name].digest)
    ]


def _then(dataset: "Dataset | None") -> str:
    if dataset is None:
        return "not recorded"
    return _in_words(json.loads(dataset.profile)["num_rows"], dataset.digest)


def _in_words(num_rows: int, digest: str) -> str:
    return f"{num_rows} rows, digest {digest[:NUM_DIGITS]}"
