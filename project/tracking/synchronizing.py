"""Finding every run on this machine that has something to tell a store, and telling it."""

import json
import logging
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lightrail.project.tracking.folders import local_path, run_folders, state_folder
from lightrail.project.tracking.journal import Journal
from lightrail.project.tracking.recovery import running_here, settle
from lightrail.project.tracking.sender import Sent, first_line
from lightrail.project.tracking.store import answering, without_password
from lightrail.project.tracking.waiting import waiting_runs

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Synchronized:
    """What became of one run."""

    run_id: str
    sent: Sent
    problem: str = ""
    """Why the store did not take it; what waits is still where it was."""

    def __str__(self) -> str:
        counts = {"metric": self.sent.metrics, "tag": self.sent.tags, "artifact": self.sent.artifacts}
        parts = [f"{number} {name}{'' if number == 1 else 's'}" for name, number in counts.items() if number]
        parts += [f"status {self.sent.status}"] if self.sent.status else []
        return f"run {self.run_id}: {self.problem or 'sent ' + ', '.join(parts)}"


def synchronize(client: "MlflowClient", uri: str) -> list[Synchronized]:
    """Send what waits on this machine for the store at `uri`, and end the runs whose process is gone.

    Returns: one item for each run that had something to send; a run whose process lives is left alone.

    Raises:
        ConfigError: the store does not answer any more.
    """
    with answering(uri):
        found = set(_candidates(client, uri))
    done = []
    for run_id in sorted(found):
        item = _send(client, uri, run_id)
        if item is not None and (item.problem or item.sent != Sent()):
            done.append(item)
    return done


def count_elsewhere(uri: str) -> dict[str, int]:
    """Return how many runs of this machine have notes that name other stores."""
    counts: dict[str, int] = {}
    for run in waiting_runs():
        if run.store != without_password(uri) and not Journal(Path(run.journal)).is_sent:
            counts[run.store] = counts.get(run.store, 0) + 1
    return counts


def _send(client: "MlflowClient", uri: str, run_id: str) -> Synchronized | None:
    from mlflow.exceptions import MlflowException

    with answering(uri):
        client.search_experiments(max_results=1)  # what is raised below is then about the run and not about the store
    try:
        run = client.get_run(run_id)
        sent = settle(client, run, run_folders(run_id, run.info.artifact_uri))
    except (MlflowException, OSError) as error:
        return Synchronized(run_id, Sent(), f"not sent, {first_line(error)}")
    return None if sent is None else Synchronized(run_id, sent)


def _candidates(client: "MlflowClient", uri: str) -> Iterator[str]:
    """Yield the ids of the runs of this store that may have something to send, from all that could tell of one."""
    for waiting in waiting_runs():
        if waiting.store == without_password(uri):
            yield waiting.run_id
    for run in running_here(client):
        yield run.info.run_id
    for experiment in client.search_experiments():
        folder = local_path(experiment.artifact_location)
        if folder is not None:
            yield from (path.name for path in _unsent_in(folder))
    for path in _unsent_in(state_folder()):
        if _store_of(path / "artifacts") == without_password(uri):
            yield path.name


def _unsent_in(folder: Path) -> Iterator[Path]:
    for journal in folder.glob("*/metrics.jsonl"):
        if not Journal(journal).is_sent:
            yield journal.parent


def _store_of(artifacts: Path) -> str | None:
    """Return the store that the run of a folder was begun in, None when the folder does not say."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads((artifacts / "checkpoints" / "run.json").read_text(encoding="utf-8"))["store"])
    return None
