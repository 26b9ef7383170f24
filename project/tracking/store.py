"""Opening the MLflow store that a run is recorded in: where it is, whether it can be used, and quietly."""

import fcntl
import hashlib
import logging
import os
import re
import socket
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lightrail.project.basics.errors import ConfigError
from lightrail.project.tracking.settings import TrackingConfig

if TYPE_CHECKING:
    from mlflow import MlflowClient

PROBE_SECONDS = 5
"""How long a server may take to accept a connection before a run is refused."""

DEFAULT_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}


def store_uri(config: TrackingConfig) -> str:
    """Return the complete address of the store: SQLite files as absolute paths, so that it holds in any folder."""
    uri = config.uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    scheme = uri.partition(":")[0] if ":" in uri else ""
    if scheme in ("", "file"):
        raise ConfigError(
            f"tracking.uri {uri!r} names no MLflow store. For a local file write sqlite:///FILE.db, "
            f"for a server its address (http://HOST:PORT)."
        )
    if scheme == "sqlite":
        return f"sqlite:///{Path(uri.removeprefix('sqlite:///')).absolute()}"
    return uri.rstrip("/")


def sqlite_file(uri: str) -> Path | None:
    """Return the file behind a SQLite store, None for every other store."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def open_store(uri: str, *, create: bool) -> "MlflowClient":
    """Return a client of the store at `uri`, made ready first when `create` is set.

    Raises:
        ConfigError: the store cannot be reached or written, or there is none and `create` is not set.
    """
    file = sqlite_file(uri)
    if file is None:
        _check_server(uri)
    elif create:
        _check_writable(file)
    elif not file.exists():
        raise ConfigError(f"{file}: no runs are recorded there. Run `lightrail fit` first, or set tracking.uri.")
    calm_mlflow()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    from lightrail.project.tracking.database import make_database

    logging.getLogger("mlflow").setLevel(os.environ["MLFLOW_LOGGING_LEVEL"])  # for who imported it before us
    try:
        with _one_process_at_a_time(uri):
            if file is not None and (not file.exists() or not file.stat().st_size):
                make_database(file)
            return MlflowClient(uri)
    except (MlflowException, SQLAlchemyError) as error:
        words = str(error).strip().splitlines()[0]
        raise ConfigError(f"the MLflow store {without_password(uri)} cannot be opened: {words}") from error


@contextmanager
def answering(uri: str) -> Iterator[None]:
    """Turn what MLflow raises when the store is away, or refuses, into one line."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    try:
        yield
    except (MlflowException, RequestException) as error:
        words = (str(error).strip() or type(error).__name__).splitlines()[0]
        text = f"the MLflow store {uri} does not do what was asked: {words}"
        raise ConfigError(without_password(text)) from error


def without_password(uri: str) -> str:
    return re.sub(r"://([^:/@]+):[^@/]*@", r"://\1:***@", uri)


def check_folder(folder: Path, setting: str) -> None:
    """Refuse a folder in which no file can be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(f"{folder}: cannot write there ({error.strerror}). Choose another {setting}.") from error


def _check_writable(file: Path) -> None:
    check_folder(file.parent, "tracking.uri")
    if not file.exists():
        return
    if not os.access(file, os.W_OK):
        raise ConfigError(f"{file}: cannot write there (read-only file). Choose another tracking.uri.")
    with file.open("rb") as start:
        if start.read(16) not in (b"", b"SQLite format 3\0"):
            raise ConfigError(f"{file}: not a SQLite database. Choose another tracking.uri.")


def _check_server(uri: str) -> None:
    """Find out in seconds what the libraries below would retry for minutes: nobody listens there."""
    parts = urllib.parse.urlsplit(uri)
    port = parts.port or DEFAULT_PORTS.get(parts.scheme.partition("+")[0])
    if parts.hostname is None or port is None or _goes_through_a_proxy(parts.scheme, parts.hostname):
        return
    try:
        socket.create_connection((parts.hostname, port), timeout=PROBE_SECONDS).close()
    except OSError as error:
        raise ConfigError(
            f"the MLflow store {without_password(uri)} does not answer ({error}). "
            f"Start it, or choose another tracking.uri."
        ) from error


def _goes_through_a_proxy(scheme: str, host: str) -> bool:
    return scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(host)


def calm_mlflow() -> None:
    """Give MLflow manners before it is imported; what the user set in the environment stays.

    Its defaults report usage over the network, tell of every database migration, print a traceback for each locked
    database, and hold a call to a dead server for minutes. Retrying is the sender's work (`sender.py`).
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


@contextmanager
def _one_process_at_a_time(uri: str) -> Iterator[None]:
    """Two processes that make the same database at once spoil it: MLflow's migrations take no lock."""
    name = hashlib.sha256(uri.encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"lightrail-{os.getuid()}-{name}.lock"
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
