"""A project folder that was renamed, copied or mounted elsewhere: artifacts are found beside their database."""

import logging
import os
import shutil
from pathlib import Path

import pytest

from lightrail.project.basics.errors import ConfigError
from lightrail.project.logged_models.describing import Answering, write_model
from lightrail.project.logged_models.publishing import model_of
from lightrail.project.tracking.lookup import run_artifact
from lightrail.project.tracking.naming import find_checkpoint, find_run
from lightrail.project.tracking.run import TrackedRun, start_run
from lightrail.project.tracking.settings import TrackingConfig
from lightrail.project.tracking.store import open_store


@pytest.fixture
def before(tmp_path: Path, store_template: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a project folder with a database."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    folder = tmp_path / "before"
    folder.mkdir()
    shutil.copy(store_template, folder / "mlflow.db")
    return folder


def made(folder: Path) -> TrackedRun:
    run = start_run(TrackingConfig(uri=f"sqlite:///{folder}/mlflow.db"), {}, {})
    with run.status():
        (run.directory / "checkpoints" / "best.ckpt").write_text(folder.name)
    return run


def text_of(folder: Path, run_id: str, name: str = "checkpoints/best.ckpt") -> str | None:
    client = open_store(f"sqlite:///{folder}/mlflow.db", create=False)
    path = run_artifact(client, find_run(client, run_id), name)
    assert path is None or path.is_relative_to(folder)
    return None if path is None else path.read_text()


def test_runs_of_a_renamed_folder_are_found_and_new_ones_are_written_there(before: Path, tmp_path: Path) -> None:
    run = made(before)
    after = before.rename(tmp_path / "after")
    assert text_of(after, run.run_id) == "before"
    client = open_store(f"sqlite:///{after}/mlflow.db", create=False)
    listed = [item.path for item in client.list_artifacts(run.run_id, "checkpoints")]
    assert "checkpoints/best.ckpt" in listed, "MLflow's own pages show them"
    new = made(after)
    assert new.directory.parent.parent == after / "mlruns" / "lightrail"
    assert not before.exists()


def test_a_registered_model_of_a_renamed_folder_is_found(before: Path, tmp_path: Path) -> None:
    run = made(before)
    client = open_store(f"sqlite:///{before}/mlflow.db", create=False)
    client.create_registered_model("m")
    client.create_model_version("m", f"{run.directory.as_uri()}/checkpoints/best.ckpt", run.run_id)
    after = before.rename(tmp_path / "after")
    source = open_store(f"sqlite:///{after}/mlflow.db", create=False).get_model_version("m", "1").source
    assert Path(source.removeprefix("file://")).read_text() == "before"
    assert Path(source.removeprefix("file://")).is_relative_to(after)


def test_the_model_of_a_run_of_a_renamed_folder_is_found(before: Path, tmp_path: Path) -> None:
    run = start_run(TrackingConfig(uri=f"sqlite:///{before}/mlflow.db"), {}, {})
    with run.status():
        (run.directory / "checkpoints" / "best.ckpt").write_text("weights")
        write_model(run.model_folder, run.run_id, [], Answering(columns={"text": True}, structured=()))
    client = open_store(f"sqlite:///{before}/mlflow.db", create=False)
    model = model_of(client, client.get_run(run.run_id))
    assert model is not None
    client.create_registered_model("m")
    client.create_model_version("m", model.artifact_location, run.run_id, model_id=model.model_id)
    after = before.rename(tmp_path / "after")
    client = open_store(f"sqlite:///{after}/mlflow.db", create=False)
    place = client.get_logged_model(model.model_id).artifact_location
    assert place.startswith(after.as_uri())
    assert client.get_model_version_download_uri("m", "1") == place
    assert Path(place.removeprefix("file://"), "artifacts", "best.ckpt").read_text() == "weights"


def test_a_copied_folder_and_its_original_have_their_own_artifacts(before: Path, tmp_path: Path) -> None:
    run = made(before)
    copy = shutil.copytree(before, tmp_path / "copy")
    file = next(copy.rglob("best.ckpt"))
    file.write_text("changed")
    assert text_of(copy, run.run_id) == "changed"
    assert text_of(before, run.run_id) == "before"
    assert made(copy).directory.is_relative_to(copy)
    assert made(before).directory.is_relative_to(before)


def test_a_folder_that_is_seen_under_two_names_by_turns_works_under_both(before: Path, tmp_path: Path) -> None:
    run = made(before)
    after = tmp_path / "mounted"
    for _ in range(2):
        before.rename(after)
        assert text_of(after, run.run_id) == "before"
        after.rename(before)
        assert text_of(before, run.run_id) == "before"


def test_artifacts_that_were_left_behind_stay_where_they_are(before: Path, tmp_path: Path) -> None:
    run = made(before)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(before / "mlflow.db", elsewhere)
    (elsewhere / "lightrail").mkdir()  # an accident of names
    found = find_checkpoint(f"runs:/{run.run_id}", TrackingConfig(uri=f"sqlite:///{elsewhere}/mlflow.db"))
    assert found.is_relative_to(before)
    assert found.read_text() == "before"


def test_artifacts_that_are_gone_are_named_where_they_were(before: Path, tmp_path: Path) -> None:
    run = made(before)
    after = before.rename(tmp_path / "after")
    shutil.rmtree(after / "mlruns")
    for _ in range(2):  # the former place is not forgotten
        with pytest.raises(ConfigError, match=rf"has no checkpoints.* Its files were in {before}/mlruns/.*/artifacts:"):
            find_checkpoint(f"runs:/{run.run_id}", TrackingConfig(uri=f"sqlite:///{after}/mlflow.db"))
    assert made(after).directory.is_relative_to(after)
    assert not before.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_database_that_cannot_be_written_is_still_read(
    before: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = made(before)
    after = before.rename(tmp_path / "after")
    (after / "mlflow.db").chmod(0o444)
    after.chmod(0o555)
    with caplog.at_level(logging.WARNING):
        assert find_run(open_store(f"sqlite:///{after}/mlflow.db", create=False), run.run_id).info.status == "FINISHED"
    after.chmod(0o755)
    assert "their new place cannot be entered" in caplog.text
