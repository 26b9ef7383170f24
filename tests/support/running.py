"""Runs a command as a person does, in this process, and reads the run it made back from MLflow."""

import io
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet
import torch
from mlflow import MlflowClient
from mlflow.entities import Run

from lightrail.project.cli import run
from tests.support.tasks.pinyin import TINY, write_sentences
from tests.support.tasks.text_classification import write_texts

FOUR_STEPS = [
    "--trainer.max_steps=4",
    "--trainer.val_check_interval=2",
    "--trainer.check_val_every_n_epoch=null",
    "--trainer.log_every_n_steps=1",
    "--data.batch.max_tokens=null",
    "--data.batch.size=4",
]
QUIET = [
    "--trainer.accelerator=cpu",
    "--trainer.precision=32-true",
    "--trainer.enable_progress_bar=false",
    "--tracking.checkpoint.keep_resume_state=true",  # for tests that look at the weights of the last step
]


@dataclass(frozen=True)
class Outcome:
    """How a command ended, and what it said."""

    status: int
    out: str
    err: str

    @property
    def last_line(self) -> str:
        return self.out.splitlines()[-1]

    @property
    def run_id(self) -> str:
        """Of a command whose last line names its run."""
        return self.last_line.split()[1]

    @property
    def metrics(self) -> dict[str, float]:
        """What the last line tells, to the digits it tells."""
        return {name: float(value) for name, value in (word.split("=") for word in self.last_line.split()[3:])}


def lightrail(*arguments: str) -> Outcome:
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        status = run(arguments)
    return Outcome(status, out.getvalue(), err.getvalue())


@dataclass(frozen=True)
class RecordedRun:
    """A run in a store."""

    store: str
    run_id: str

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.store)

    @property
    def status(self) -> str:
        return str(self.client.get_run(self.run_id).info.status)

    @property
    def tags(self) -> Mapping[str, str]:
        return dict(self.client.get_run(self.run_id).data.tags)

    @property
    def params(self) -> Mapping[str, str]:
        return dict(self.client.get_run(self.run_id).data.params)

    @property
    def metrics(self) -> Mapping[str, float]:
        return dict(self.client.get_run(self.run_id).data.metrics)

    @property
    def directory(self) -> Path:
        return Path(self.client.get_run(self.run_id).info.artifact_uri.removeprefix("file://"))

    @property
    def predictions(self) -> pa.Table:
        return pa.parquet.read_table(self.directory / "predictions" / "test.parquet")

    def history(self, name: str) -> list[tuple[int, float]]:
        return [(point.step, point.value) for point in self.client.get_metric_history(self.run_id, name)]

    def histories(self) -> dict[str, list[tuple[int, float]]]:
        """Every metric but those that tell the time."""
        return {name: self.history(name) for name in self.metrics if not name.startswith(("throughput/", "system/"))}

    def checkpoint(self, name: Literal["best", "last"]) -> dict[str, Any]:
        path = self.directory / "checkpoints" / f"{name}.ckpt"
        checkpoint: dict[str, Any] = torch.load(path, weights_only=True)
        return checkpoint

    def weights(self, name: Literal["best", "last"] = "last") -> dict[str, torch.Tensor]:
        weights: dict[str, torch.Tensor] = self.checkpoint(name)["state_dict"]
        return weights


@dataclass(frozen=True)
class Fitted(RecordedRun):
    """A run that `lightrail fit` made, and how it was called."""

    arguments: list[str]
    folder: Path
    outcome: Outcome


def fit_pinyin(folder: Path, store: str) -> Fitted:
    folder.mkdir()
    arguments = [*TINY, *write_sentences(folder), *FOUR_STEPS, *QUIET, f"--tracking.uri={store}"]
    outcome = lightrail("fit", *arguments)
    return Fitted(store, outcome.run_id, arguments, folder, outcome)


def fit_classifier(folder: Path, store: str) -> Fitted:
    folder.mkdir()
    sizes = ["width=16", "depth=1", "num_heads=2", "ngram_orders=[2]", "ngram_buckets=64", "ngram_width=8"]
    network = [*(f"--model.encoder.{size}" for size in sizes), "--model.optim.lr=0.01"]
    data = [*write_texts(folder), "--data.tokenizer=words", "--data.min_count=1"]
    arguments = [*data, *network, *FOUR_STEPS, *QUIET, f"--tracking.uri={store}"]
    outcome = lightrail("fit", *arguments)
    return Fitted(store, outcome.run_id, arguments, folder, outcome)


def found_in(store: str) -> list[Run]:
    """Every run, the first first, as the store gives them at this moment."""
    client = MlflowClient(store)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(experiments, order_by=["attributes.start_time ASC"]))


def runs_in(store: str) -> list[RecordedRun]:
    """Every run, the first first."""
    return [RecordedRun(store, run.info.run_id) for run in found_in(store)]


def same_weights(one: RecordedRun, other: RecordedRun) -> bool:
    """Whether the last weights are equal to the last bit."""
    first, second = one.weights(), other.weights()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
