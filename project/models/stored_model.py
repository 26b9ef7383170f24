"""Lookup of the model that the command line names by a run or a checkpoint file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lightrail.lightning_modules.checkpoint import read_checkpoint
from lightrail.project.basics.errors import ConfigError
from lightrail.project.tracking.lookup import read_run, test_metrics
from lightrail.project.tracking.naming import find_checkpoint
from lightrail.project.tracking.settings import TrackingConfig
from lightrail.project.tracking.store import open_store, store_uri


@dataclass(frozen=True)
class StoredModel:
    """A checkpoint with metadata of the run that wrote it."""

    checkpoint: dict[str, Any]
    name: str
    """Name of the file, for messages."""
    run_id: str = ""
    """Empty when no run wrote the checkpoint."""
    run_name: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Test metrics, `test/NAME` to value; none where the store of the run is not available."""
    tags: Mapping[str, str] = field(default_factory=dict)


def stored_model(named: str, tracking: TrackingConfig) -> StoredModel:
    """Read a checkpoint, named as for `find_checkpoint`, with metadata of its run from the store.

    Raises: ConfigError when there is no such run or file, or it cannot be read.
    """
    path = find_checkpoint(named, tracking)
    checkpoint = read_checkpoint(path)
    run_id = checkpoint.get("run", {}).get("id", "")
    try:
        run = read_run(open_store(store_uri(tracking), create=False), run_id) if run_id else None
    except ConfigError:
        run = None
    if run is None:  # a file copied from another machine
        return StoredModel(checkpoint, str(path), run_id)
    return StoredModel(checkpoint, str(path), run_id, run.info.run_name or "", test_metrics(run), dict(run.data.tags))
