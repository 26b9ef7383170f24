"""`lightrail ui`, with a small server in MLflow's place: the real one takes ten seconds to start."""

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from lightrail.project.basics.errors import ConfigError
from lightrail.project.commands import ui
from lightrail.project.tracking.run import start_run
from lightrail.project.tracking.settings import TrackingConfig
from tests.support.children import SECONDS_TO_HANG

STAND_IN = """
import subprocess, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Healthy(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *args):
        pass

subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
HTTPServer(("127.0.0.1", int(sys.argv[1])), Healthy).serve_forever()
"""


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ui, "_command", lambda _, port: [sys.executable, "-c", STAND_IN, str(port)])


def test_a_store_that_is_a_server_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert ui.run(["--tracking.uri", "http://tracking.example:5000/"]) == 0
    assert capsys.readouterr().out == "http://tracking.example:5000\n"


def test_a_folder_without_a_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Run `lightrail fit` first"):
        ui.run(["--tracking.uri", f"sqlite:///{tmp_path}/mlflow.db"])


def test_a_port_in_use_is_refused(store: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"--port {port} cannot be used .*in use"):
            ui.run(["--tracking.uri", store, "--port", str(port)])


def test_the_last_run_is_named_and_control_c_leaves_no_process(
    store: str, stand_in: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    start_run(TrackingConfig(uri=store), {}, {})
    last = start_run(TrackingConfig(uri=store), {}, {})
    before = set(psutil.Process().children(recursive=True))  # of tests that ran earlier
    children: list[psutil.Process] = []

    def interrupt(server: subprocess.Popen[bytes], address: str) -> None:
        wait(server, address)
        children.extend(set(psutil.Process().children(recursive=True)) - before)
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()

    wait = ui._wait_until_it_answers
    monkeypatch.setattr(ui, "_wait_until_it_answers", interrupt)
    assert ui.run(["--tracking.uri", store, "--port", "0"]) == 0
    assert last.address in capsys.readouterr().out
    assert len(children) == 2
    assert psutil.wait_procs(children, timeout=SECONDS_TO_HANG)[1] == []


def test_a_server_that_ends_is_reported(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ui, "_command", lambda *_: [sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(ConfigError, match="ended with status 3"):
        ui.run(["--tracking.uri", store, "--port", "0"])


@pytest.mark.filterwarnings("ignore")  # MLflow's own, while its server is imported
def test_mlflow_knows_every_option_and_listens_on_this_machine_only() -> None:
    from mlflow.cli import server as mlflow_server

    command = ui._command("sqlite:////somewhere/mlflow.db", 5000)
    known = {name for parameter in mlflow_server.params for name in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in command if word.startswith("--") and " " not in word} <= known
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert ui._environment()["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
