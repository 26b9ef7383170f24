"""What the tests of tracking share: a tiny training, and servers and folders behind which MLflow finds a store."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightrail.project.tracking.run import TrackedRun


class FarAway(LocalArtifactRepository):  # type: ignore[misc]
    """A folder behind a scheme of its own, which nobody but MLflow can read."""

    def __init__(self, artifact_uri: str, *arguments: object, **settings: object) -> None:
        super().__init__("file:" + artifact_uri.removeprefix("faraway:"), *arguments, **settings)


class Tiny(LightningModule):
    """Two numbers to a loss."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def training_step(self, batch: Tensor) -> Tensor:
        loss: Tensor = self.layer(batch).square().mean()
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(run: TrackedRun, *callbacks: Callback, num_steps: int = 2) -> None:
    trainer = Trainer(
        logger=run.logger,
        callbacks=list(callbacks),
        max_steps=num_steps,
        log_every_n_steps=1,
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    rows = [torch.tensor([float(number), 1.0]) for number in range(8)]
    trainer.fit(Tiny(), DataLoader(rows, batch_size=2))  # type: ignore[arg-type]


DIES_AFTER_LOGGING = """
import os, sys
from lightrail.project.tracking.run import TrackingConfig, start_run
run = start_run(TrackingConfig(uri=sys.argv[1]), {}, {})
run.logger.sender.close()  # nothing is sent in the background from here on
for step in range(1500):
    run.logger.log_metrics({"train/loss": step / 2, "lr": 0.1}, step)
print(run.run_id, flush=True)
os._exit(9)
"""


class StubServer(ThreadingHTTPServer):
    """Takes `log-batch` requests after it has refused the first ones."""

    daemon_threads = True

    def __init__(self, num_refusals: int) -> None:
        super().__init__(("127.0.0.1", 0), StubHandler)
        self.num_refusals = num_refusals
        self.metrics: list[tuple[str, int, float]] = []
        self.was_refused = threading.Event()


class StubHandler(BaseHTTPRequestHandler):
    server: StubServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.num_refusals -= 1
        is_refused = self.server.num_refusals >= 0
        if not is_refused:
            self.server.metrics += [(item["key"], int(item["step"]), item["value"]) for item in body["metrics"]]
        self.send_response(503 if is_refused else 200)
        self.end_headers()
        self.wfile.write(b"{}")
        if is_refused:
            self.server.was_refused.set()

    def log_message(self, *_: object) -> None:
        """Say nothing: the original writes each request to stderr."""
