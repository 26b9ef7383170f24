"""Finding runs again."""

from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.store.artifact.artifact_repository_registry import _artifact_repository_registry

from lightrail.project.basics.errors import ConfigError
from lightrail.project.tracking.lookup import run_configuration
from lightrail.project.tracking.naming import find_checkpoint
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
    assert find_checkpoint(f"runs:/{run.run_id}", tracking) == best
    assert find_checkpoint(f"runs:/{run.run_id[:8]}", tracking) == best
    assert find_checkpoint(f"runs:/{run.run_id}/checkpoints/last.ckpt", tracking) == last


def test_the_configuration_is_the_one_that_the_run_was_started_with(run: TrackedRun, tracking: TrackingConfig) -> None:
    client = MlflowClient(tracking.uri)
    assert run_configuration(client, client.get_run(run.run_id)) == CONFIGURATION


def test_a_run_without_the_checkpoint_lists_its_checkpoints(run: TrackedRun, tracking: TrackingConfig) -> None:
    with pytest.raises(ConfigError, match=r"has no checkpoints/best\.ckpt\. It has no checkpoints"):
        find_checkpoint(f"runs:/{run.run_id}", tracking)
    add_checkpoint(run, "last.ckpt")
    with pytest.raises(ConfigError, match=rf"write runs:/{run.run_id}/checkpoints/last\.ckpt"):
        find_checkpoint(f"runs:/{run.run_id}", tracking)
    (run.directory / "checkpoints" / "lost.ckpt").symlink_to("nowhere")
    with pytest.raises(ConfigError, match=rf"^run {run.run_id}: its files cannot be listed: .*lost\.ckpt.*Restore"):
        find_checkpoint(f"runs:/{run.run_id}", tracking)


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
    assert find_checkpoint(f"runs:/{run.run_id}", tracking).read_text() == "best.ckpt"
