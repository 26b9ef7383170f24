"""Finding runs again."""

from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.store.artifact.artifact_repository_registry import _artifact_repository_registry

from lightrail.project.basics.errors import ConfigError
from lightrail.project.tracking.lookup import run_checkpoint, run_configuration
from lightrail.project.tracking.run import TrackedRun, start_run
from lightrail.project.tracking.settings import TrackingConfig
from tests.support.tracking import FarAway

CONFIGURATION = {"model": {"init_args": {"name": "中文", "lr": 1e-5}}, "data": {}, "trainer": {}, "tracking": {}}


@pytest.fixture
def tracking(store: str) -> TrackingConfig:
    return TrackingConfig(uri=store)


@pytest.fixture
def run(tracking: TrackingConfig) -> TrackedRun:
    return start_run(tracking, CONFIGURATION, {})


def add_checkpoint(run: TrackedRun, name: str) -> Path:
    path = run.directory / "checkpoints" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(name)
    return path


def test_a_run_names_its_best_checkpoint_or_another_one(run: TrackedRun, tracking: TrackingConfig) -> None:
    best, last = add_checkpoint(run, "best.ckpt"), add_checkpoint(run, "last.ckpt")
    assert run_checkpoint(f"runs:/{run.run_id}", tracking) == best
    assert run_checkpoint(f"runs:/{run.run_id[:8]}", tracking) == best
    assert run_checkpoint(f"runs:/{run.run_id}/checkpoints/last.ckpt", tracking) == last


def test_a_path_is_itself_and_needs_no_store(tmp_path: Path) -> None:
    nowhere = TrackingConfig(uri=f"sqlite:///{tmp_path}/none.db")
    file = tmp_path / "model.ckpt"
    file.write_text("")
    assert run_checkpoint(str(file), nowhere) == file
    with pytest.raises(ConfigError, match=r"missing\.ckpt': no such file"):
        run_checkpoint(str(tmp_path / "missing.ckpt"), nowhere)
    with pytest.raises(ConfigError, match=r"a{50}.*: no such file"):
        run_checkpoint("a" * 5000, nowhere)


def test_the_configuration_is_the_one_that_the_run_was_started_with(run: TrackedRun, tracking: TrackingConfig) -> None:
    assert run_configuration(run.run_id, tracking) == CONFIGURATION


def test_a_run_without_the_checkpoint_lists_its_checkpoints(run: TrackedRun, tracking: TrackingConfig) -> None:
    with pytest.raises(ConfigError, match=r"has no checkpoints/best\.ckpt\. It has no checkpoints"):
        run_checkpoint(f"runs:/{run.run_id}", tracking)
    add_checkpoint(run, "last.ckpt")
    with pytest.raises(ConfigError, match=rf"write runs:/{run.run_id}/checkpoints/last\.ckpt"):
        run_checkpoint(f"runs:/{run.run_id}", tracking)
    (run.directory / "checkpoints" / "lost.ckpt").symlink_to("nowhere")
    with pytest.raises(ConfigError, match=rf"^run {run.run_id}: its files cannot be listed: .*lost\.ckpt.*Restore"):
        run_checkpoint(f"runs:/{run.run_id}", tracking)


def test_an_unknown_run_gets_suggestions(run: TrackedRun, tracking: TrackingConfig) -> None:
    wrong = ("0" if run.run_id[0] != "0" else "1") + run.run_id[1:]
    with pytest.raises(ConfigError, match=f"Did you mean: {run.run_id}"):
        run_configuration(wrong, tracking)
    with pytest.raises(ConfigError, match=f"no run 'x y'. The last runs are: {run.run_id}"):
        run_configuration("x y", tracking)


def test_a_store_without_runs_is_reported(tracking: TrackingConfig) -> None:
    with pytest.raises(ConfigError, match="The store holds no runs"):
        run_configuration("abc", tracking)


def test_looking_for_a_run_makes_no_store(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.db: no runs are recorded there. Run `lightrail fit` first"):
        run_configuration("abc", TrackingConfig(uri=f"sqlite:///{tmp_path}/none.db"))
    assert list(tmp_path.iterdir()) == []


def test_files_of_a_remote_store_are_uploaded_and_downloaded(
    store: str, tracking: TrackingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_artifact_repository_registry._registry, "faraway", FarAway)
    client = MlflowClient(store)
    client.create_experiment("lightrail", artifact_location=f"faraway://{tmp_path}/remote")
    run = start_run(tracking, CONFIGURATION, {})
    assert run.directory.is_relative_to(tmp_path / "state")
    add_checkpoint(run, "best.ckpt")
    assert [item.path for item in client.list_artifacts(run.run_id)] == ["checkpoints", "config.yaml", "environment"]
    with run.status():
        pass
    assert [item.path for item in client.list_artifacts(run.run_id, "checkpoints")] == [
        "checkpoints/best.ckpt",
        "checkpoints/run.json",
    ]
    (run.directory / "checkpoints" / "best.ckpt").unlink()
    assert run_checkpoint(f"runs:/{run.run_id}", tracking).read_text() == "best.ckpt"
