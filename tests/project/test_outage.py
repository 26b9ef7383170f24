"""Training goes on while its store is away, and the store has everything once afterwards."""

import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import ClassVar

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from mlflow import MlflowClient
from torch import Tensor

from lightrail.project.cli import main
from lightrail.project.tracking.logger import MlflowLogger
from lightrail.project.tracking.recovery import waiting_runs
from lightrail.project.tracking.run import start_run
from lightrail.project.tracking.settings import TrackingConfig
from tests.support.children import SECONDS_TO_HANG
from tests.support.running import QUIET, Outcome, lightrail
from tests.support.servers import MlflowServer, Postgres, running_postgres
from tests.support.tasks.pinyin import TINY, write_sentences

NUM_STEPS = 16
SETTINGS = [
    *(f"--trainer.max_steps={NUM_STEPS}", "--trainer.log_every_n_steps=1", "--trainer.val_check_interval=4"),
    *("--trainer.check_val_every_n_epoch=null", "--data.batch.max_tokens=null", "--data.batch.size=4"),
    *("--allow_modules=tests.project.test_outage", "--trainer.callbacks=Story"),
]
SECONDS_OF_A_REQUEST = 4.0
"""What a call that waits for a server that hangs takes."""


class Story(Callback):
    """Does what a test wants at the end of steps."""

    happens: ClassVar[Mapping[int, Callable[[], None]]] = {}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        self.happens.get(trainer.global_step, lambda: None)()


@pytest.fixture(autouse=True)
def _impatient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", str(int(SECONDS_OF_A_REQUEST)))
    monkeypatch.setattr("lightrail.project.tracking.run.CLOSE_SECONDS", 3.0)


@pytest.fixture(scope="module")
def shared_server(store_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    folder = tmp_path_factory.mktemp("server")
    file = shutil.copy(store_template, folder / "mlflow.db")
    server = MlflowServer(f"sqlite:///{file}", folder / "artifacts")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def log_seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long each call that logs takes."""
    seconds: list[float] = []
    original = MlflowLogger.log_metrics

    def measured(self: MlflowLogger, metrics: Mapping[str, float | Tensor], step: int | None = None) -> None:
        began = time.perf_counter()
        original(self, metrics, step)
        seconds.append(time.perf_counter() - began)

    monkeypatch.setattr(MlflowLogger, "log_metrics", measured)
    return seconds


def fit(folder: Path, uri: str, happens: Mapping[int, Callable[[], None]], monkeypatch: pytest.MonkeyPatch) -> Outcome:
    monkeypatch.setattr(Story, "happens", happens)
    return lightrail("fit", *TINY, *write_sentences(folder), *SETTINGS, *QUIET, f"--tracking.uri={uri}")


def until_it_is_missed(caplog: pytest.LogCaptureFixture) -> Callable[[], None]:
    """Return what holds a step until the run has noticed that its store is away."""

    def wait() -> None:
        deadline = time.monotonic() + SECONDS_TO_HANG
        while "does not respond" not in caplog.text:
            assert time.monotonic() < deadline, "nothing was sent meanwhile"
            time.sleep(0.05)

    return wait


def until_uploaded(uri: str) -> Callable[[], None]:
    """Return what holds a step until the server has the last checkpoint of the newest run."""

    def wait() -> None:
        client, deadline = MlflowClient(uri), time.monotonic() + SECONDS_TO_HANG
        run_id = client.search_runs(["1"], order_by=["attributes.start_time DESC"], max_results=1)[0].info.run_id
        while "checkpoints/last.ckpt" not in [item.path for item in client.list_artifacts(run_id, "checkpoints")]:
            assert time.monotonic() < deadline, "the checkpoint of step 4 is not in the store"
            time.sleep(0.1)

    return wait


def check_whole(uri: str, run_id: str) -> None:
    """See that the store has each metric, tag and file of the run once, and its status."""
    client = MlflowClient(uri)
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    steps = {key: sorted(point.step for point in client.get_metric_history(run_id, key)) for key in run.data.metrics}
    assert steps["train/loss"] == list(range(1, NUM_STEPS + 1))
    assert steps["val/loss"] == [4, 8, 12, 16]
    assert any(key.startswith("test/") for key in steps)
    assert all(len(own) == len(set(own)) for own in steps.values())
    assert "mlflow.note.content" in run.data.tags
    files = {item.path for folder in ("checkpoints", "predictions") for item in client.list_artifacts(run_id, folder)}
    assert files >= {"checkpoints/best.ckpt", "checkpoints/last.ckpt", "predictions/test.parquet"}


def test_training_continues_while_the_server_hangs_dies_and_comes_back(
    tmp_path: Path,
    shared_server: MlflowServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    log_seconds: list[float],
) -> None:
    is_missed = until_it_is_missed(caplog)
    happens = {3: shared_server.hang, 8: is_missed, 9: shared_server.kill, 13: shared_server.start}
    done = fit(tmp_path, shared_server.uri, happens, monkeypatch)
    assert done.status == 0, done.err
    check_whole(shared_server.uri, done.run_id)
    assert waiting_runs() == []
    assert len(log_seconds) >= NUM_STEPS
    assert max(log_seconds) < SECONDS_OF_A_REQUEST / 2
    assert median(log_seconds) < 0.05


def test_a_server_that_stays_away_gets_everything_later_and_once(
    tmp_path: Path, shared_server: MlflowServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    happens = {5: until_uploaded(shared_server.uri), 6: shared_server.kill}
    done = fit(tmp_path, shared_server.uri, happens, monkeypatch)
    assert done.status == 0, done.err
    assert f"`lightrail sync --tracking.uri {shared_server.uri}`" in caplog.text
    assert [run.run_id for run in waiting_runs()] == [done.run_id]
    sync = ["sync", f"--tracking.uri={shared_server.uri}"]
    refused = lightrail(*sync)
    assert (refused.status, refused.out) == (2, "")
    shared_server.start()
    sent = lightrail(*sync)
    assert sent.status == 0, sent.err
    assert re.fullmatch(rf"run {done.run_id}: sent \d+ metrics, 1 tag, \d+ artifacts, status FINISHED\n", sent.out), (
        sent.out
    )
    check_whole(shared_server.uri, done.run_id)
    again = lightrail(*sync)
    assert (again.status, again.out) == (0, f"nothing is pending for {shared_server.uri}\n")


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    with running_postgres() as running:
        yield running


def test_training_continues_while_the_database_behind_the_server_is_away(
    tmp_path: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server = MlflowServer(postgres.uri, tmp_path / "artifacts")
    server.start()
    try:
        happens = {3: postgres.kill, 12: until_it_is_missed(caplog), 13: postgres.start}
        done = fit(tmp_path, server.uri, happens, monkeypatch)
        assert done.status == 0, done.err
        check_whole(server.uri, done.run_id)
        assert waiting_runs() == []
    finally:
        server.kill()


def test_a_run_is_resumed_on_another_machine(
    tmp_path: Path, shared_server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fit(tmp_path, shared_server.uri, {}, monkeypatch)
    client = MlflowClient(shared_server.uri)

    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Story, "happens", {6: until_uploaded(shared_server.uri), 10: interrupt})
    arguments = [*TINY, *write_sentences(tmp_path), *SETTINGS, *QUIET, f"--tracking.uri={shared_server.uri}"]
    assert main(["fit", *arguments]) == 130
    run_id = client.search_runs(["1"], order_by=["attributes.start_time DESC"], max_results=1)[0].info.run_id
    assert client.get_run(run_id).info.status == "KILLED"
    monkeypatch.setattr(Story, "happens", {})
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "elsewhere"))
    allow = "--allow_modules=tests.project.test_outage"
    again = lightrail("resume", run_id, f"--tracking.uri={shared_server.uri}", allow)
    assert again.status == 0, again.err
    assert (again.run_id, again.metrics) == (run_id, whole.metrics)
    check_whole(shared_server.uri, run_id)
    for name in ("train/loss", "val/loss"):
        first, second = (
            [(point.step, point.value) for point in client.get_metric_history(own, name)]
            for own in (whole.run_id, run_id)
        )
        assert first == second


def test_a_finished_run_leaves_no_state_for_resuming_on_the_server(
    shared_server: MlflowServer, store: str, tmp_path: Path
) -> None:
    run = start_run(TrackingConfig(uri=shared_server.uri), {}, {})
    for name in ("best.ckpt", "last.ckpt"):
        full = {"state_dict": {"weight": torch.ones(3)}, "optimizer_states": [1]}
        torch.save(full, run.directory / "checkpoints" / name)
        run.upload_soon(f"checkpoints/{name}")
    with run.status():
        pass
    client = MlflowClient(shared_server.uri)
    kept = {item.path for item in client.list_artifacts(run.run_id, "checkpoints")}
    assert kept == {"checkpoints/best.ckpt", "checkpoints/run.json"}
    downloaded = client.download_artifacts(run.run_id, "checkpoints/best.ckpt", str(tmp_path))
    assert set(torch.load(downloaded, weights_only=True)) == {"state_dict"}
    assert not (run.directory / "checkpoints" / "last.ckpt").exists()
