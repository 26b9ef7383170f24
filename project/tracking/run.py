"""The lifecycle of a tracked run: it starts completely or not at all, and its status is always correct."""

import json
import logging
import os
import random
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightrail.project.basics.durable import reserve
from lightrail.project.basics.errors import ConfigError, first_line, without_password
from lightrail.project.provenance.recording import code_tags, user_tags, write_environment
from lightrail.project.tracking.journal import Ending
from lightrail.project.tracking.logger import MlflowLogger, flatten, is_process_zero, log_inputs
from lightrail.project.tracking.lookup import page_of
from lightrail.project.tracking.naming import find_run
from lightrail.project.tracking.processes import (
    ENDING,
    RunLock,
    SignalNote,
    Terminated,
    exception_for,
    handling,
    lock_run,
    process_tag,
)
from lightrail.project.tracking.recovery import (
    KEEP_TAG,
    clear,
    close_dead_runs,
    forget_waiting,
    note_waiting,
    prepare_to_continue,
    process_of,
)
from lightrail.project.tracking.sender import milliseconds_now
from lightrail.project.tracking.settings import TrackingConfig
from lightrail.project.tracking.store import (
    RunFolders,
    answering,
    check_folder,
    experiment_id,
    open_store,
    run_folders,
    store_uri,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from lightrail.datamodules.base import SplitSummary


log = logging.getLogger(__name__)

MAX_PARAMS_PER_REQUEST = 100
CLOSE_SECONDS = 30.0
"""Maximum wait, at the end of a run, for a store that does not respond."""


class GivenUp(Exception):  # noqa: N818 - not an error
    """Training was pruned: it was stopped early because its metric is too bad.

    Args:
        step: optimizer step of the stop.
    """

    def __init__(self, step: int) -> None:
        super().__init__(f"pruned at step {step}")
        self.step = step


def verdict(error: BaseException, number: int = 0) -> tuple[str, str | None, BaseException]:
    """Return the MLflow status of a run ended by `error`, the text of its error tag, and the exception to raise.

    Args:
        number: signal received before, 0 for none: any other error is a consequence of it.
    """
    # Lightning turns Ctrl-C into SystemExit(1) and SIGTERM into a SystemExit without a status: undone for callers.
    if isinstance(error, SIGTERMException):
        return "KILLED", None, Terminated()
    if isinstance(error, Terminated | KeyboardInterrupt | GivenUp):
        return "KILLED", None, error
    if isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt):
        return "KILLED", None, KeyboardInterrupt()
    if number:
        return "KILLED", None, exception_for(number)
    return "FAILED", f"{type(error).__name__}: {first_line(error)}", error


@contextmanager
def unseeded() -> Iterator[None]:
    """Reseed Python's random generator from the system within the block, and restore its state afterwards."""
    # MLflow draws run names from it: seeded for a run, all runs of a seed would get the same name.
    state = random.getstate()
    random.seed()
    yield
    random.setstate(state)


def log_params(client: "MlflowClient", run_id: str, params: dict[str, str]) -> None:
    """Record the params of a run, in requests of at most 100. Raises: MlflowException when the store refuses them."""
    from mlflow.entities import Param

    items = [Param(key, value) for key, value in params.items()]
    for start in range(0, len(items), MAX_PARAMS_PER_REQUEST):
        client.log_batch(run_id, params=items[start : start + MAX_PARAMS_PER_REQUEST])


def write_first_files(folder: Path, configuration: dict[str, Any], identity: dict[str, str]) -> None:
    """Write configuration and environment of a run, and its identity into the folder of the checkpoints."""
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(configuration, sort_keys=False, allow_unicode=True)
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    text = json.dumps(identity, indent=2, ensure_ascii=False)
    (folder / "checkpoints" / "run.json").write_text(f"{text}\n", encoding="utf-8")
    write_environment(folder / "environment")


class TrackedRun:
    """A RUNNING MLflow run with its folder and its logger."""

    def __init__(
        self,
        uri: str,
        run_id: str,
        experiment: str,
        folders: RunFolders,
        last_steps: dict[str, int],
        start_time: int = 0,
        lock: RunLock | None = None,
    ) -> None:
        self.run_id = run_id
        self.experiment_id = experiment
        self.directory = folders.artifacts
        self.logger = MlflowLogger(uri, run_id, folders, last_steps, start_time)
        self._uri = uri
        self._folders = folders
        self._lock = lock
        self.at_end: list[Callable[[], None]] = []
        """Called on process zero when the run ends, however it ends; they raise nothing."""

    @property
    def address(self) -> str:
        """The path of the run's page, to append to the address of an MLflow server."""
        return page_of(self.experiment_id, self.run_id)

    @property
    def model_folder(self) -> Path:
        """The folder in which the run's MLflow model waits for its end."""
        return self._folders.model

    def set_tags(self, tags: dict[str, str]) -> None:
        """Set tags: immediately on disk, and in the store as soon as it responds."""
        self.logger.log_tags(tags)

    def upload_soon(self, relative_path: str) -> None:
        """Upload a file of `directory` in the background, so that it is not lost with this machine.

        The file may be replaced by renaming at any time; request the upload again to send the new content.
        """
        self.logger.upload_soon(relative_path)

    @contextmanager
    def status(self) -> Iterator[None]:
        """End the run with a status that depends on how the block is left.

        FINISHED only when the block succeeds; KILLED on Ctrl-C, SIGTERM and SIGHUP; FAILED, with the tag
        `lightrail.error`, on any other exception. Metrics, tags and files are sent before; when the store is
        unreachable they stay pending on disk, and nothing further is raised. SIGTERM and SIGHUP are raised as
        Terminated.
        """
        note = SignalNote()
        with handling(ENDING, note.handle):
            try:
                yield
                note.raise_again()
            except BaseException as error:
                status, reason, raised = verdict(error, note.number)
                self._end(status, reason)
                if raised is error:
                    raise
                raise raised from error
            self._end("FINISHED", None)

    def _end(self, status: str, reason: str | None) -> None:
        if not is_process_zero():
            return
        from mlflow import MlflowClient

        for close in self.at_end:
            close()
        journal, sender = self.logger.journal, self.logger.sender
        with suppress(OSError):
            self._folders.reserve.unlink()  # on a full disk, the space for what follows
        try:
            with handling((signal.SIGTERM, signal.SIGHUP), signal.SIG_IGN):  # the end of a run takes a bounded time
                journal.append_ending(Ending(status, reason, milliseconds_now()))
                # A killed run has little time left: SIGKILL usually follows.
                is_sent = sender.flush(CLOSE_SECONDS, keep_trying=True, is_patient=status != "KILLED")
                sender.close()
            if is_sent:
                clear(MlflowClient(self._uri), self.run_id, self._folders, journal, status)
            else:
                self._warn_of_what_waits(status)
        finally:
            if self._lock is not None:
                self._lock.release()

    def _warn_of_what_waits(self, status: str) -> None:
        journal = self.logger.journal
        log.warning(
            "run %s ended as %s, but its store is incomplete: %d metrics and the status are pending in %s, files in "
            "%s. When it responds, send them with `lightrail sync --tracking.uri %s`.",
            self.run_id,
            status,
            journal.count_unsent(),
            journal.path,
            self.directory,
            without_password(self._uri),
        )
        if journal.num_bytes_in_memory:
            log.error("%s: the disk is full, the last %d bytes are lost", journal.path, journal.num_bytes_in_memory)


def start_run(
    config: TrackingConfig,
    configuration: dict[str, Any],
    tags: dict[str, str],
    inputs: "Sequence[SplitSummary]" = (),
) -> TrackedRun:
    """Start a run, with params, tags, inputs, `config.yaml` and `environment/` recorded before training.

    In the other processes of a distributed run, attach to the run of process zero without writing.

    Args:
        inputs: the splits, each recorded with its name, content digest, source and number of rows.

    Raises:
        ConfigError: the store or the artifact folder cannot be reached or written. No run is left behind.
    """
    if not is_process_zero():
        return _attached_run()
    uri = store_uri(config)
    client = open_store(uri, create=True)
    with answering(uri):
        close_dead_runs(client)
        experiment = experiment_id(client, uri, config.experiment)
        all_tags = {**config.tags, **code_tags(), **user_tags(), **process_tag(), **_keep_tag(config), **tags}
        with unseeded():
            run = client.create_run(experiment, tags=all_tags, run_name=config.run_name)
    run_id, made, lock = run.info.run_id, None, None
    try:
        folders = run_folders(run_id, run.info.artifact_uri)
        made = None if folders.journal.parent.exists() else folders.journal.parent
        lock = RunLock(folders.lock)
        tracked = TrackedRun(uri, run_id, experiment, folders, {}, run.info.start_time, lock)
        lock_run(run_id, lock)
        reserve(folders.reserve)
        note_waiting(run_id, uri, folders)
        _record_first(client, tracked, config.experiment, configuration, inputs)
    except BaseException as error:
        if lock is not None:
            lock.release()
        _take_back(client, run_id, made, error)
        raise
    _announce(tracked)
    return tracked


def continue_run(run_id: str, config: TrackingConfig, *, force: bool = False, reopen: bool = False) -> TrackedRun:
    """Resume an interrupted run: send its pending records, set it RUNNING, and drop metrics of repeated steps.

    Args:
        force: also when it is marked RUNNING on another machine, which cannot be checked from here.
        reopen: also when it is finished: a parent run may get more children.

    Raises:
        ConfigError: there is no such run, it is finished or still running, or its store cannot be reached.
    """
    uri = store_uri(config)
    client = open_store(uri, create=False)
    run = find_run(client, run_id)
    folders = run_folders(run.info.run_id, run.info.artifact_uri)
    if not is_process_zero():  # started by torchrun or srun, it gets nothing from process zero
        return TrackedRun("", run.info.run_id, run.info.experiment_id, folders, {})
    check_folder(folders.artifacts, "tracking.uri")
    lock = RunLock(folders.lock)
    lock_run(run.info.run_id, lock, process_of(run))
    try:
        with answering(uri):
            steps = prepare_to_continue(client, uri, run.info.run_id, folders, force=force, reopen=reopen)
    except BaseException:
        lock.release()
        raise
    tracked = TrackedRun(uri, run.info.run_id, run.info.experiment_id, folders, steps, run.info.start_time, lock)
    reserve(folders.reserve)
    if config.checkpoint.keep_resume_state != (run.data.tags.get(KEEP_TAG) == "true"):
        tracked.set_tags(_keep_tag(config) or {KEEP_TAG: "false"})
    _announce(tracked)
    return tracked


def _keep_tag(config: TrackingConfig) -> dict[str, str]:
    return {KEEP_TAG: "true"} if config.checkpoint.keep_resume_state else {}


def _record_first(
    client: "MlflowClient",
    run: TrackedRun,
    experiment: str,
    configuration: dict[str, Any],
    inputs: "Sequence[SplitSummary]",
) -> None:
    log_params(client, run.run_id, flatten(configuration))
    if inputs:
        log_inputs(client, run.run_id, inputs)
    identity = {"run_id": run.run_id, "experiment": experiment, "store": without_password(run.logger.uri)}
    write_first_files(run.directory, configuration, identity)
    run.logger.uploads.send_all(client, run.run_id)


def _take_back(client: "MlflowClient", run_id: str, made: Path | None, error: BaseException) -> None:
    """Remove a run that could not be started. Raises: ConfigError when store or disk was the reason.

    Args:
        made: the run's folder; None when it existed before, since the store chose it.
    """
    from mlflow.exceptions import MlflowException

    if made is not None:
        shutil.rmtree(made, ignore_errors=True)
        forget_waiting(run_id)
    with suppress(Exception):  # the store that refused the run may refuse this too: the first error is raised
        client.delete_run(run_id)
    if isinstance(error, OSError | MlflowException):
        raise ConfigError(f"the run could not be started: {error}") from error


def _announce(run: TrackedRun) -> None:
    """Pass the run, in an environment variable, to the processes that Lightning starts from this one."""
    os.environ["LIGHTRAIL_RUN"] = f"{run.run_id} {run.experiment_id} {run.directory}"


def _attached_run() -> TrackedRun:
    run_id, experiment, directory = os.environ.get("LIGHTRAIL_RUN", f"- - {tempfile.gettempdir()}").split(" ", 2)
    folders = RunFolders(Path(directory), Path(directory).parent / "metrics.jsonl", is_store=True)
    return TrackedRun("", run_id, experiment, folders, {})
