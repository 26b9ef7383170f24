"""`lightrail ui`, with a small program in the place of MLflow's server, which takes ten seconds to start."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from lightrail.project.basics.errors import ConfigError
from lightrail.project.commands import ui
from lightrail.project.tracking.run import start_run
from lightrail.project.tracking.settings import TrackingConfig
from tests.support.children import SECONDS_TO_HANG, Child, wait_for

SERVES = '''
import sys
from lightrail.project.commands import ui
server = """
import subprocess, sys, time
worker = "import time, signal as s; s.signal(s.SIGTERM, s.SIG_IGN); print('ready', flush=True); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", worker], stdout=subprocess.PIPE).stdout.readline()
print('serving on', sys.argv[1], flush=True)
time.sleep(600)
"""
ui._command = lambda uri, port: [sys.executable, "-c", server, f"{uri} {port}"]
sys.exit(ui.run(sys.argv[1:]))
'''
LISTENS = """
import socket, subprocess, sys, time
with socket.create_server(("127.0.0.1", 0)) as server:
    worker = [sys.executable, "-c", "import time; print('ready', flush=True); time.sleep(600)"]
    process = subprocess.Popen(worker, stdout=subprocess.PIPE, pass_fds=[server.fileno()])
    process.stdout.readline()
    port = server.getsockname()[1]
print(port, flush=True)
time.sleep(600)
"""


def test_a_store_that_is_a_server_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert ui.run(["--tracking.uri", "http://tracking.example:5000/"]) == 0
    assert capsys.readouterr().out == "http://tracking.example:5000\n"


def test_a_folder_without_a_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Run `lightrail fit` first"):
        ui.run(["--tracking.uri", f"sqlite:///{tmp_path}/mlflow.db"])


def test_a_port_in_use_is_refused_with_who_has_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        taken_by = rf"taken by .+ \(process {os.getpid()}, started in {re.escape(os.getcwd())}\)"
        choice = f"Choose another, such as lightrail ui --port {port + 1}, or --port 0 for any"
        with pytest.raises(ConfigError, match=f"--port {port} cannot be used: {taken_by}. {choice}"):
            ui._usable_port(port)
    with pytest.raises(ConfigError, match=r"--port 99999 cannot be used: .*--port 5000, or --port 0 for any"):
        ui._usable_port(99999)


@contextmanager
def served(store: str) -> Iterator[tuple[int, int]]:
    """A process whose worker listens as MLflow's server does; yields its number and the port."""
    command = [sys.executable, "-c", LISTENS, "--backend-store-uri", store]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        try:
            yield process.pid, int(process.stdout.readline())
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def test_a_store_that_is_served_already_is_named_with_its_address(
    store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    start_run(TrackingConfig(uri=store), {}, {})
    with served(store) as (process, port):
        assert ui.run(["--tracking.uri", store, "--port", str(port)]) == 0
    expected = f"{store} is served already, by process {process}: http://127.0.0.1:{port}/"
    assert capsys.readouterr().out.splitlines()[-1] == expected


def test_a_port_that_serves_another_store_is_refused_with_that_store(store: str) -> None:
    start_run(TrackingConfig(uri=store), {}, {})
    with served("postgresql://me:secret@host/runs") as (process, port):
        about = rf"an MLflow server of postgresql://me:\*\*\*@host/runs \(process {process}, started in "
        with pytest.raises(ConfigError, match=f"--port {port} cannot be used: taken by {about}"):
            ui.run(["--tracking.uri", store, "--port", str(port)])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_address_is_named_and_a_signal_leaves_no_process(store: str, number: signal.Signals) -> None:
    start_run(TrackingConfig(uri=store), {}, {})
    process = Child(["--tracking.uri", store, "--port", "0"], program=SERVES)
    wait_for(lambda: "serving on" in process._outputs[0].text, process)
    server = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    out, err = process.communicate()
    found = re.search(rf"{re.escape(store)} at http://127.0.0.1:([1-9]\d*)/", out)
    assert found
    assert f"serving on {store} {found[1]}" in out
    assert (process.returncode, err, len(server)) == (0, "", 2)
    assert psutil.wait_procs(server, timeout=SECONDS_TO_HANG)[1] == []


def test_the_status_of_a_server_that_ends_is_given(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    start_run(TrackingConfig(uri=store), {}, {})
    monkeypatch.setattr(ui, "_command", lambda *_: [sys.executable, "-c", "raise SystemExit(3)"])
    assert ui.run(["--tracking.uri", store, "--port", "0"]) == 3


@pytest.mark.filterwarnings("ignore")  # MLflow's own, while its server is imported
def test_mlflow_knows_every_option_and_listens_on_this_machine_only() -> None:
    from mlflow.cli import server as mlflow_server

    command = ui._command("sqlite:////somewhere/mlflow.db", 5000)
    known = {name for parameter in mlflow_server.params for name in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in command if word.startswith("--") and " " not in word} <= known
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert ui._environment()["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
