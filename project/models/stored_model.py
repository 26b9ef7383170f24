"""Finding the model that a command line names: a run, or a checkpoint file."""

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
    """A checkpoint, and what is known of the run that wrote it."""

    checkpoint: dict[str, Any]
    name: str
    """Of the file, for messages."""
    run_id: str = ""
    """Empty: no run wrote it."""
    run_name: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Of the test, `test/NAME` to value; none where the store of the run is not at hand."""
    tags: Mapping[str, str] = field(default_factory=dict)


def checkpoint_of(named: str, tracking: TrackingConfig) -> Path:
    """Return the checkpoint of a run's best weights, or a file.

    Args:
        named: a run's id or the beginning of it, `runs:/RUN_ID`, `runs:/RUN_ID/checkpoints/last.ckpt`, or a path.

    Raises: ConfigError when there is no such run or file.
    """
    is_run = re.fullmatch(r"[0-9a-f]{4,32}", named) and not Path(named).exists()
    return run_checkpoint(f"runs:/{named}" if is_run else named, tracking)


def stored_model(named: str, tracking: TrackingConfig) -> StoredModel:
    """Read the checkpoint of `checkpoint_of`, with what the store says of its run.

    Raises: ConfigError when there is no such run or file, or it cannot be read.
    """
    path = checkpoint_of(named, tracking)
    checkpoint = read_checkpoint(path)
    run_id = checkpoint.get("run", {}).get("id", "")
    try:
        run = find_run(open_store(store_uri(tracking), create=False), run_id)
    except ConfigError:  # a file that was carried here from elsewhere
        return StoredModel(checkpoint, str(path), run_id)
    return StoredModel(checkpoint, str(path), run_id, run.info.run_name or "", test_metrics(run), dict(run.data.tags))
