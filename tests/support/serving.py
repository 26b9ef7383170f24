"""A server in a thread of the test, and models to serve that need no training."""

import json
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import requests
import torch
import uvicorn

from lightrail.datamodules.text_classification import TextClassificationData
from lightrail.project.basics.errors import DataError
from lightrail.project.models.engine import Engine
from lightrail.project.serving.command import server_of
from lightrail.project.serving.guard import Access
from lightrail.project.serving.limits import Limits
from lightrail.project.serving.loading import load_served
from lightrail.project.serving.routes import Served, build_app
from lightrail.project.tracking.settings import TrackingConfig

SECONDS_TO_HANG = 120


def loaded(checkpoint: Path, limits: Limits = Limits()) -> Served:
    return load_served(str(checkpoint), TrackingConfig(), limits, torch.device("cpu"), "32-true")


@dataclass
class Running:
    """A server that answers, or did."""

    url: str
    port: int
    server: uvicorn.Server
    thread: threading.Thread

    def post(self, path: str, body: Any, **options: Any) -> requests.Response:
        data = body if isinstance(body, bytes | str) else json.dumps(body)
        options = {"headers": {"content-type": "application/json"}, "timeout": SECONDS_TO_HANG, **options}
        return requests.post(f"{self.url}{path}", data=data, **options)

    def get(self, path: str, **options: Any) -> requests.Response:
        return requests.get(f"{self.url}{path}", timeout=SECONDS_TO_HANG, **options)

    def stop(self) -> None:
        """Have it take no more, and wait until it has answered what it took."""
        self.server.should_exit = True
        self.thread.join(SECONDS_TO_HANG)

    def count(self, status: int) -> float:
        """Number of requests that were answered with a status."""
        lines = self.get("/metrics").text.splitlines()
        counts = [
            line for line in lines if line.startswith("lightrail_requests_total") and f'status="{status}"' in line
        ]
        return sum(float(line.split()[-1]) for line in counts)


@contextmanager
def running(served: Served, limits: Limits = Limits(), access: Access = Access()) -> Iterator[Running]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = server_of(build_app(served, limits, access), limits)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        port = listener.getsockname()[1]
        found = Running(f"http://127.0.0.1:{port}", port, server, thread)
        thread.start()
        try:
            assert found.get("/ping").status_code == 200
            yield found
        finally:
            found.stop()
    assert not thread.is_alive()


@dataclass
class HeldEngine:
    """Answers texts with their lengths, once it is let go; it refuses `bad`, and fails at `worse`."""

    may_go: threading.Event = field(default_factory=threading.Event)
    has_begun: threading.Event = field(default_factory=threading.Event)
    batches: list[list[str]] = field(default_factory=list)
    data: Any = field(default_factory=lambda: TextClassificationData("none"))
    offers_candidates: bool = False

    def encode(self, inputs: Sequence[Any]) -> list[str]:
        if "bad" in inputs:
            raise DataError("input:1: it is bad. Give a good one.")
        return [own["text"] if isinstance(own, Mapping) else own for own in inputs]

    def predict(self, requested: Sequence[list[str]]) -> list[list[dict[str, Any]]]:
        self.batches.append([text for texts in requested for text in texts])
        self.has_begun.set()
        assert self.may_go.wait(SECONDS_TO_HANG)
        if any("worse" in texts for texts in requested):
            raise RuntimeError("a mistake of the program")
        return [[{"length": len(text)} for text in texts] for texts in requested]


def held(engine: HeldEngine) -> Served:
    return Served("held", "Lengths", cast(Engine, engine), None)
