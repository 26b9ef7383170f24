"""The MLflow store of a run: its address, its checks, and the folders of a run's files."""

import fcntl
import gc
import hashlib
import logging
import os
import re
import socket
import sys
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lightrail.project.basics.durable import UNFINISHED, put_in_place
from lightrail.project.basics.errors import ConfigError, Refusal, first_line, shown, without_password
from lightrail.project.basics.private_names import tracking_store
from lightrail.project.basics.reading import reading
from lightrail.project.tracking.database import (
    SCHEMES,
    check_database,
    follow_moved_artifacts,
    local_path,
    sqlite_address,
    sqlite_file,
    sqlite_uri,
)
from lightrail.project.tracking.settings import TrackingConfig

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment


PROBE_SECONDS = 5
"""Maximum time for a server to accept a connection before a run is refused."""
DEFAULT_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
SETTING = "tracking.uri"
TABLES = ("experiments", "runs", "alembic_version")
"""Some tables of each MLflow database."""
RUN_NAME = re.compile(r"[0-9A-Za-z][\w-]{0,255}", re.ASCII)
"""The form of MLflow's run ids; they become names of folders."""
MODEL_TRAINING = {"mlflow.experimentKind": "custom_model_development"}
"""Tag that makes MLflow's pages open on runs and metrics instead of traces of language-model calls."""


class RunFolders(NamedTuple):
    """The folder of a run's artifacts, and the internal files beside it."""

    artifacts: Path
    journal: Path
    is_store: bool
    """Whether `artifacts` is the artifact store itself, so that nothing needs to be uploaded."""

    @property
    def lock(self) -> Path:
        """The lock file, held by the owner of the run."""
        return self.journal.with_name("run.lock")

    @property
    def reserve(self) -> Path:
        """The file that keeps space on the disk while the run has a process, for the records of its end."""
        return self.journal.with_name("run.reserve")

    @property
    def uploaded(self) -> Path:
        """The record of uploaded `artifacts`."""
        return self.journal.with_name("uploaded.json")

    @property
    def model(self) -> Path:
        """The folder of the run's MLflow model, until the store has it."""
        return self.journal.with_name("model")

    @property
    def uploading(self) -> Path:
        """The folder of the file that is being uploaded."""
        return self.journal.with_name("uploading")


def run_folders(run_id: str, artifact_uri: str) -> RunFolders:
    """Return the folders of a run whose artifacts MLflow keeps at `artifact_uri`.

    With a local artifact store this is the run's own folder there. With a remote one it is
    `$XDG_STATE_HOME/lightrail/RUN_ID` (`~/.local/state/...`), from which the artifacts are uploaded.

    Raises:
        ConfigError: id or address are not of MLflow's form. A store must not choose a folder that is no run's own.
    """
    if RUN_NAME.fullmatch(run_id) is None:
        raise ConfigError(f"the store names a run {shown(run_id)}, which is no id of a run. Check tracking.uri.")
    local = local_path(artifact_uri)
    if local is not None:
        if local.parts[-2:] != (run_id, "artifacts") or "\0" in str(local):
            raise ConfigError(
                f"the store reports that the files of run {run_id} are in {shown(artifact_uri, 200)}, which is not a "
                f"folder of that run: it does not end in {run_id}/artifacts. Check tracking.uri."
            )
        return RunFolders(local, local.parent / "metrics.jsonl", is_store=True)
    folder = state_folder() / run_id
    return RunFolders(folder / "artifacts", folder / "metrics.jsonl", is_store=False)


def state_folder() -> Path:
    """Return the folder for lightrail's state on this machine: `$XDG_STATE_HOME/lightrail` (`~/.local/state/...`)."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "lightrail"


def store_uri(config: TrackingConfig) -> str:
    """Return the complete address of the store, SQLite files by absolute paths. Raises: ConfigError for no store."""
    uri = config.uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    scheme = uri.partition(":")[0].lower() if ":" in uri else ""
    if scheme in ("", "file"):
        raise ConfigError(
            f"tracking.uri {shown(uri)} is not an MLflow store. For a local file write sqlite:///FILE.db, "
            f"for a server its address (http://HOST:PORT)."
        )
    return sqlite_address(uri, SETTING) if scheme in SCHEMES else uri.rstrip("/")


def open_store(uri: str, *, create: bool) -> "MlflowClient":
    """Return a client of the store at `uri`, which is created first with `create`.

    Raises:
        ConfigError: the store cannot be reached or written, or does not exist without `create`.
    """
    file = sqlite_file(uri)
    calm_mlflow()
    if file is None:
        with reading(f"the MLflow store {without_password(uri)}", "Choose another tracking.uri."):
            _check_server(uri)
    elif create:
        check_folder(file.parent, SETTING)
    if file is not None and file.exists():
        tables = check_database(uri, SETTING)
        if tables and not tables.issuperset(TABLES):
            names = shown(", ".join(sorted(tables)))
            raise ConfigError(f"{SETTING}: {file} is no whole database of MLflow: it has {names}. Choose another file.")
        if create and not os.access(file, os.W_OK):
            raise ConfigError(f"{file}: cannot write there (read-only file). Choose another tracking.uri.")
    is_empty = file is not None and (not file.exists() or not file.stat().st_size)
    if is_empty and not create:
        raise ConfigError(f"{file}: no runs are recorded there. Run `lightrail fit` first, or set tracking.uri.")
    what = f"the MLflow store {without_password(uri)} cannot be opened"
    with _importing("mlflow.tracking"):
        from mlflow import MlflowClient

        from lightrail.project.tracking.limits import bound_answers

        if file is not None:
            import mlflow.store.tracking.sqlalchemy_store  # noqa: F401 - which MlflowClient would import
    bound_answers()
    logging.getLogger("mlflow").setLevel(os.environ["MLFLOW_LOGGING_LEVEL"])  # if it was imported before
    with (
        reading(what, "Choose another tracking.uri, or install the version of MLflow that wrote it."),
        _one_process_at_a_time(uri if file is None else f"sqlite:///{file}"),
    ):
        if file is not None:
            if not file.exists() or not file.stat().st_size:
                make_database(file)
            follow_moved_artifacts(uri)
        return MlflowClient(uri)


@contextmanager
def _importing(name: str) -> Iterator[None]:
    """Turn garbage collection off while modules are imported, a fourth of whose time it takes, if `name` is not yet."""
    if name in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
        gc.freeze()  # later collections leave out what was imported
    finally:
        gc.enable()


@contextmanager
def answering(uri: str) -> Iterator[None]:
    """Turn the exceptions of an unreachable or refusing store in the block into ConfigError of one line.

    So does an answer that is none: MLflow's reader of answers raises exceptions of many types.
    """
    from requests import RequestException

    try:
        yield
    except Exception as error:
        is_of_this_machine = isinstance(error, OSError) and not isinstance(error, RequestException)
        if is_of_this_machine or isinstance(error, Refusal):
            raise
        about = without_password(f"the request to the MLflow store {uri} failed")
        raise ConfigError(f"{about}: {first_line(error)}") from error


def check_folder(folder: Path, setting: str) -> None:
    """Create a folder, and refuse one in which no file can be created. Raises: ConfigError naming the setting."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(f"{folder}: cannot write there ({error.strerror}). Choose another {setting}.") from error


def _check_server(uri: str) -> None:
    """Refuse a server that accepts no connection within seconds. Raises: ConfigError."""
    # The libraries below would retry for minutes.
    parts = urllib.parse.urlsplit(uri)
    port = parts.port or DEFAULT_PORTS.get(parts.scheme.partition("+")[0])
    if parts.hostname is None or port is None or _goes_through_a_proxy(parts.scheme, parts.hostname):
        return
    try:
        socket.create_connection((parts.hostname, port), timeout=PROBE_SECONDS).close()
    except OSError as error:
        raise ConfigError(
            f"the MLflow store {without_password(uri)} does not respond ({error}). "
            f"Start it, or choose another tracking.uri."
        ) from error


def _goes_through_a_proxy(scheme: str, host: str) -> bool:
    return scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(host)


def calm_mlflow() -> None:
    """Set MLflow's environment defaults before its import; variables set by the user are kept."""
    # By default MLflow reports usage over the network, logs every database migration, prints a traceback for each
    # locked database, and retries calls to a dead server for minutes. Retries are up to the sender (`sender.py`).
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


@contextmanager
def _one_process_at_a_time(uri: str) -> Iterator[None]:
    """Hold a lock of this machine for the store at `uri`."""
    # MLflow's migrations take no lock: two processes that create the same database at once corrupt it.
    name = hashlib.sha256(uri.encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"lightrail-{os.getuid()}-{name}.lock"
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def make_database(file: Path) -> None:
    """Create MLflow's tables in a temporary file beside `file`, and rename it when it is complete."""
    from mlflow import MlflowClient

    # MLflow creates some sixty tables one by one, in seconds, and can never again open a file with only some of them,
    # as a killed process leaves it.

    unfinished = file.with_name(file.name + UNFINISHED)
    for left in file.parent.glob(f"{unfinished.name}*"):  # by a killed process
        left.unlink()
    store = tracking_store(MlflowClient(sqlite_uri(unfinished, SETTING)))
    store.engine.dispose()  # closes the file before it is renamed
    put_in_place(unfinished, file)


def experiment_id(client: "MlflowClient", uri: str, name: str) -> str:
    """Return the id of the experiment `name`, created when missing.

    Raises:
        ConfigError: it was deleted, or its artifact folder cannot be written.
    """
    found = client.get_experiment_by_name(name) or _create(client, uri, name)
    if found.lifecycle_stage != "active":
        raise ConfigError(
            f"tracking.experiment {name!r} was deleted. Choose another name, or restore it: "
            f"mlflow experiments restore --experiment-id {found.experiment_id}"
        )
    folder = local_path(found.artifact_location)
    if folder is not None:
        check_folder(folder, "tracking.uri")
    return str(found.experiment_id)


def _create(client: "MlflowClient", uri: str, name: str) -> "Experiment":
    from mlflow.exceptions import MlflowException

    location = _artifact_location(uri, name)
    if location is not None:
        folder = local_path(location)
        assert folder is not None
        check_folder(folder, "tracking.uri")
    try:
        client.create_experiment(name, artifact_location=location, tags=MODEL_TRAINING)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process was faster
            raise ConfigError(f"tracking.experiment {name!r} cannot be created: {error.message}") from error
    return client.get_experiment_by_name(name)


def _artifact_location(uri: str, name: str) -> str | None:
    """Return the artifact folder beside a SQLite file, instead of MLflow's working folder; None for a server."""
    file = sqlite_file(uri)
    if file is None:
        return None
    folder = re.sub(r"[^\w.-]+", "-", name).strip(".-") or "experiment"
    return (file.parent / "mlruns" / folder).as_uri()
