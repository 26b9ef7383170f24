"""`lightrail ui`: open MLflow's own pages on the store that runs are recorded in."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from types import FrameType

from lightrail.project.basics.errors import ConfigError
from lightrail.project.basics.option_parser import OptionParser
from lightrail.project.tracking.settings import TrackingConfig
from lightrail.project.tracking.store import open_store, sqlite_file, store_uri

HOST = "127.0.0.1"
START_SECONDS = 120
STOP_SECONDS = 10


def run(arguments: list[str]) -> int:
    """Serve until Ctrl-C. With a store that is a server already, name its address."""
    options = _parser().parse_args(arguments)
    uri = store_uri(TrackingConfig(uri=options.uri))
    if uri.startswith(("http://", "https://")):
        sys.stdout.write(f"{uri}\n")
        return 0
    pages = _pages(uri)
    _check_port(options.port)
    return _serve(uri, options.port, pages)


def _parser() -> OptionParser:
    parser = OptionParser("ui")
    parser.add_argument("--port", type=int, default=5000)
    parser.add_argument("--tracking.uri", dest="uri")
    return parser


def _pages(uri: str) -> dict[str, str]:
    """Return what is worth opening, and the part of an address that names its page; the last run comes last."""
    from lightrail.project.tracking.lookup import last_runs, page_of
    from lightrail.project.tracking.recovery import close_dead_runs

    client = open_store(uri, create=False)
    close_dead_runs(client)
    found = last_runs(client, 1)
    if not found:
        return {"no runs yet": ""}
    run = found[0].info
    return {"all runs": page_of(run.experiment_id), "last run": page_of(run.experiment_id, run.run_id)}


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise ConfigError(f"--port {port} cannot be used ({error}). Choose another, --port 0 for any.") from error


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _serve(uri: str, port: int, pages: dict[str, str]) -> int:
    port = port or _free_port()
    address = f"http://{HOST}:{port}/"
    sys.stdout.write(f"starting MLflow on {uri} ...\n")
    sys.stdout.flush()
    previous = signal.signal(signal.SIGTERM, _raise_interrupt)
    # a group of its own: Ctrl-C reaches only us, and we end the whole group
    server = subprocess.Popen(_command(uri, port), env=_environment(), start_new_session=True)
    try:
        _wait_until_it_answers(server, address)
        sys.stdout.writelines(f"{name}: {address}{page}\n" for name, page in pages.items())
        sys.stdout.write("Ctrl-C ends it\n")
        sys.stdout.flush()
        return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _stop(server)
        signal.signal(signal.SIGTERM, previous)


def _raise_interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


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
    """Return ours without MLflow's job workers (nine processes and 1.8 GB for nothing that runs need)."""
    quiet = {"MLFLOW_LOGGING_LEVEL": "ERROR", "MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONWARNINGS": "ignore"}
    return {**os.environ, **quiet, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def _wait_until_it_answers(server: "subprocess.Popen[bytes]", address: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise ConfigError(f"MLflow's server ended with status {server.returncode}; its words are above.")
        with suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            urllib.request.urlopen(f"{address}health", timeout=2).close()
            return
        time.sleep(0.2)
    raise ConfigError(f"MLflow's server did not answer at {address} for {START_SECONDS} s.")


def _stop(server: "subprocess.Popen[bytes]") -> None:
    """End the server and every process it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        with suppress(subprocess.TimeoutExpired):
            server.wait(STOP_SECONDS)
            if number == signal.SIGKILL:
                return
            if _group_is_gone(server.pid):
                return


def _group_is_gone(group: int) -> bool:
    deadline = time.monotonic() + STOP_SECONDS
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False
