"""Nothing that was logged is lost or doubled, whatever happens to the process or the store."""

import logging
import os
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from lightrail.project.tracking.journal import Ending, Journal
from lightrail.project.tracking.logger import MlflowLogger
from lightrail.project.tracking.recovery import close_dead_runs, send_pending
from lightrail.project.tracking.run import start_run
from lightrail.project.tracking.sender import Sent
from lightrail.project.tracking.settings import TrackingConfig
from lightrail.project.tracking.store import RunFolders
from tests.support.children import SECONDS_TO_HANG, Child
from tests.support.tracking import DIES_AFTER_LOGGING, StubServer


def steps(client: MlflowClient, run_id: str, key: str) -> list[int]:
    return [metric.step for metric in client.get_metric_history(run_id, key)]


def test_a_process_that_dies_at_once_loses_no_metric(store: str) -> None:
    dying = Child([store], program=DIES_AFTER_LOGGING)
    shown, errors = dying.communicate()
    assert dying.returncode == 9, errors
    run_id = shown.strip()
    client = MlflowClient(store)
    assert steps(client, run_id, "train/loss") == []
    assert send_pending(client, run_id).metrics == 3000
    assert send_pending(client, run_id) == Sent()
    assert steps(client, run_id, "train/loss") == list(range(1500))
    assert client.get_metric_history(run_id, "train/loss")[7].value == 3.5
    assert close_dead_runs(client) == [run_id]
    assert client.get_run(run_id).info.status == "FAILED"
    assert "the process died" in client.get_run(run_id).data.tags["lightrail.error"]
    assert close_dead_runs(client) == []


def test_a_run_whose_process_lives_is_left_alone(store: str) -> None:
    run = start_run(TrackingConfig(uri=store), {}, {})
    client = MlflowClient(store)
    assert close_dead_runs(client) == []
    assert client.get_run(run.run_id).info.status == "RUNNING"


def test_points_sent_twice_are_stored_once(store: str) -> None:
    run = start_run(TrackingConfig(uri=store), {}, {})
    for step in range(5):
        run.logger.log_metrics({"a": float(step), "b": float("nan"), "c": float("inf")}, step)
    run.logger.finalize("success")
    run.logger.journal.mark_sent(0)  # as after a kill between the store's answer and the mark
    client = MlflowClient(store)
    assert send_pending(client, run.run_id).metrics == 15
    assert all(steps(client, run.run_id, key) == list(range(5)) for key in "abc")


def test_a_store_that_is_gone_until_after_the_end_gets_metrics_and_status_later(
    store: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("lightrail.project.tracking.run.CLOSE_SECONDS", 0.3)
    run = start_run(TrackingConfig(uri=store), {}, {})
    with monkeypatch.context() as broken:
        broken.setattr(MlflowClient, "log_batch", refuse)
        with run.status():
            run.logger.log_metrics({"train/loss": 1.0, "lr": 0.5}, step=4)
            run.logger.finalize("success")
    assert f"2 metrics and the status are pending in {run.logger.journal.path}" in caplog.text
    client = MlflowClient(store)
    assert client.get_run(run.run_id).info.status == "RUNNING"
    assert send_pending(client, run.run_id).metrics == 2
    assert client.get_run(run.run_id).info.status == "FINISHED"
    assert steps(client, run.run_id, "lr") == [4]


def refuse(*args: object, **kwargs: object) -> None:
    raise MlflowException("the server is away")


@pytest.fixture
def away_for_a_while(monkeypatch: pytest.MonkeyPatch) -> Iterator[StubServer]:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with StubServer(num_refusals=3) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


def logger_for(uri: str, folder: Path) -> MlflowLogger:
    folders = RunFolders(folder / "artifacts", folder / "metrics.jsonl", is_store=True)
    return MlflowLogger(uri, "a" * 32, folders, {})


def test_a_server_that_comes_back_gets_every_metric_once(
    away_for_a_while: StubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    logger = logger_for(f"http://127.0.0.1:{away_for_a_while.server_port}", tmp_path)
    for step in range(700):
        logger.log_metrics({"train/loss": float(step), "lr": 0.1}, step)
    logger.finalize("success")  # the first attempt fails: it does not wait for more
    assert away_for_a_while.was_refused.wait(SECONDS_TO_HANG)
    for step in range(700, 900):
        logger.log_metrics({"train/loss": float(step), "lr": 0.1}, step)
    assert logger.sender.flush(timeout_seconds=SECONDS_TO_HANG, keep_trying=True)
    assert sorted(away_for_a_while.metrics) == sorted(
        [("train/loss", step, float(step)) for step in range(900)] + [("lr", step, 0.1) for step in range(900)]
    )
    assert caplog.text.count("does not respond") == 1
    assert "responds again" in caplog.text
    logger.sender.close()


def test_a_server_that_never_responds_stops_nothing_and_all_is_on_disk(tmp_path: Path) -> None:
    logger = logger_for("http://127.0.0.1:9", tmp_path)
    for step in range(300):
        logger.log_metrics({"train/loss": float(step)}, step)
        logger.save()
    assert not logger.sender.flush(timeout_seconds=0.2, keep_trying=True)
    logger.sender.close()
    assert Journal(tmp_path / "metrics.jsonl").count_unsent() == 300


def test_the_logger_travels_to_another_process_and_steps_stay_in_order(store: str) -> None:
    run = start_run(TrackingConfig(uri=store), {}, {})
    run.logger.log_metrics({"train/loss": 1.0}, step=5)
    arrived: MlflowLogger = pickle.loads(pickle.dumps(run.logger))
    arrived.log_metrics({"train/loss": 2.0}, step=5)
    arrived.log_metrics({"train/loss": 3.0}, step=6)
    arrived.finalize("success")
    assert steps(MlflowClient(store), run.run_id, "train/loss") == [5, 6]


def test_a_number_that_is_lost_with_its_device_keeps_nothing_else_back(
    store: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> float:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr("lightrail.project.tracking.sender._read_later", lambda _: fail)
    run = start_run(TrackingConfig(uri=store), {}, {})
    with run.status():
        run.logger.log_metrics({"train/loss": torch.zeros((), device="meta")}, step=1)
        run.logger.log_metrics({"train/loss": 2.0}, step=2)
    client = MlflowClient(store)
    assert steps(client, run.run_id, "train/loss") == [2]
    assert client.get_run(run.run_id).info.status == "FINISHED"
    assert "train/loss of step 1 is lost with its device (CUDA error" in caplog.text


def test_tags_are_set_in_order_and_wait_for_a_store_that_is_away(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = start_run(TrackingConfig(uri=store), {}, {})
    client = MlflowClient(store)
    with monkeypatch.context() as broken:
        broken.setattr(MlflowClient, "log_batch", refuse)
        for number in range(120):
            run.set_tags({"last": str(number), f"tag{number}": "yes"})
        assert not run.logger.sender.flush(timeout_seconds=1)
    assert "last" not in client.get_run(run.run_id).data.tags
    assert run.logger.sender.flush(timeout_seconds=SECONDS_TO_HANG, keep_trying=True)
    tags = client.get_run(run.run_id).data.tags
    assert tags["last"] == "119"
    assert all(tags[f"tag{number}"] == "yes" for number in range(120))
    with pytest.raises(ValueError, match="tag 'a@b'"):
        run.set_tags({"a@b": "no"})


class TestJournal:
    def test_batches_hold_at_most_n_points_and_the_ending_comes_last(self, tmp_path: Path) -> None:
        journal = Journal(tmp_path / "metrics.jsonl")
        for step in range(10):
            journal.append_metrics({"a": 1.0, "b": 2.0, "c": 3.0}, step, time=step)
        journal.append_ending(Ending("FAILED", "Error: why", time=11))
        batches = list(journal.batches(max_points=7))
        assert [len(batch.points) for batch in batches] == [6, 6, 6, 6, 6]
        assert batches[-1].ending == Ending("FAILED", "Error: why", 11)
        journal.mark_sent(batches[1].end)
        assert [point.step for point in next(journal.batches(7)).points[::3]] == [4, 5]
        journal.mark_sent(batches[-1].end)
        assert journal.is_sent
        assert list(journal.batches(7)) == []

    def test_a_pipe_in_the_place_of_the_mark_is_no_mark(self, tmp_path: Path) -> None:
        journal = Journal(tmp_path / "metrics.jsonl")
        journal.append_metrics({"a": 1.0}, 1, time=1)
        os.mkfifo(tmp_path / "metrics.sent")
        assert [batch.points[0].value for batch in journal.batches(7)] == [1.0]
        journal.mark_sent(next(journal.batches(7)).end)
        assert Journal(tmp_path / "metrics.jsonl").is_sent

    @pytest.mark.parametrize("mark", ["10711071", "-7", "1e3", "9" * 5000])
    def test_a_mark_outside_of_the_journal_is_no_mark(self, tmp_path: Path, mark: str) -> None:
        journal = Journal(tmp_path / "metrics.jsonl")
        journal.append_metrics({"a": 1.0}, 1, time=1)
        (tmp_path / "metrics.sent").write_text(mark)
        assert not journal.is_sent  # else the next records count as sent, and a run stays RUNNING for ever
        assert [batch.points[0].value for batch in journal.batches(7)] == [1.0]

    def test_half_a_line_is_passed_over_and_the_next_one_is_whole(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = tmp_path / "metrics.jsonl"
        path.write_text('{"time": 1, "step": 1, "metrics": {"a": 1.0}}\n{"time": 2, "st')
        assert [point.step for batch in Journal(path).batches(9) for point in batch.points] == [1]
        Journal(path).append_metrics({"a": 3.0}, step=3, time=3)
        assert [point.step for batch in Journal(path).batches(9) for point in batch.points] == [1, 3]
        assert "skipped an invalid record of 16 bytes" in caplog.text
