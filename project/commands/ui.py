"""`lightrail ui`: the MLflow UI on the store that runs are recorded in."""

import errno
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import psutil

from lightrail.project.basics.errors import ConfigError, first_line, plain, shown, without_password
from lightrail.project.basics.option_parser import OptionParser
from lightrail.project.tracking.database import sqlite_file
from lightrail.project.tracking.processes import ENDING, handling, leave_terminal
from lightrail.project.tracking.settings import TrackingConfig
from lightrail.project.tracking.store import open_store, store_uri

HOST = "127.0.0.1"
SECONDS_TO_END = 5.0
"""Maximum time for the server to end by itself, before it is killed with its worker processes."""
STORE = "--backend-store-uri"


def run(arguments: list[str]) -> int:
    """Serve the MLflow UI until Ctrl-C, or print the address of a store that is a server itself or is served already.

    Raises: ConfigError when the store or the port cannot be used.
    """
    parser = OptionParser("ui")
    parser.add_argument("--port", type=int, default=5000)
    options = parser.read(arguments)
    uri = store_uri(TrackingConfig(uri=options.uri))
    if uri.startswith(("http://", "https://")):
        print(uri)
        return 0
    from lightrail.project.tracking.recovery import close_dead_runs

    close_dead_runs(open_store(uri, create=False))
    served = _listener(options.port)
    if served is not None and served.store == uri:
        print(f"{without_password(uri)} is served already, by process {served.process}: http://{HOST}:{options.port}/")
        return 0
    port = _usable_port(options.port)
    print(f"{without_password(uri)} at http://{HOST}:{port}/ in a few seconds; Ctrl-C stops the server", flush=True)
    return _serve(_command(uri, port))


def _serve(command: list[str]) -> int:
    """Run the server until it ends or a signal comes; none of its processes is left. Returns: its status, else 0."""
    with handling(ENDING, _interrupt):
        # In its own session, which Ctrl-C does not reach: signalled twice, the server exits with a traceback.
        server = subprocess.Popen(command, env=_environment(), start_new_session=True)
        try:
            return server.wait()
        except KeyboardInterrupt:
            return 0
        finally:
            with suppress(subprocess.TimeoutExpired, KeyboardInterrupt):  # a second Ctrl-C ends the wait
                server.terminate()
                server.wait(SECONDS_TO_END)
            with suppress(ProcessLookupError):  # the group of the server: it is empty
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _interrupt(number: int, _frame: FrameType | None) -> None:
    if number == signal.SIGHUP:
        leave_terminal()
    raise KeyboardInterrupt


class _Listener(NamedTuple):
    """The process that listens at a port."""

    process: int
    name: str
    store: str
    """The store of an MLflow server, as its command line gives it; "" for other programs."""
    folder: str

    def __str__(self) -> str:
        where = f"process {self.process}, started in {plain(self.folder, 200)}"
        if self.store:
            return f"an MLflow server of {without_password(plain(self.store, 200))} ({where})"
        return f"{plain(self.name)} ({where})"


def _listener(port: int) -> _Listener | None:
    """Return who listens at a port of this machine; None for nobody, and for processes of other users."""
    with suppress(psutil.Error, OSError):
        listening = (own for own in psutil.net_connections("tcp") if own.status == psutil.CONN_LISTEN)
        number = next((own.pid for own in listening if own.laddr and own.laddr.port == port and own.pid), None)
        if number is None:
            return None
        process = psutil.Process(number)
        for own in (process, *process.parents()):  # a worker does not have the options of its server
            found = re.search(rf"{STORE}[=\0]([^\0]+)", "\0".join(own.cmdline()))
            if found:
                return _Listener(own.pid, own.name(), found[1], own.cwd())
        return _Listener(number, process.name(), "", process.cwd())
    return None


def _usable_port(port: int) -> int:
    """Return a port that can be listened at, any for 0. Raises: ConfigError naming who has it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            is_taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
            reason = f"taken by {_listener(port) or 'another program'}" if is_taken else first_line(error)
            raise ConfigError(
                f"--port {shown(port)} cannot be used: {reason}. Choose another, such as lightrail ui --port "
                f"{port + 1 if 0 < port < 2**16 - 1 else 5000}, or --port 0 for any."
            ) from error
        return int(probe.getsockname()[1])


def _command(uri: str, port: int) -> list[str]:
    file = sqlite_file(uri)
    artifacts = (file.parent if file else Path.cwd()) / "mlruns"
    return [
        *(sys.executable, "-m", "mlflow", "server"),
        *(STORE, uri, "--registry-store-uri", uri),
        *("--default-artifact-root", str(artifacts), "--no-serve-artifacts"),
        *("--host", HOST, "--port", str(port), "--workers", "1"),
        *("--uvicorn-opts", "--log-level warning"),
    ]


def _environment() -> dict[str, str]:
    """Return this process's environment variables, with MLflow's logs and job workers turned off."""
    # The job workers take nine processes and 1.8 GB, for features that recorded runs do not use.
    quiet = {"MLFLOW_LOGGING_LEVEL": "ERROR", "MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONWARNINGS": "ignore"}
    return {**os.environ, **quiet, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
