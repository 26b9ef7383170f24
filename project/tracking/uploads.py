"""Uploads of a run's files to an artifact store that is not on this machine."""

import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightrail.project.basics.durable import UNFINISHED, write_whole
from lightrail.project.tracking.folders import RunFolders

if TYPE_CHECKING:
    from mlflow import MlflowClient


class Uploads:
    """Sends each content of a file once, and notes it on disk; does nothing where the store is this machine's folder.

    A file may be replaced by renaming while it is sent: what is sent is one content or the other, and the new one is
    sent when it is asked for.
    """

    def __init__(self, folders: RunFolders) -> None:
        self._folders = folders
        self._requested: dict[str, None] = {}  # a set that keeps the order
        self._lock = threading.Lock()
        self._uploaded: dict[str, list[int]] | None = None
        self.is_busy = False
        """Whether a file is being sent at this moment."""

    def request(self, relative_path: str) -> None:
        """Have `send_requested` send a file. It is sent once, however often it was asked for until then."""
        if not self._folders.is_store:
            with self._lock:
                self._requested[relative_path] = None

    @property
    def has_requests(self) -> bool:
        return bool(self._requested)

    def send_requested(self, client: "MlflowClient", run_id: str) -> None:
        """Send what was asked for; what the store does not take is asked for again."""
        while self._requested:
            with self._lock:
                path = next(iter(self._requested))
                del self._requested[path]  # now, so that asking while it is sent counts
            try:
                self._send(client, run_id, path)
            except BaseException:
                self.request(path)
                raise

    def send_all(self, client: "MlflowClient", run_id: str) -> int:
        """Send what the store does not have of all the run's files, checkpoints last; return how many that was."""
        return sum(self._send(client, run_id, path) for path in self.paths())

    def forget(self) -> None:
        """Remove the note: the run is over, and nothing will be sent any more."""
        self._folders.uploaded.unlink(missing_ok=True)

    def paths(self) -> list[str]:
        """Return the files of the run, by their place in its folder; none where that is the store."""
        folder = self._folders.artifacts
        if self._folders.is_store or not folder.is_dir():
            return []
        files = [file for file in folder.rglob("*") if file.is_file() and file.suffix != UNFINISHED]
        paths = [file.relative_to(folder).as_posix() for file in files]
        return sorted(paths, key=lambda path: (path.startswith("checkpoints/"), path))

    def _send(self, client: "MlflowClient", run_id: str, path: str) -> bool:
        known = self._known()
        with _held_still(self._folders.artifacts / path, self._folders.uploading) as file:
            if file is None:
                return False  # removed since, as a checkpoint that is no longer the best
            state = file.stat()
            content = [state.st_mtime_ns, state.st_size]
            if known.get(path) == content:
                return False
            self.is_busy = True
            try:
                client.log_artifact(run_id, str(file), str(Path(path).parent) if "/" in path else None)
            finally:
                self.is_busy = False
        known[path] = content
        self._note(known)
        return True

    def _known(self) -> dict[str, list[int]]:
        if self._uploaded is None:
            try:
                self._uploaded = json.loads(self._folders.uploaded.read_text())
            except (FileNotFoundError, ValueError):
                self._uploaded = {}
        return self._uploaded

    def _note(self, known: dict[str, list[int]]) -> None:
        with suppress(OSError):  # a full disk; without the note a file is sent once more
            write_whole(self._folders.uploaded, json.dumps(known), is_synced=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._folders,)


@contextmanager
def _held_still(file: Path, folder: Path) -> Iterator[Path | None]:
    """Give a second name for the content that `file` has now, which a renaming does not change; None without a file."""
    shutil.rmtree(folder, ignore_errors=True)  # a process may have died while it sent
    link = folder / file.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        os.link(file, link)
    except FileNotFoundError:
        yield None
    except OSError:  # a full disk, or a file system without links: MLflow opens small files once, which is as good
        yield file if file.is_file() else None
    else:
        yield link
    finally:
        shutil.rmtree(folder, ignore_errors=True)
