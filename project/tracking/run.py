"""A run from its first moment to its last: started whole or not at all, and with a status that is true throughout."""

import logging
import os
import random
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from project.errors import ConfigError
from project.tracking.experiment import experiment_id
from project.tracking.folders import RunFolders, run_folders
from project.tracking.inputs import SplitSummary, dataset_inputs
from project.tracking.journal import Ending, Journal
from project.tracking.logger import MlflowLogger, is_process_zero
from project.tracking.lookup import find_run, page_of, run_checkpoint, run_configuration
from project.tracking.params import flatten
from project.tracking.provenance import code_tags, user_tags, write_environment
from project.tracking.recovery import close_dead_runs, process_tag, send_pending
from project.tracking.sender import milliseconds_now
from project.tracking.settings import TrackingConfig
from project.tracking.status import sigterm_raises, sigterm_waits, verdict
from project.tracking.store import check_folder, open_store, store_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["TrackedRun", "continue_run", "run_checkpoint", "run_configuration", "send_pending", "start_run"]

log = logging.getLogger(__name__)

CLOSE_SECONDS = 30.0
"""How long the end of a run waits for a store that does not answer."""
MAX_PARAMS_PER_REQUEST = 100


class TrackedRun:
    """A run that MLflow shows as RUNNING, its files and its logger."""

    def __init__(self, uri: str, run_id: str, experiment: str, folders: RunFolders, last_steps: dict[str, int]) -> None:
        self.run_id = run_id
        self.experiment_id = experiment
        self.directory = folders.artifacts
        self.logger = MlflowLogger(uri, run_id, folders.artifacts, Journal(folders.journal), last_steps)
        self._uri = uri
        self._is_published = folders.is_store

    @property
    def address(self) -> str:
        """The run's page, to be put behind the address of an MLflow server."""
        return page_of(self.experiment_id, self.run_id)

    def log_inputs(self, splits: Sequence[SplitSummary]) -> None:
        """Record each split: name, content digest, source and number of rows."""
        if is_process_zero():
            _client(self._uri).log_inputs(self.run_id, datasets=dataset_inputs(splits))

    def set_tags(self, tags: dict[str, str]) -> None:
        if is_process_zero():
            for key, value in tags.items():
                _client(self._uri).set_tag(self.run_id, key, value)

    @contextmanager
    def status(self) -> Iterator[None]:
        """Give the run the status of what happens inside.

        FINISHED only when the block is left normally; KILLED on Ctrl-C and SIGTERM; FAILED, with the tag
        `lightrail.error`, on any other exception. All metrics are sent before. SIGTERM leaves as Terminated.
        """
        with sigterm_raises():
            try:
                yield
            except BaseException as error:
                status, reason, raised = verdict(error)
                self._end(status, reason)
                if raised is error:
                    raise
                raise raised from error
            self._end("FINISHED", None)

    def publish(self) -> None:
        """Upload `directory`, unless it is the artifact store itself.

        Raises:
            ConnectionError: the store does not take it; the files are still in `directory`.
        """
        if self._is_published or not is_process_zero():
            return
        from mlflow.exceptions import MlflowException

        try:
            _client(self._uri).log_artifacts(self.run_id, str(self.directory))
        except (MlflowException, OSError) as error:
            raise ConnectionError(
                f"the artifacts of run {self.run_id} could not be uploaded ({error}). They are in {self.directory}."
            ) from error

    def _end(self, status: str, reason: str | None) -> None:
        if not is_process_zero():
            return
        journal, sender = self.logger.journal, self.logger.sender
        with sigterm_waits():
            journal.append_ending(Ending(status, reason, milliseconds_now()))
            is_sent = sender.flush(CLOSE_SECONDS, keep_trying=True)
            sender.close()
        if is_sent:
            journal.remove()
            return
        log.warning(
            "run %s ended as %s, but its store did not answer for %d s: %d metrics and the status wait in %s. "
            "The next run that is started on this store from this machine sends them.",
            self.run_id,
            status,
            CLOSE_SECONDS,
            journal.count_unsent(),
            journal.path,
        )


def start_run(config: TrackingConfig, configuration: dict[str, Any], tags: dict[str, str]) -> TrackedRun:
    """Start a run that holds its params, tags, `config.yaml` and `environment/` before anything is trained.

    In the other processes of a distributed run this attaches to the run of process zero and writes nothing.

    Raises:
        ConfigError: the store or the artifact folder cannot be reached or written. No run is left behind.
    """
    if not is_process_zero():
        return _attached_run()
    from mlflow.exceptions import MlflowException

    _check_tags(config.tags)
    uri = store_uri(config)
    client = open_store(uri, create=True)
    close_dead_runs(client)
    experiment = experiment_id(client, uri, config.experiment)
    all_tags = {**config.tags, **code_tags(), **user_tags(), **process_tag(), **tags}
    with _unseeded():
        run = client.create_run(experiment, tags=all_tags, run_name=config.run_name)
    tracked = TrackedRun(
        uri, run.info.run_id, experiment, run_folders(run.info.run_id, run.info.artifact_uri), last_steps={}
    )
    try:
        _log_params(client, tracked.run_id, flatten(configuration))
        _write_first_files(tracked.directory, configuration)
        tracked.publish()
    except BaseException as error:
        _take_back(client, tracked)
        if isinstance(error, OSError | MlflowException):
            raise ConfigError(f"the run could not be started: {error}") from error
        raise
    _announce(tracked)
    return tracked


def continue_run(run_id: str, config: TrackingConfig, tags: dict[str, str]) -> TrackedRun:
    """Go on with a run that ended early: send what it left, set it RUNNING again, and drop repeated steps.

    Raises:
        ConfigError: there is no such run, or its store cannot be reached.
    """
    if not is_process_zero():
        return _attached_run()
    uri = store_uri(config)
    client = open_store(uri, create=False)
    run_id = find_run(client, run_id).info.run_id
    send_pending(client, run_id)
    run = client.get_run(run_id)
    client.update_run(run_id, status="RUNNING")
    for key, value in {**process_tag(), **tags}.items():
        client.set_tag(run_id, key, value)
    if "lightrail.error" in run.data.tags:
        client.delete_tag(run_id, "lightrail.error")
    last_steps = {metric.key: metric.step for metric in run.to_proto().data.metrics}
    folders = run_folders(run_id, run.info.artifact_uri)
    check_folder(folders.artifacts, "tracking.uri")
    tracked = TrackedRun(uri, run_id, run.info.experiment_id, folders, last_steps)
    _announce(tracked)
    return tracked


def _check_tags(tags: dict[str, str]) -> None:
    for name in tags:
        if name.startswith(("lightrail.", "mlflow.")):
            raise ConfigError(f"tracking.tags: names like {name!r} are reserved. Choose one with another beginning.")


@contextmanager
def _unseeded() -> Iterator[None]:
    """MLflow makes up names with Python's generator: seeded for a run, that gives all runs of a seed one name."""
    state = random.getstate()
    random.seed()
    yield
    random.setstate(state)


def _log_params(client: "MlflowClient", run_id: str, params: dict[str, str]) -> None:
    from mlflow.entities import Param

    items = [Param(key, value) for key, value in params.items()]
    for start in range(0, len(items), MAX_PARAMS_PER_REQUEST):
        client.log_batch(run_id, params=items[start : start + MAX_PARAMS_PER_REQUEST])


def _write_first_files(folder: Path, configuration: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(configuration, sort_keys=False, allow_unicode=True)
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    write_environment(folder / "environment")


def _take_back(client: "MlflowClient", run: TrackedRun) -> None:
    from mlflow.exceptions import MlflowException

    shutil.rmtree(run.directory.parent, ignore_errors=True)
    with suppress(MlflowException):  # the store that refused the run may refuse this as well: the first error counts
        client.delete_run(run.run_id)


def _announce(run: TrackedRun) -> None:
    """Tell the processes that Lightning starts from this one which run they belong to."""
    os.environ["LIGHTRAIL_RUN"] = f"{run.run_id} {run.experiment_id} {run.directory}"


def _attached_run() -> TrackedRun:
    run_id, experiment, directory = os.environ.get("LIGHTRAIL_RUN", f"- - {tempfile.gettempdir()}").split(" ", 2)
    folders = RunFolders(Path(directory), Path(directory).parent / "metrics.jsonl", is_store=True)
    return TrackedRun("", run_id, experiment, folders, {})


def _client(uri: str) -> "MlflowClient":
    from mlflow import MlflowClient

    return MlflowClient(uri)
