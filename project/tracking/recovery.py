"""Recovery of runs whose process died: sends unsent records, ends runs left RUNNING, and keeps notes to find both."""

import json
import logging
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lightrail.project.basics.durable import read_note, write_whole
from lightrail.project.basics.errors import ConfigError, Refusal, first_line, without_password
from lightrail.project.basics.private_names import tracking_store
from lightrail.project.logged_models.publishing import complete
from lightrail.project.tracking.database import local_path, sqlite_file
from lightrail.project.tracking.journal import Ending, Journal, Point
from lightrail.project.tracking.lookup import (
    BEST_CHECKPOINT,
    LAST_CHECKPOINT,
    already_finished,
    delete_file,
    list_files,
    metric_history,
)
from lightrail.project.tracking.processes import PROCESS_TAG, Owner, RunLock, owner_of, process_tag, this_machine
from lightrail.project.tracking.sender import MAX_POINTS, Sent, Uploads, deliver, milliseconds_now
from lightrail.project.tracking.store import RunFolders, answering, run_folders, state_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


log = logging.getLogger(__name__)


GONE = "the process died without reporting an error (kill -9, out of memory or power cut); lightrail resume resumes it"


@dataclass(frozen=True)
class WaitingRun:
    """A run of this machine with records that its store may lack."""

    run_id: str
    store: str
    """Address of the store, without a password."""
    journal: str
    """Path of the journal."""


def note_waiting(run_id: str, uri: str, folders: RunFolders) -> None:
    """Write a note, at the start of a run, by which its unsent records are found.

    Raises:
        OSError: the note cannot be written, and is the only reference to the run's files.
    """
    run = WaitingRun(run_id, without_password(uri), str(folders.journal))
    file = _file_of(run_id)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(asdict(run)))
    except OSError:
        if not folders.is_store:
            raise
        log.debug("%s is not written: the store has the folder of the run's files", file)


def forget_waiting(run_id: str) -> None:
    """Remove the note of a run."""
    with suppress(OSError):
        _file_of(run_id).unlink()


def waiting_runs() -> list[WaitingRun]:
    """Return the runs with notes on this machine, of all stores."""
    found = []
    for file in sorted(_file_of("*").parent.glob("*.json")):
        with suppress(OSError, ValueError, TypeError):
            found.append(WaitingRun(**json.loads(read_note(file))))
    return found


def _file_of(run_id: str) -> Path:
    return state_folder() / "waiting" / f"{run_id}.json"


def process_of(run: "Run") -> Owner | None:
    """Return the last owner of a run, None when it has no valid tag."""
    return owner_of(run.data.tags.get(PROCESS_TAG, ""))


def ran_here(run: "Run") -> bool:
    """Return whether the last owner of a run was a process of this machine."""
    owner = process_of(run)
    return owner is not None and owner.is_here


def send_pending(client: "MlflowClient", run_id: str) -> Sent:
    """Send the unsent records of a run on this machine's disk, its end included.

    May be repeated at any time: the store keeps each point once. Call it with the run's lock, or where nobody else
    sends.
    """
    run = client.get_run(run_id)
    folders = run_folders(run_id, run.info.artifact_uri)
    journal = Journal(folders.journal)
    if process_of(run) is None or ran_here(run):
        return deliver(client, run_id, journal, Uploads(folders))
    return _deliver_missing(client, run_id, journal)


def settle(client: "MlflowClient", run: "Run", folders: RunFolders) -> Sent | None:
    """Send a run's unsent records, and end it as FAILED when it is RUNNING but its process on this machine is dead.

    Returns: counts of what was sent; None when the run still has a process, which sends by itself.
    """
    lock = RunLock(folders.lock)
    if not lock.acquire():
        return None
    try:
        return _settle(client, run, folders)
    finally:
        lock.release()


def _settle(client: "MlflowClient", run: "Run", folders: RunFolders) -> Sent | None:
    run_id, owner = run.info.run_id, process_of(run)
    if owner is None or not owner.lives:
        folders.reserve.unlink(missing_ok=True)
    sent = send_pending(client, run_id)
    journal = Journal(folders.journal)
    status = client.get_run(run_id).info.status
    if status == "RUNNING" and owner is not None and owner.lives:
        return None if sent == Sent() else sent
    if status == "RUNNING" and owner is not None and owner.is_here:
        journal.append_ending(Ending("FAILED", GONE, milliseconds_now()))
        last = deliver(client, run_id, journal, Uploads(folders))
        sent.artifacts, sent.status = sent.artifacts + last.artifacts, last.status
    clear(client, run_id, folders, journal, sent.status or status)
    return sent


def clear(client: "MlflowClient", run_id: str, folders: RunFolders, journal: Journal, status: str) -> None:
    """Remove the note of a completely sent run, and also all that resuming needs when it is FINISHED."""
    if status == "FINISHED":
        drop_states(client, run_id, folders)  # before the note: killed until then, `lightrail sync` finds the run
        complete(client, run_id, folders.artifacts / BEST_CHECKPOINT, local_path)  # behind: it has two names then
    forget_waiting(run_id)
    folders.reserve.unlink(missing_ok=True)
    if status == "FINISHED":
        journal.remove()
        Uploads(folders).forget()
        folders.lock.unlink(missing_ok=True)


def drop_states(client: "MlflowClient", run_id: str, folders: RunFolders) -> None:
    """Remove from a FINISHED run what only resuming needed: `last.ckpt`, and in `best.ckpt` the optimizer's state.

    Without a `best.ckpt` the weights of `last.ckpt` stay. A run that `keep_resume_state` was set for keeps all.
    """
    from lightrail.lightning_modules.checkpoint import drop_resume_state  # here: a list of runs needs no torch

    try:
        run = client.get_run(run_id)
        if run.data.tags.get(KEEP_TAG) == "true":
            return
        best, last = (folders.artifacts / name for name in (BEST_CHECKPOINT, LAST_CHECKPOINT))
        kept = best if zipfile.is_zipfile(best) else last  # every whole checkpoint is one
        # A second name is that of a checkpoint that a callback of the user's keeps: it stays as it is.
        is_smaller = kept.is_file() and kept.stat().st_nlink == 1 and drop_resume_state(kept)
        if not folders.is_store:
            if is_smaller:
                client.log_artifact(run_id, str(kept), "checkpoints")
            if {BEST_CHECKPOINT, LAST_CHECKPOINT} <= {item.path for item in list_files(client, run, "checkpoints")}:
                delete_file(client, run, LAST_CHECKPOINT)
        if kept == best:
            last.unlink(missing_ok=True)
    except Exception as error:  # of a store or a disk, of many types: the run is finished, whatever it still holds
        log.warning("run %s keeps the state that resuming needed: %s", run_id, first_line(error))


def close_dead_runs(client: "MlflowClient") -> list[str]:
    """End the RUNNING runs whose process on this machine has died, and return their ids.

    Their unsent records are sent first. A run whose end was recorded but not sent gets that status; the others become
    FAILED. A run that the store refuses is logged, and left unchanged.
    """
    from mlflow.exceptions import MlflowException

    closed = []
    for run in running_here(client):
        run_id = run.info.run_id
        try:
            sent = settle(client, run, run_folders(run_id, run.info.artifact_uri))
        except (MlflowException, Refusal, OSError) as error:
            log.warning("run %s: its process has died, and it cannot be closed: %s", run_id, first_line(error))
            continue
        if sent is not None:
            log.info("run %s: its process has died; sent %d pending metrics and closed it", run_id, sent.metrics)
            closed.append(run_id)
    return closed


def running_here(client: "MlflowClient") -> "list[Run]":
    """Return the runs marked RUNNING by the store whose owner is a process of this machine."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    condition = f"attributes.status = 'RUNNING' AND tags.`{PROCESS_TAG}` LIKE '{this_machine()} %'"
    return [run for run in client.search_runs(experiments, condition) if ran_here(run)]


def _deliver_missing(client: "MlflowClient", run_id: str, journal: Journal) -> Sent:
    """Send only metrics whose step the store lacks, after another machine has resumed the run and repeated steps.

    Tags, files and the end are not sent: those of the other machine are newer.
    """
    from mlflow.entities import Metric

    is_known = _steps_in(client, run_id)
    sent = Sent()
    for batch in journal.batches(MAX_POINTS):
        points = [
            Metric(point.key, point.value, point.time, point.step)
            for point in batch.points
            if not is_known(point.key, point.step)
        ]
        if points:
            client.log_batch(run_id, metrics=points)
            sent.metrics += len(points)
        journal.mark_sent(batch.end)
    return sent


def _steps_in(client: "MlflowClient", run_id: str) -> Callable[[str, int], bool]:
    known: dict[str, set[int]] = {}

    def is_known(key: str, step: int) -> bool:
        if key not in known:
            known[key] = {metric.step for metric in metric_history(client, run_id, key)}
        return step in known[key]

    return is_known


@dataclass(frozen=True)
class Synchronized:
    """The result of sending one run's pending records."""

    run_id: str
    sent: Sent
    problem: str = ""
    """The reason why the store refused it; the records are then still pending."""

    def __str__(self) -> str:
        counts = {"metric": self.sent.metrics, "tag": self.sent.tags, "artifact": self.sent.artifacts}
        parts = [f"{number} {name}{'' if number == 1 else 's'}" for name, number in counts.items() if number]
        parts += [f"status {self.sent.status}"] if self.sent.status else []
        return f"run {self.run_id}: {self.problem or 'sent ' + ', '.join(parts)}"


def synchronize(client: "MlflowClient", uri: str) -> list[Synchronized]:
    """Send pending records on this machine to the store at `uri`, and end the runs whose process has died.

    Returns: one item for each run with pending records; runs with a living process are skipped.

    Raises:
        ConfigError: the store stops responding.
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
    """Return the number of this machine's runs with pending records for other stores, by store."""
    counts: dict[str, int] = {}
    for run in waiting_runs():
        if run.store != without_password(uri) and not Journal(Path(run.journal)).is_sent:
            counts[run.store] = counts.get(run.store, 0) + 1
    return counts


def _send(client: "MlflowClient", uri: str, run_id: str) -> Synchronized | None:
    from mlflow.exceptions import MlflowException

    with answering(uri):
        client.search_experiments(max_results=1)  # errors below then concern the run, not the store
    try:
        run = client.get_run(run_id)
        sent = settle(client, run, run_folders(run_id, run.info.artifact_uri))
    except (MlflowException, Refusal, OSError) as error:
        return Synchronized(run_id, Sent(), f"not sent, {first_line(error)}")
    return None if sent is None else Synchronized(run_id, sent)


def _candidates(client: "MlflowClient", uri: str) -> Iterator[str]:
    """Yield the ids of this store's runs that may have pending records: from notes, the store, and local folders."""
    for waiting in waiting_runs():
        if waiting.store == without_password(uri):
            yield waiting.run_id
    for run in running_here(client):
        yield run.info.run_id
    for experiment in client.search_experiments():
        folder = local_path(experiment.artifact_location)
        if folder is not None:
            # A server could name the folder of other stores' runs, whose records are none of its business.
            known = (None, without_password(uri))
            stores = ((path.name, _store_of(path / "artifacts")) for path in _unsent_in(folder))
            yield from (name for name, store in stores if sqlite_file(uri) is not None or store in known)
    for path in _unsent_in(state_folder()):
        if _store_of(path / "artifacts") == without_password(uri):
            yield path.name


def _unsent_in(folder: Path) -> Iterator[Path]:
    for journal in folder.glob("*/metrics.jsonl"):
        if not Journal(journal).is_sent:
            yield journal.parent


def _store_of(artifacts: Path) -> str | None:
    """Return the store in which the run of a folder was started, None when it is not recorded there."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads(read_note(artifacts / "checkpoints" / "run.json"))["store"])
    return None


RESUMED_TAG, KEEP_TAG = "lightrail.resumed", "lightrail.keep_resume_state"
NOT_ENDED = 0
"""MLflow's end time of a run that has not ended."""


def prepare_to_continue(
    client: "MlflowClient", uri: str, run_id: str, folders: RunFolders, *, force: bool, reopen: bool
) -> dict[str, int]:
    """Synchronize a run's journal and store in both directions, and set the run RUNNING.

    Args:
        force: also when it is marked RUNNING on another machine, which cannot be checked from here.
        reopen: also when it is finished.

    Returns: the last step of each metric.

    Raises:
        ConfigError: the run is finished or still running.
    """
    send_pending(client, run_id)
    run = client.get_run(run_id)
    journal = Journal(folders.journal)
    if run.info.status == "FINISHED" and not reopen:
        clear(client, run_id, folders, journal, run.info.status)
        raise ConfigError(already_finished(client, run))
    if run.info.status == "RUNNING":
        _check_process(run, force=force)
    steps = {metric.key: metric.step for metric in run.to_proto().data.metrics}
    known = journal.last_steps()
    if any(known.get(key, -1) < step for key, step in steps.items()):  # started or resumed on another machine
        journal.restore(_history(client, run))
    note_waiting(run_id, uri, folders)
    _set_running(client, run)
    return steps


def _check_process(run: "Run", *, force: bool) -> None:
    run_id, owner = run.info.run_id, process_of(run)
    if owner is not None and owner.lives:
        raise ConfigError(f"run {run_id} is still running ({owner}). Wait for its end, or end it.")
    if (owner is None or not owner.is_here) and not force:
        raise ConfigError(
            f"run {run_id} is marked RUNNING by its store ({owner or 'owner unknown'}), which cannot be checked from "
            f"this machine. If it is not running, add --force."
        )


def _history(client: "MlflowClient", run: "Run") -> list[Point]:
    return [
        Point(metric.key, metric.value, metric.step, metric.timestamp)
        for key in run.data.metrics
        for metric in metric_history(client, run.info.run_id, key)
    ]


def _set_running(client: "MlflowClient", run: "Run") -> None:
    from mlflow.entities import RunStatus, RunTag

    run_id, tags = run.info.run_id, run.data.tags
    store = tracking_store(client)  # MlflowClient can set an end time, but not clear it
    store.update_run_info(run_id, RunStatus.RUNNING, NOT_ENDED, None)
    resumed = {} if run.info.status == "FINISHED" else {RESUMED_TAG: str(int(tags.get(RESUMED_TAG, 0)) + 1)}
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in {**process_tag(), **resumed}.items()])
    if "lightrail.error" in tags:
        client.delete_tag(run_id, "lightrail.error")
