"""`lightrail ui`: the MLflow UI on the store that runs are recorded in."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from lightrail.project.basics.errors import ConfigError, first_line, shown, without_password
from lightrail.project.basics.option_parser import OptionParser
from lightrail.project.tracking.database import sqlite_file
from lightrail.project.tracking.settings import TrackingConfig
from lightrail.project.tracking.store import open_store, store_uri

HOST = "127.0.0.1"


def run(arguments: list[str]) -> int:
    """Serve the MLflow UI until Ctrl-C, or print the address of a store that is a server itself."""
    parser = OptionParser("ui")
    parser.add_argument("--port", type=int, default=5000)
    options = parser.read(arguments)
    uri = store_uri(TrackingConfig(uri=options.uri))
    if uri.startswith(("http://", "https://")):
        print(uri)
        return 0
    from lightrail.project.tracking.recovery import close_dead_runs

    close_dead_runs(open_store(uri, create=False))
    port = _usable_port(options.port)
    print(f"{without_password(uri)} at http://{HOST}:{port}/ in a few seconds; Ctrl-C stops the server", flush=True)
    # In its own session, which Ctrl-C does not reach: signalled twice, the server exits with a traceback.
    with subprocess.Popen(_command(uri, port), env=_environment(), start_new_session=True) as server:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            return server.wait()
        except KeyboardInterrupt:
            server.terminate()
            return 0


def _usable_port(port: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"--port {shown(port)} cannot be used ({first_line(error)}). Choose another, --port 0 for any."
            ) from error
        return int(probe.getsockname()[1])


def _command(uri: str, port: int) -> list[str]:
    file = sqlite_file(uri)
    artifacts = (file.parent if file else Path.cwd()) / "mlruns"
    return [
        *(sys.executable, "-m", "mlflow", "server"),
        *("--backend-store-uri", uri, "--registry-store-uri", uri),
        *("--default-artifact-root", str(artifacts), "--no-serve-artifacts"),
        *("--host", HOST, "--port", str(port), "--workers", "1"),
        *("--uvicorn-opts", "--log-level warning"),
    ]


def _environment() -> dict[str, str]:
    """Return this process's environment variables, with MLflow's logs and job workers turned off."""
    # The job workers take nine processes and 1.8 GB, for features that recorded runs do not use.
    quiet = {"MLFLOW_LOGGING_LEVEL": "ERROR", "MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONWARNINGS": "ignore"}
    return {**os.environ, **quiet, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
