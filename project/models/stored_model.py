"""Lookup of the model that the command line names by a run or a checkpoint file."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightrail.lightning_modules.checkpoint import read_checkpoint
from lightrail.project.basics.errors import ConfigError
from lightrail.project.tracking.lookup import find_run, run_checkpoint, test_metrics
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


def checkpoint_of(named: str, tracking: TrackingConfig) -> Path:
    """Return the checkpoint file of a run's best weights, or the file at a path.

    Args:
        named: a run's id or a prefix of it, `runs:/RUN_ID`, `runs:/RUN_ID/checkpoints/last.ckpt`, or a path.

    Raises: ConfigError when there is no such run or file.
    """
    is_run = re.fullmatch(r"[0-9a-f]{4,32}", named) and not Path(named).exists()
    return run_checkpoint(f"runs:/{named}" if is_run else named, tracking)


def stored_model(named: str, tracking: TrackingConfig) -> StoredModel:
    """Read a checkpoint, named as for `checkpoint_of`, with metadata of its run from the store.

    Raises: ConfigError when there is no such run or file, or it cannot be read.
    """
    path = checkpoint_of(named, tracking)
    checkpoint = read_checkpoint(path)
    run_id = checkpoint.get("run", {}).get("id", "")
    try:
        run = find_run(open_store(store_uri(tracking), create=False), run_id)
    except ConfigError:  # a file copied from another machine
        return StoredModel(checkpoint, str(path), run_id)
    return StoredModel(checkpoint, str(path), run_id, run.info.run_name or "", test_metrics(run), dict(run.data.tags))
