"""Scores inside the file of predictions: whoever has the file can compute, and compare, what the run was judged by."""

from collections.abc import Mapping

import pyarrow as pa

from lightrail.lightning_modules.metrics.kinds import scores_from_json, scores_to_json
from lightrail.lightning_modules.metrics.scores import StoredScore

SCORES, MAIN_METRIC = b"lightrail.scores", b"lightrail.main_metric"
"""Keys of the table's metadata."""


def with_scores(table: pa.Table, scores: Mapping[str, StoredScore], main_metric: str) -> pa.Table:
    """The table, with how each metric follows from its columns, and the name of the one the model was chosen by."""
    return table.replace_schema_metadata({SCORES: scores_to_json(scores), MAIN_METRIC: main_metric})


def stored_scores(table: pa.Table) -> tuple[dict[str, StoredScore], str] | None:
    """What `with_scores` was given; None for a table without scores."""
    metadata = table.schema.metadata or {}
    if SCORES not in metadata:
        return None
    return scores_from_json(metadata[SCORES].decode()), metadata[MAIN_METRIC].decode()
