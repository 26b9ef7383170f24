"""`lightrail sync`, after a store was away at the end of a run or a process died."""

import shutil
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import _artifact_repository_registry

from lightrail.project.tracking.recovery import waiting_runs
from lightrail.project.tracking.run import TrackedRun, start_run
from lightrail.project.tracking.settings import TrackingConfig
from lightrail.project.tracking.store import state_folder
from tests.support.children import Child
from tests.support.running import lightrail
from tests.support.tracking import DIES_AFTER_LOGGING, FarAway


@pytest.fixture
def client(store: str) -> MlflowClient:
    return MlflowClient(store)


def refuse(*_: object, **__: object) -> None:
    raise MlflowException("the server is away")


def end_while_the_store_is_away(run: TrackedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Log three metrics, a tag, a file and the end."""
    monkeypatch.setattr("lightrail.project.tracking.run.CLOSE_SECONDS", 0.3)
    with monkeypatch.context() as away:
        for name in ("log_batch", "log_artifact", "set_terminated"):
            away.setattr(MlflowClient, name, refuse)
        with run.status():
            for step in (1, 2, 3):
                run.logger.log_metrics({"loss": float(step)}, step)
            run.set_tags({"mine": "yes"})
            (run.directory / "figures").mkdir()
            (run.directory / "figures" / "curve.png").write_bytes(b"picture")


def test_what_waited_for_a_local_store_is_sent_once(
    store: str, client: MlflowClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = start_run(TrackingConfig(uri=store), {}, {})
    end_while_the_store_is_away(run, monkeypatch)
    assert f"`lightrail sync --tracking.uri {store}`" in caplog.text
    done = lightrail("sync", f"--tracking.uri={store}")
    assert (done.status, done.out) == (0, f"run {run.run_id}: sent 3 metrics, 1 tag, status FINISHED\n")
    found = client.get_run(run.run_id)
    assert (found.info.status, found.data.tags["mine"]) == ("FINISHED", "yes")
    assert [point.step for point in client.get_metric_history(run.run_id, "loss")] == [1, 2, 3]
    done = lightrail("sync", f"--tracking.uri={store}")
    assert (done.status, done.out) == (0, f"nothing is pending for {store}\n")
    assert waiting_runs() == []


def test_artifacts_that_waited_for_a_remote_store_come_before_the_status(
    store: str, client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_artifact_repository_registry._registry, "faraway", FarAway)
    client.create_experiment("lightrail", artifact_location=f"faraway://{tmp_path}/remote")
    run = start_run(TrackingConfig(uri=store), {}, {})
    end_while_the_store_is_away(run, monkeypatch)
    with monkeypatch.context() as away:
        away.setattr(MlflowClient, "log_artifact", refuse)
        done = lightrail("sync", f"--tracking.uri={store}")
    assert (done.status, done.out) == (1, f"run {run.run_id}: not sent, the server is away\n")
    assert client.get_run(run.run_id).info.status == "RUNNING"
    done = lightrail("sync", f"--tracking.uri={store}")
    assert done.status == 0
    assert "1 artifact, status FINISHED" in done.out
    assert [item.path for item in client.list_artifacts(run.run_id, "figures")] == ["figures/curve.png"]
    assert {path.name for path in run.directory.parent.iterdir()} == {"artifacts"}


def test_the_end_of_a_run_waits_for_a_file_that_takes_long_to_send(
    store: str, client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_artifact_repository_registry._registry, "faraway", FarAway)
    monkeypatch.setattr("lightrail.project.tracking.run.CLOSE_SECONDS", 2.0)
    client.create_experiment("lightrail", artifact_location=f"faraway://{tmp_path}/remote")
    run = start_run(TrackingConfig(uri=store), {}, {})
    send = MlflowClient.log_artifact

    def send_slowly(*arguments: object) -> None:
        time.sleep(4)
        send(*arguments)

    (run.directory / "large.bin").write_bytes(b"1")
    monkeypatch.setattr(MlflowClient, "log_artifact", send_slowly)
    with run.status():
        pass
    assert client.get_run(run.run_id).info.status == "FINISHED"
    assert "large.bin" in [item.path for item in client.list_artifacts(run.run_id)]
    assert waiting_runs() == []


def test_a_run_whose_process_died_is_closed_and_one_that_lives_is_left_alone(store: str, client: MlflowClient) -> None:
    dead = Child([store], program=DIES_AFTER_LOGGING).communicate()[0].strip()
    alive = start_run(TrackingConfig(uri=store), {}, {})
    assert client.get_run(dead).info.status == "FAILED"  # closed by the start of another
    client.update_run(dead, status="RUNNING")
    done = lightrail("sync", f"--tracking.uri={store}")
    assert (done.status, done.out) == (0, f"run {dead}: sent status FAILED\n")
    assert client.get_run(alive.run_id).info.status == "RUNNING"
    assert [run.run_id for run in waiting_runs()] == [alive.run_id]


@pytest.mark.parametrize("lost", ["note", "status"])
def test_a_journal_is_found_though_the_note_or_the_status_is_lost(
    store: str, client: MlflowClient, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    run = start_run(TrackingConfig(uri=store), {}, {})
    end_while_the_store_is_away(run, monkeypatch)
    if lost == "note":
        shutil.rmtree(state_folder() / "waiting")
    client.set_terminated(run.run_id, "KILLED")
    assert "sent 3 metrics" in lightrail("sync", f"--tracking.uri={store}").out
    assert client.get_run(run.run_id).info.status == "FINISHED"


def test_a_run_is_sent_to_its_own_store_alone(
    store: str, store_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start_run(TrackingConfig(uri=store), {}, {})
    end_while_the_store_is_away(run, monkeypatch)
    (tmp_path / "other").mkdir()
    other = f"sqlite:///{shutil.copy(store_template, tmp_path / 'other' / 'mlflow.db')}"
    done = lightrail("sync", f"--tracking.uri={other}")
    assert (done.status, done.out) == (
        0,
        f"nothing is pending for {other}\n1 run is pending for another store: --tracking.uri {store}\n",
    )
    assert not run.logger.journal.is_sent


def test_a_run_that_the_store_has_no_more_is_reported_and_does_not_stop_the_others(
    store: str, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [start_run(TrackingConfig(uri=store), {}, {}) for _ in range(2)]
    for run in runs:
        end_while_the_store_is_away(run, monkeypatch)
    client.delete_run(runs[0].run_id)
    done = lightrail("sync", f"--tracking.uri={store}")
    assert done.status == 1
    assert f"run {runs[0].run_id}: not sent, " in done.out
    assert f"run {runs[1].run_id}: sent 3 metrics" in done.out


def test_a_store_that_does_not_respond_and_an_unknown_setting_are_refused() -> None:
    done = lightrail("sync", "--tracking.uri=http://me:secret@127.0.0.1:9")
    assert done.status == 2
    assert "http://me:***@127.0.0.1:9 does not respond" in done.err
    done = lightrail("sync", "--tracking.url=x")
    assert (done.status, done.err) == (
        2,
        "lightrail: error: lightrail sync: no option --tracking.url. Did you mean --tracking.uri?\n",
    )
