"""A note on this machine of each run that may have something to send, so that it is found without its store."""

import json
import logging
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from lightrail.project.basics.durable import write_whole
from lightrail.project.tracking.folders import RunFolders, state_folder
from lightrail.project.tracking.store import without_password

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WaitingRun:
    """A run that was started here, and has not told its store all yet."""

    run_id: str
    store: str
    """Address, without a password."""
    journal: str
    """Path of its file."""


def note_waiting(run_id: str, uri: str, folders: RunFolders) -> None:
    """Note a run that begins.

    Raises:
        OSError: the note cannot be written, and without it nobody would find the run's files again.
    """
    run = WaitingRun(run_id, without_password(uri), str(folders.journal))
    file = _file_of(run_id)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(asdict(run)))
    except OSError:
        if not folders.is_store:
            raise
        log.debug("%s is not written: the store names the folder that the run's files are in", file)


def forget_waiting(run_id: str) -> None:
    with suppress(OSError):
        _file_of(run_id).unlink()


def waiting_runs() -> list[WaitingRun]:
    """Return every run with a note on this machine, of any store."""
    found = []
    for file in sorted(_file_of("*").parent.glob("*.json")):
        with suppress(OSError, ValueError, TypeError):
            found.append(WaitingRun(**json.loads(file.read_text())))
    return found


def _file_of(run_id: str) -> Path:
    return state_folder() / "waiting" / f"{run_id}.json"
