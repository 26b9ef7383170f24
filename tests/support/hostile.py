"""A tracking server that answers as an attacker would: with paths, sizes, pages and bodies of its own choice."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

RUN_ID = "0123456789abcdef0123456789abcdef"
API, FILES = "/api/2.0/mlflow/", "/api/2.0/mlflow-artifacts/artifacts"
Answer = dict[str, Any] | bytes | Callable[["Handler"], None]


class HostileServer(ThreadingHTTPServer):
    """Speaks as much of MLflow's REST API as lightrail uses, for one experiment with one run.

    A test changes `run`, `experiment`, `artifacts` or `sizes`, or replaces the answer of an endpoint in `answers`.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self.server_port}"
        self.experiment = {
            "experiment_id": "1",
            "name": "lightrail",
            "artifact_location": "mlflow-artifacts:/1",
            "lifecycle_stage": "active",
        }
        self.info: dict[str, Any] = {
            "run_id": RUN_ID,
            "run_uuid": RUN_ID,
            "run_name": "bold",
            "experiment_id": "1",
            "status": "FINISHED",
            "start_time": 1_700_000_000_000,
            "artifact_uri": f"mlflow-artifacts:/1/{RUN_ID}/artifacts",
            "lifecycle_stage": "active",
        }
        self.tags: dict[str, str] = {"lightrail.kind": "fit"}
        self.metrics: dict[str, float] = {}
        self.artifacts: dict[str, bytes] = {}
        """Contents by path within the run."""
        self.sizes: dict[str, int] = {}
        """Sizes that the listing claims, where they are not the true ones."""
        self.answers: dict[str, Answer] = {}
        """Answers by the end of the path, in the place of the usual ones."""
        self.requests: list[str] = []
        self.is_over = threading.Event()

    @property
    def run(self) -> dict[str, Any]:
        tags = [{"key": key, "value": value} for key, value in self.tags.items()]
        metrics = [{"key": key, "value": value, "timestamp": 1, "step": 0} for key, value in self.metrics.items()]
        return {"info": self.info, "data": {"tags": tags, "metrics": metrics}}

    def usual(self, path: str) -> Answer:
        """Return the answer of a harmless server."""
        if path.startswith(f"{API}runs/search"):
            return {"runs": [self.run]}
        if path.startswith((f"{API}runs/get", f"{API}runs/create")):
            return {"run": self.run}
        if path.startswith(f"{API}experiments/search"):
            return {"experiments": [self.experiment]}
        if path.startswith(f"{API}experiments/get"):
            return {"experiment": self.experiment}
        if path.startswith(f"{API}metrics/get-history"):
            return {"metrics": [{"key": "loss", "value": 1.0, "timestamp": 1, "step": 1}]}
        return {}

    def listing(self, folder: str) -> Answer:
        """Return the files and folders directly in a folder."""
        inside = folder.partition(f"/{RUN_ID}/artifacts")[2].strip("/")
        start = f"{inside}/" if inside else ""
        below = [name.removeprefix(start) for name in self.artifacts if name.startswith(start)]
        files = [name for name in below if "/" not in name]
        folders = {name.partition("/")[0] for name in below if "/" in name}
        sizes = {name: self.sizes.get(start + name, len(self.artifacts[start + name])) for name in files}
        found = [{"path": name, "is_dir": False, "file_size": str(sizes[name])} for name in files]
        return {"files": [*found, *({"path": name, "is_dir": True} for name in sorted(folders))]}


class Handler(BaseHTTPRequestHandler):
    """Answers each request as its server says."""

    server: HostileServer

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def do_PATCH(self) -> None:
        self._answer()

    def send(self, body: bytes, status: int = 200, **headers: str) -> None:
        """Send a whole answer."""
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def send_for_ever(self, part: bytes, pause_seconds: float = 0.0, **headers: str) -> None:
        """Send a body without an end, until the client or the test leaves."""
        self.send_response(200)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        while not self.server.is_over.wait(pause_seconds):
            self.wfile.write(part)

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        self.server.requests.append(f"{self.command} {path}")
        answer = next((own for end, own in self.server.answers.items() if path.endswith(end)), None)
        if answer is None and path.rstrip("/") == FILES:
            answer = self.server.listing(parse_qs(parts.query).get("path", [""])[0])
        elif answer is None and path.startswith(f"{FILES}/") and self.command == "GET":
            answer = self.server.artifacts.get(path.partition(f"/{RUN_ID}/artifacts/")[2])
            if answer is None:
                return self.send(b'{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such file"}', 404)
        answer = self.server.usual(path) if answer is None else answer
        try:
            if callable(answer):
                answer(self)
            else:
                self.send(answer if isinstance(answer, bytes) else json.dumps(answer).encode())
        except OSError:  # the client has left
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing: the original writes each request to stderr."""


@contextmanager
def hostile_server() -> Iterator[HostileServer]:
    """Run a server on a free port."""
    with HostileServer() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.is_over.set()
        server.shutdown()
