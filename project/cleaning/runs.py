"""What the kept bytes of a store and its runs are for, and removal of those that no command could need."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING

from lightrail.project.basics.durable import UNFINISHED, remove_unfinished
from lightrail.project.basics.errors import Refusal
from lightrail.project.logged_models.describing import WEIGHTS as LINKED
from lightrail.project.logged_models.publishing import model_of
from lightrail.project.tracking.database import local_path, sqlite_file
from lightrail.project.tracking.lookup import LAST_CHECKPOINT
from lightrail.project.tracking.processes import RunLock
from lightrail.project.tracking.recovery import KEEP_TAG, forget_waiting, settle
from lightrail.project.tracking.store import RunFolders, answering, run_folders, state_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

RUNS_PER_PAGE, MOST_RUNS = 1000, 1_000_000
WEIGHTS, RECORD = "weights", "configuration, predictions, figures"
STATE, NOT_NEEDED = "state for lightrail resume", "state that only resuming needed; the run is finished"
DELETED, HALF_WRITTEN = "files of a run that was deleted in MLflow", "half-written by a process that died"


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Bytes on the disk of this machine, and what they are for."""

    place: str
    purpose: str
    num_bytes: int
    remove: Callable[[], bool] | None = None
    """Removes them, and tells whether it did, as a process may have begun to use them; None: a command needs them."""


def kept_of_store(client: "MlflowClient", uri: str, runs: "Sequence[Run]") -> Iterator[Kept]:
    """Yield what the store and its runs keep on this machine. Raises: ConfigError when the store does not answer.

    Only of folders beside the store's database, or in lightrail's state folder, may anything be removed.

    Args:
        runs: all runs of the store, deleted ones too.
    """
    file = sqlite_file(uri)
    if file is not None:
        yield Kept(place=file.name, purpose="metrics, params and tags of all runs", num_bytes=file.stat().st_size)
    with answering(uri):  # a deleted run's weights may be those of a registered model
        registered = {own.run_id for own in client.search_model_versions()} if any(map(is_deleted, runs)) else set()
    seen = set()
    for run in runs:
        try:
            folders = run_folders(run.info.run_id, run.info.artifact_uri)
        except Refusal:  # a folder that is none of a run: nothing there is looked at
            continue
        folder = folders.journal.parent
        seen.add(folder)
        root = state_folder() if not folders.is_store else folder if file is None else file.parent
        if folder.is_dir():
            is_ours = root != folder and is_real(folders.artifacts / "checkpoints", root)
            is_free = is_ours and run.info.status != "RUNNING" and run.info.run_id not in registered
            yield from _kept_of_run(client, run, folders, root, is_free=is_free)
    others = [own for own in _folders_in(state_folder()) if own not in seen and own.name != "waiting"]
    if others:
        size = sum(map(num_bytes, others))
        yield Kept(place=str(state_folder()), purpose="local files of runs of other stores", num_bytes=size)


def every_run(client: "MlflowClient", uri: str) -> "list[Run]":
    """Return all runs of a store, deleted ones too. Raises: ConfigError when the store does not answer."""
    from mlflow.entities import ViewType

    runs: list[Run] = []
    with answering(uri):
        experiments = [own.experiment_id for own in client.search_experiments(view_type=ViewType.ALL)]
        token = None
        while experiments and len(runs) < MOST_RUNS:
            page = client.search_runs(experiments, "", ViewType.ALL, RUNS_PER_PAGE, page_token=token)
            runs += page
            token = page.token
            if not token:
                break
    return runs


def is_deleted(run: "Run") -> bool:
    """Whether a run was deleted in MLflow, which keeps its record and files until `mlflow gc`."""
    return bool(run.info.lifecycle_stage == "deleted")


def _kept_of_run(
    client: "MlflowClient", run: "Run", folders: RunFolders, root: Path, *, is_free: bool
) -> Iterator[Kept]:
    """Yield what a run's folder keeps, by purpose.

    Args:
        root: folder in which files may be removed.
        is_free: nothing uses the folder, and it may be changed.
    """
    name, folder = f"run {run.info.run_id[:8]} ({run.info.status})", folders.journal.parent
    if is_deleted(run):
        remove = partial(_remove_deleted, client, run, folders, root) if is_free else None
        yield Kept(place=name, purpose=DELETED, num_bytes=num_bytes(folder), remove=remove)
        return
    is_dropped = run.info.status == "FINISHED" and run.data.tags.get(KEEP_TAG) != "true"
    sizes: Counter[str] = Counter()
    for path in _files_in(folder):
        sizes[_purpose(path.relative_to(folder).as_posix(), is_dropped=is_dropped)] += path.stat().st_size
    for purpose, size in sizes.items():
        is_removed = is_free and purpose in (NOT_NEEDED, HALF_WRITTEN)
        remove = partial(_remove_states, client, run, folders) if is_removed else None
        yield Kept(place=name, purpose=purpose, num_bytes=size, remove=remove)


def _purpose(path: str, *, is_dropped: bool) -> str:
    """Name what a file of a run's folder is for, by its path there."""
    inner = path.removeprefix("artifacts/")
    if path.endswith(UNFINISHED) or path.startswith("uploading/"):
        return HALF_WRITTEN
    if inner in (LAST_CHECKPOINT, path):
        return NOT_NEEDED if is_dropped else STATE
    return WEIGHTS if inner.startswith("checkpoints/") and inner.endswith(".ckpt") else RECORD


def _remove_states(client: "MlflowClient", run: "Run", folders: RunFolders) -> bool:
    """End a run's folder as its own process would have, unless a process has it now."""
    if settle(client, run, folders) is None:
        return False
    remove_unfinished(folders.artifacts / "checkpoints")
    rmtree(folders.uploading, ignore_errors=True)
    return True


def _remove_deleted(client: "MlflowClient", run: "Run", folders: RunFolders, root: Path) -> bool:
    """Remove a run's files, and the second name of its weights in the folder of its MLflow model."""
    lock = RunLock(folders.lock)
    if not lock.acquire():
        return False
    try:
        with answering(client.tracking_uri):
            model = model_of(client, run) if folders.is_store else None
        rmtree(folders.journal.parent)
        folder = None if model is None else local_path(model.artifact_location)
        if folder is not None and is_real(folder, root):
            (folder / LINKED).unlink(missing_ok=True)
        forget_waiting(run.info.run_id)
    finally:
        lock.release()
    return True


def is_real(path: Path, root: Path) -> bool:
    """Whether a path is inside a folder, and no part of it below that folder is a symbolic link."""
    return path.is_relative_to(root) and path.resolve() == root.resolve() / path.relative_to(root)


def num_bytes(folder: Path) -> int:
    """Sum the sizes of the files in a folder; symbolic links are not followed."""
    return sum(path.lstat().st_size for path in _files_in(folder))


def _files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]


def _folders_in(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*") if path.is_dir() and not path.is_symlink()]
