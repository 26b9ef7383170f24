"""A run has one process at a time, one point per metric and step, and goes on whole on any machine."""

import os
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.store.artifact.artifact_repository_registry import _artifact_repository_registry

from lightrail.project.basics.errors import ConfigError
from lightrail.project.tracking.journal import Ending, Journal
from lightrail.project.tracking.processes import PROCESS_TAG, RunLock, owner_of, process_tag
from lightrail.project.tracking.recovery import close_dead_runs, ran_here, send_pending
from lightrail.project.tracking.run import TrackedRun, continue_run, start_run
from lightrail.project.tracking.settings import TrackingConfig
from tests.support.children import Child
from tests.support.tracking import FarAway

HOLDS_A_RUN = """
import sys, time
from lightrail.project.tracking.run import start_run
from lightrail.project.tracking.settings import TrackingConfig
run = start_run(TrackingConfig(uri=sys.argv[1]), {"a": 1}, {})
run.logger.log_metrics({"loss": 1.0}, step=1)
print(run.run_id, flush=True)
time.sleep(600)
"""
TRIES_A_LOCK = """
import sys
from pathlib import Path
from lightrail.project.tracking.processes import RunLock
lock = RunLock(Path(sys.argv[1]))
print(lock.acquire(), lock.holder())
"""
ELSEWHERE = "otherhost/01234567 4242 1700000000"


@pytest.fixture
def config(store: str) -> TrackingConfig:
    return TrackingConfig(uri=store)


@pytest.fixture
def client(store: str) -> MlflowClient:
    return MlflowClient(store)


@pytest.fixture
def remote(client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Artifacts of new runs go where only MlflowClient reaches them, so that their journal is in the state folder."""
    monkeypatch.setitem(_artifact_repository_registry._registry, "faraway", FarAway)
    client.create_experiment("lightrail", artifact_location=f"faraway://{tmp_path}/remote")


@pytest.fixture
def other_process(store: str) -> Child:
    """A process with a run, whose id is the first line it prints."""
    return Child([store], program=HOLDS_A_RUN)


def log_and_fail(run: TrackedRun, *steps: int) -> None:
    with pytest.raises(RuntimeError), run.status():
        _log_and_raise(run, steps)


def _log_and_raise(run: TrackedRun, steps: tuple[int, ...]) -> None:
    for step in steps:
        run.logger.log_metrics({"loss": float(step)}, step)
    raise RuntimeError("broken")


def history(client: MlflowClient, run_id: str, key: str = "loss") -> list[int]:
    return sorted(point.step for point in client.get_metric_history(run_id, key))


def test_a_run_of_a_living_process_cannot_be_resumed_and_one_of_a_dead_process_can(
    other_process: Child, config: TrackingConfig, client: MlflowClient
) -> None:
    run_id = other_process.first_line()
    with pytest.raises(ConfigError, match=rf"run {run_id} is still running \(process {other_process.pid} on this"):
        continue_run(run_id, config, force=True)
    assert close_dead_runs(client) == []
    other_process.close()
    run = continue_run(run_id, config)
    with run.status():
        run.logger.log_metrics({"loss": 2.0}, step=2)
    assert history(client, run_id) == [1, 2]
    found = client.get_run(run_id)
    assert (found.info.status, found.data.params) == ("FINISHED", {"a": "1"})


def test_a_run_that_another_process_is_closing_is_waited_for(
    other_process: Child, config: TrackingConfig, tmp_path: Path
) -> None:
    run_id = other_process.first_line()
    other_process.close()
    holds_the_lock = (
        "import sys, time; from pathlib import Path; from lightrail.project.tracking.processes import RunLock\n"
        "print(RunLock(Path(sys.argv[1])).acquire(), flush=True); time.sleep(0.5)"
    )
    lock = tmp_path / "mlruns" / "lightrail" / run_id / "run.lock"
    assert Child([lock], program=holds_the_lock).first_line() == "True"
    with continue_run(run_id, config).status():
        pass


def test_a_living_process_counts_though_somebody_removed_its_lock(
    other_process: Child, config: TrackingConfig, tmp_path: Path
) -> None:
    run_id = other_process.first_line()
    (tmp_path / "mlruns" / "lightrail" / run_id / "run.lock").unlink()
    with pytest.raises(ConfigError, match=rf"still running \(process {other_process.pid} on this machine\)"):
        continue_run(run_id, config, force=True)


def test_a_run_of_this_process_cannot_be_resumed_before_its_end(config: TrackingConfig) -> None:
    run = start_run(config, {}, {})
    with pytest.raises(ConfigError, match=rf"still running \(process {os.getpid()} on this machine\)"):
        continue_run(run.run_id, config)
    log_and_fail(run, 1)
    with continue_run(run.run_id, config).status():
        pass


def test_a_lock_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.lock").mkdir()
    with pytest.raises(ConfigError, match=r"run\.lock, the lock of a run, is a folder\. Remove it"):
        RunLock(tmp_path / "run.lock").acquire()


def test_a_lock_is_one_process_s_and_its_forked_children_free_nothing(tmp_path: Path) -> None:
    lock = RunLock(tmp_path / "run.lock")
    assert lock.acquire()
    assert not lock.acquire()
    child = os.fork()
    if not child:
        lock.release()
        os._exit(0)
    os.waitpid(child, 0)
    said, _ = Child([lock.path], program=TRIES_A_LOCK).communicate()
    assert said == f"False process {os.getpid()} on this machine\n"
    lock.release()
    assert Child([lock.path], program=TRIES_A_LOCK).communicate()[0].startswith("True ")


def test_a_tag_names_a_process_and_other_texts_none() -> None:
    owner = owner_of(process_tag()[PROCESS_TAG])
    assert owner is not None
    assert owner.is_here
    assert owner.lives
    assert not owner._replace(created=owner.created - 100).lives  # its number was given to another process
    assert not owner._replace(machine="otherhost/01234567").lives
    assert [owner_of(text) for text in ("", "host 12", "host one two")] == [None] * 3


def test_a_finished_run_is_refused_with_the_command_for_a_longer_one(
    config: TrackingConfig, client: MlflowClient
) -> None:
    run = start_run(config, {}, {})
    with run.status():
        run.logger.log_metrics({"loss": 1.0}, step=1)
    with pytest.raises(ConfigError, match=f"is finished.*fit --config {run.directory}/config.yaml --trainer.max_steps"):
        continue_run(run.run_id, config)
    assert client.get_run(run.run_id).info.status == "FINISHED"
    assert not (run.directory.parent / "run.lock").exists()


def test_each_resume_is_counted_and_the_end_is_taken_back(config: TrackingConfig, client: MlflowClient) -> None:
    run = start_run(config, {"a": 1}, {})
    log_and_fail(run, 1)
    for count in ("1", "2"):
        assert client.get_run(run.run_id).info.end_time
        again = continue_run(run.run_id, config)
        found = client.get_run(run.run_id)
        assert (found.info.status, found.info.end_time or None) == ("RUNNING", None)
        assert found.data.tags["lightrail.resumed"] == count
        assert "lightrail.error" not in found.data.tags
        assert again.logger.start_time == found.info.start_time == run.logger.start_time
        log_and_fail(again, 1, 2)
    assert history(client, run.run_id) == [1, 2]


class TestOnAnotherMachine:
    """Made up: the other machine is this one with another name in the run's tag, and without the run's folder here."""

    @pytest.fixture
    def run_id(self, remote: None, config: TrackingConfig, client: MlflowClient) -> str:
        run = start_run(config, {}, {})
        log_and_fail(run, 1, 2, 3)
        shutil.rmtree(run.directory.parent)
        client.update_run(run.run_id, status="RUNNING")
        client.set_tag(run.run_id, PROCESS_TAG, ELSEWHERE)
        return run.run_id

    def test_it_is_resumed_only_with_force(self, run_id: str, config: TrackingConfig, client: MlflowClient) -> None:
        with pytest.raises(ConfigError, match=rf"{run_id} is marked RUNNING.*process 4242 on otherhost.*add --force"):
            continue_run(run_id, config)
        assert client.get_run(run_id).data.tags[PROCESS_TAG] == ELSEWHERE
        client.delete_tag(run_id, PROCESS_TAG)
        with pytest.raises(ConfigError, match="owner unknown"):
            continue_run(run_id, config)
        continue_run(run_id, config, force=True)
        assert ran_here(client.get_run(run_id))

    def test_its_journal_is_made_again_from_the_store_and_no_step_is_doubled(
        self, run_id: str, config: TrackingConfig, client: MlflowClient
    ) -> None:
        run = continue_run(run_id, config, force=True)
        assert run.logger.journal.is_sent
        assert run.logger.journal.last_steps() == {"loss": 3}
        with run.status():
            for step in (2, 3, 4):
                run.logger.log_metrics({"loss": 10.0 * step}, step)
            series = run.logger.journal.series()
        assert series == {"loss": [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0)]}
        assert history(client, run_id) == [1, 2, 3, 4]

    def test_a_journal_that_knows_less_than_the_store_is_replaced(
        self, run_id: str, config: TrackingConfig, client: MlflowClient, tmp_path: Path
    ) -> None:
        old = Journal(tmp_path / "state" / "lightrail" / run_id / "metrics.jsonl")
        old.append_metrics({"loss": 1.0}, step=1, time=1)
        run = continue_run(run_id, config, force=True)
        assert [step for step, _ in run.logger.journal.series()["loss"]] == [1, 2, 3]
        assert history(client, run_id) == [1, 2, 3]

    def test_what_waits_here_fills_gaps_and_does_not_end_what_runs_there(
        self, run_id: str, client: MlflowClient, tmp_path: Path
    ) -> None:
        here = Journal(tmp_path / "state" / "lightrail" / run_id / "metrics.jsonl")
        for step in (2, 3, 7):
            here.append_metrics({"loss": 0.0}, step, time=step)
        here.append_ending(Ending("KILLED", None, time=9))
        assert send_pending(client, run_id).metrics == 1
        assert history(client, run_id) == [1, 2, 3, 7]
        assert client.get_run(run_id).info.status == "RUNNING"
        assert here.is_sent
