"""Background sending of a run's journal and files to its store, so that training never waits for the store."""

import atexit
import json
import logging
import math
import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightrail.project.basics.durable import UNFINISHED, read_note, write_whole
from lightrail.project.basics.errors import first_line
from lightrail.project.logged_models.publishing import publish
from lightrail.project.tracking.journal import Ending, Journal
from lightrail.project.tracking.store import RunFolders

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from torch import Tensor


log = logging.getLogger(__name__)

MAX_POINTS = 1000
"""MLflow's limit for one request."""
SEND_INTERVAL_SECONDS = 2.0
MAX_DELAY_SECONDS = 60.0
"""Maximum pause between two attempts to reach a store that does not respond."""
RETRY_PAUSE_SECONDS = 0.5
"""Minimum pause between two attempts."""
MAX_ERROR_CHARACTERS = 1000


class Uploads:
    """Uploads each version of a file once, as recorded on disk; does nothing where the store is a local folder.

    A file may be replaced by renaming during its upload: the old or the new version is sent, never a mixture, and the
    new one is sent on request.
    """

    def __init__(self, folders: RunFolders) -> None:
        self._folders = folders
        self._requested: dict[str, None] = {}  # a set that keeps the order
        self._lock = threading.Lock()
        self._uploaded: dict[str, list[int]] | None = None
        self.is_busy = False
        """Whether an upload is in progress."""

    def request(self, relative_path: str) -> None:
        """Request the upload of a file by `send_requested`; repeated requests until then count once."""
        if not self._folders.is_store:
            with self._lock:
                self._requested[relative_path] = None

    @property
    def has_requests(self) -> bool:
        """Whether uploads are requested."""
        return bool(self._requested)

    def send_requested(self, client: "MlflowClient", run_id: str) -> None:
        """Upload the requested files; a file that the store refuses stays requested, and the error is raised."""
        while self._requested:
            with self._lock:
                path = next(iter(self._requested))
                del self._requested[path]  # before the upload, so that a request during it counts
            try:
                self._send(client, run_id, path)
            except BaseException:
                self.request(path)
                raise

    def send_all(self, client: "MlflowClient", run_id: str) -> int:
        """Upload all files of the run that the store lacks, checkpoints last. Returns: their number."""
        return sum(self._send(client, run_id, path) for path in self.paths())

    def send_model(self, client: "MlflowClient", run_id: str) -> None:
        """Send the MLflow model of a finished run, if it waits."""
        publish(client, run_id, self._folders.model)

    def forget(self) -> None:
        """Remove the record of uploads, after the end of the run."""
        self._folders.uploaded.unlink(missing_ok=True)

    def paths(self) -> list[str]:
        """Return the files of the run, relative to its folder; [] where that is the store itself."""
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
                return False  # removed since, such as a checkpoint that is no longer the best
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
                found = json.loads(read_note(self._folders.uploaded))
            except (OSError, ValueError, RecursionError):
                found = None
            self._uploaded = found if isinstance(found, dict) else {}
        return self._uploaded

    def _note(self, known: dict[str, list[int]]) -> None:
        with suppress(OSError):  # a full disk; without the record a file is sent again
            write_whole(self._folders.uploaded, json.dumps(known), is_synced=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._folders,)


@contextmanager
def _held_still(file: Path, folder: Path) -> Iterator[Path | None]:
    """Provide a hard link to the current content of `file`, unaffected by its replacement; None without a file."""
    shutil.rmtree(folder, ignore_errors=True)  # a process may have died during an upload
    link = folder / file.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        os.link(file, link)
    except FileNotFoundError:
        yield None
    except OSError:  # a full disk, or no hard links: MLflow opens small files once, which is as safe
        yield file if file.is_file() else None
    else:
        yield link
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Sent:
    """Counts of the records and files sent to a store, and the status of the run if it was sent."""

    metrics: int = 0
    tags: int = 0
    artifacts: int = 0
    status: str | None = None


def deliver(client: "MlflowClient", run_id: str, journal: Journal, uploads: Uploads) -> Sent:
    """Send the records of `journal` that the store has not confirmed; before a status, the files of the run.

    May be repeated after any interruption: the store keeps one row for equal key, value, step and time.
    """
    from mlflow.entities import Metric, RunTag

    sent = Sent()
    for batch in journal.batches(MAX_POINTS):
        points = [Metric(point.key, point.value, point.time, point.step) for point in batch.points]
        tags = [RunTag(key, value) for key, value in batch.tags.items()]
        if points or tags:
            client.log_batch(run_id, metrics=points, tags=tags)
            sent.metrics += len(points)
            sent.tags += len(tags)
        if batch.ending is not None:
            sent.artifacts += uploads.send_all(client, run_id)
            _end(client, run_id, batch.ending)
            if batch.ending.status == "FINISHED":
                uploads.send_model(client, run_id)
            sent.status = batch.ending.status
        journal.mark_sent(batch.end)
    return sent


def _end(client: "MlflowClient", run_id: str, ending: Ending) -> None:
    if ending.error is not None:
        client.set_tag(run_id, "lightrail.error", ending.error[:MAX_ERROR_CHARACTERS])
    client.set_terminated(run_id, ending.status, end_time=ending.time)


def milliseconds_now() -> int:
    """Return the current time in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class MetricSender:
    """Records metrics in microseconds, and sends them every few seconds from a thread; belongs to one process."""

    def __init__(
        self,
        open_client: Callable[[], "MlflowClient"],
        run_id: str,
        journal: Journal,
        uploads: Uploads,
        last_steps: Mapping[str, int],
    ) -> None:
        self.process = os.getpid()
        self._open_client = open_client
        self._client: MlflowClient | None = None
        self._run_id = run_id
        self._journal = journal
        self._uploads = uploads
        self._last_steps = dict(last_steps)
        self._on_device: deque[tuple[str, Callable[[], float], int, int]] = deque()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._is_closed = False
        self._attempted = threading.Condition()
        self._num_attempts = 0
        self._num_failures = 0  # since the last success
        self._thread = threading.Thread(target=self._run, name=f"metrics of run {run_id}", daemon=True)
        self._thread.start()
        atexit.register(self.flush, timeout_seconds=10)

    def record(self, metrics: "Mapping[str, float | Tensor]", step: int) -> None:
        """Record one value per metric and step; a step at or before the metric's last one is dropped.

        These come from a resumed run that repeats the steps since its checkpoint.
        """
        from torch import Tensor  # not above: commands that only look at runs start in half the time

        now = milliseconds_now()
        ready: dict[str, float] = {}
        with self._lock:
            for key, value in metrics.items():
                if step <= self._last_steps.get(key, -1):
                    continue
                self._last_steps[key] = step
                if isinstance(value, Tensor) and value.device.type != "cpu":
                    self._on_device.append((key, _read_later(value), step, now))
                else:
                    ready[key] = float(value)
        if ready:
            self._journal.append_metrics(ready, step, now)

    def flush(self, timeout_seconds: float, *, keep_trying: bool = False, is_patient: bool = False) -> bool:
        """Wait until the journal is sent, and return whether it is.

        Args:
            timeout_seconds: maximum wait.
            keep_trying: retry after a failed attempt; otherwise the first failure ends the wait.
            is_patient: do not count the time of uploads.
        """
        deadline = time.monotonic() + timeout_seconds
        with self._attempted:
            last_attempt = self._num_attempts + 1  # one in progress may lack the newest line
            while not self._is_sent():
                if is_patient and self._uploads.is_busy and not self._num_failures:
                    deadline = time.monotonic() + timeout_seconds
                has_failed = self._num_failures > 0 and self._num_attempts > last_attempt
                remaining = deadline - time.monotonic()
                if remaining <= 0 or (has_failed and not keep_trying):
                    return False
                self._wake.set()
                self._attempted.wait(min(remaining, RETRY_PAUSE_SECONDS))
        return True

    def wake(self) -> None:
        """Send new records now, instead of at the next interval."""
        self._wake.set()

    def close(self) -> None:
        """Stop sending. Unsent records stay in the journal."""
        self._is_closed = True
        self._wake.set()
        atexit.unregister(self.flush)
        self._thread.join(timeout=RETRY_PAUSE_SECONDS * 4)

    def _is_sent(self) -> bool:
        return not self._on_device and self._journal.is_sent

    def _run(self) -> None:
        while not self._is_closed:
            self._wake.wait(self._delay())
            self._wake.clear()
            self._attempt()

    def _delay(self) -> float:
        return min(SEND_INTERVAL_SECONDS * math.pow(2, min(self._num_failures, 10)), MAX_DELAY_SECONDS)

    def _attempt(self) -> None:
        try:
            self._read_from_device()
            self._journal.sync()
            if not self._journal.is_sent or self._uploads.has_requests:
                self._client = self._client or self._open_client()
                deliver(self._client, self._run_id, self._journal, self._uploads)
                self._uploads.send_requested(self._client, self._run_id)
        except Exception as error:  # whatever the error, training continues and the journal keeps the records
            self._note_failure(error)
        else:
            self._note_success()
        with self._attempted:
            self._num_attempts += 1
            self._attempted.notify_all()
        if self._num_failures:
            time.sleep(RETRY_PAUSE_SECONDS)

    def _note_failure(self, error: Exception) -> None:
        self._num_failures += 1
        if self._num_failures == 1:
            log.warning(
                "the store of run %s does not respond (%s); metrics are kept in %s and sent when it does",
                self._run_id,
                first_line(error),
                self._journal.path,
            )

    def _note_success(self) -> None:
        if self._num_failures:
            log.info("the store of run %s responds again and is complete", self._run_id)
        self._num_failures = 0

    def _read_from_device(self) -> None:
        while self._on_device:
            key, read, step, now = self._on_device[0]
            try:
                value = read()
            except RuntimeError as error:  # the device's failure is also raised in training
                log.warning("%s of step %d is lost with its device (%s)", key, step, first_line(error))
            else:
                self._journal.append_metrics({key: value}, step, now)
            self._on_device.popleft()


def _read_later(value: "Tensor") -> Callable[[], float]:
    """Return a function that reads the current `value` from its device, and waits for the device only when called."""
    from torch import cuda

    copy = value.detach().clone()  # queued on the device; the caller may overwrite the original in its next step
    if copy.device.type != "cuda":
        return lambda: float(copy)
    written = cuda.Event()  # type: ignore[no-untyped-call]
    written.record(cuda.current_stream(copy.device))

    def read() -> float:
        written.synchronize()
        return float(copy)

    return read
