"""Sends a run's journal and files to its store from background threads, so that training never waits for the store."""

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

import torch
from torch import Tensor

from lightrail.project.basics.durable import UNFINISHED, write_whole
from lightrail.project.basics.errors import first_line
from lightrail.project.tracking.journal import Ending, Journal
from lightrail.project.tracking.store import RunFolders

if TYPE_CHECKING:
    from mlflow import MlflowClient


log = logging.getLogger(__name__)

MAX_POINTS = 1000
"""MLflow's limit for one request."""
SEND_INTERVAL_SECONDS = 2.0
MAX_DELAY_SECONDS = 60.0
"""The longest pause between two attempts at a store that does not answer."""
RETRY_PAUSE_SECONDS = 0.5
"""The shortest."""
MAX_ERROR_CHARACTERS = 1000


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


@dataclass
class Sent:
    """What a store was told."""

    metrics: int = 0
    tags: int = 0
    artifacts: int = 0
    status: str | None = None


def deliver(client: "MlflowClient", run_id: str, journal: Journal, uploads: Uploads) -> Sent:
    """Send what `journal` holds and the store has not confirmed; before a status, the files of the run.

    May run again after any interruption: the store keeps one row of equal key, value, step and time.
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
            sent.status = batch.ending.status
        journal.mark_sent(batch.end)
    return sent


def _end(client: "MlflowClient", run_id: str, ending: Ending) -> None:
    if ending.error is not None:
        client.set_tag(run_id, "lightrail.error", ending.error[:MAX_ERROR_CHARACTERS])
    client.set_terminated(run_id, ending.status, end_time=ending.time)


def milliseconds_now() -> int:
    return time.time_ns() // 1_000_000


class MetricSender:
    """Takes metrics in microseconds and sends them every few seconds; belongs to one process."""

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

    def record(self, metrics: Mapping[str, float | Tensor], step: int) -> None:
        """Take one value per metric and step: a step at or before the metric's last one is dropped.

        That is what a resumed run does when it repeats the steps since its checkpoint.
        """
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
            timeout_seconds: longest wait.
            keep_trying: go on after an attempt that fails; otherwise the first ends the wait.
            is_patient: the time that a file takes to be sent does not count.
        """
        deadline = time.monotonic() + timeout_seconds
        with self._attempted:
            last_attempt = self._num_attempts + 1  # one may be under way that does not know the newest line
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
        """Send now what came in, and not at the next interval."""
        self._wake.set()

    def close(self) -> None:
        """Stop sending. What is not sent stays in the journal."""
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
        except Exception as error:  # whatever the store says, training goes on and the journal keeps what it was told
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
                "the store of run %s does not answer (%s); what is logged waits in %s and is sent when it does",
                self._run_id,
                first_line(error),
                self._journal.path,
            )

    def _note_success(self) -> None:
        if self._num_failures:
            log.info("the store of run %s answers again and has all of it", self._run_id)
        self._num_failures = 0

    def _read_from_device(self) -> None:
        while self._on_device:
            key, read, step, now = self._on_device[0]
            try:
                value = read()
            except RuntimeError as error:  # what brought the device down is raised where it was asked for as well
                log.warning("%s of step %d is lost with its device (%s)", key, step, first_line(error))
            else:
                self._journal.append_metrics({key: value}, step, now)
            self._on_device.popleft()


def _read_later(value: Tensor) -> Callable[[], float]:
    """Return what reads `value` as it is now, without waiting for the device before that is called."""
    copy = value.detach().clone()  # queued on the device; the caller may overwrite the original in its next step
    if copy.device.type != "cuda":
        return lambda: float(copy)
    written = torch.cuda.Event()  # type: ignore[no-untyped-call]
    written.record(torch.cuda.current_stream(copy.device))

    def read() -> float:
        written.synchronize()
        return float(copy)

    return read
