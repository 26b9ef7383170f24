"""`lightrail clean` tells what is kept, and removes what no command could need: nothing else, and nowhere else."""

import fcntl
import os
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from lightrail.datamodules.cache import CacheWriter, build_once, cache_folder
from lightrail.datamodules.cache.building import ABOUT
from lightrail.project.tracking.run import TrackedRun, start_run
from lightrail.project.tracking.settings import TrackingConfig
from tests.support.running import Outcome, lightrail

DIGEST = "0123456789abcdef"
LONG_AGO = 1_000_000_000


def made(store: str, status: str) -> TrackedRun:
    """Make a run as an earlier version left it: with its last checkpoint."""
    run = start_run(TrackingConfig(uri=store), {}, {"lightrail.data_digest": DIGEST * 2})
    if status != "RUNNING":
        run._end(status, None)
    for name in ("best.ckpt", "last.ckpt"):
        torch.save({"state_dict": {"weight": torch.ones(9)}, "task": "x"}, run.directory / "checkpoints" / name)
    (run.directory / "checkpoints" / "last.ckpt.unfinished").write_bytes(b"half")
    return run


def files_of(run: TrackedRun) -> set[str]:
    return {file.name for file in (run.directory / "checkpoints").glob("*.ckpt*")}


def clean(store: str, *options: str) -> Outcome:
    outcome = lightrail("clean", f"--tracking.uri={store}", *options)
    assert outcome.status == 0, outcome.err
    return outcome


def test_nothing_is_removed_unless_it_is_asked_for(store: str) -> None:
    run = made(store, "FINISHED")
    for options in ([], ["--dry_run"], ["--dry_run", "--yes"]):
        outcome = clean(store, *options)
        assert store in outcome.out, "it names the store"
        assert f"run {run.run_id[:8]} (FINISHED)  state that only resuming needed" in outcome.out
        assert "nothing was removed" in outcome.out
        assert len(files_of(run)) == 3
    assert "removed 0.0 MB" in clean(store, "--yes").out
    assert files_of(run) == {"best.ckpt"}
    assert "\nremove" not in clean(store).out


def test_runs_that_run_or_can_be_resumed_keep_their_state_and_deleted_ones_go(store: str) -> None:
    running, killed, deleted, registered = (made(store, own) for own in ("RUNNING", "KILLED", "FINISHED", "FINISHED"))
    client = MlflowClient(store)
    client.create_registered_model("m")
    client.create_model_version("m", str(registered.directory), registered.run_id)
    for run in (deleted, registered):
        client.delete_run(run.run_id)
    clean(store, "--yes")
    assert files_of(running) == {"best.ckpt", "last.ckpt", "last.ckpt.unfinished"}
    assert files_of(killed) == {"best.ckpt", "last.ckpt"}
    assert not deleted.directory.exists()
    assert registered.directory.exists(), "a registered model has its weights"
    running._end("FINISHED", None)


def test_nothing_outside_of_the_stores_folder_is_removed_and_nothing_through_a_link(store: str, tmp_path: Path) -> None:
    linked, outside = made(store, "FINISHED"), made(store, "FINISHED")
    elsewhere = tmp_path / "elsewhere"
    (linked.directory / "checkpoints").rename(elsewhere)
    (linked.directory / "checkpoints").symlink_to(elsewhere)
    folder = tmp_path.parent / f"{tmp_path.name}-other" / outside.run_id / "artifacts"
    folder.parent.parent.mkdir()
    outside.directory.parent.rename(folder.parent)
    (outside.directory.parent).symlink_to(folder.parent)
    MlflowClient(store).delete_run(linked.run_id)
    clean(store, "--yes")
    assert len(list(elsewhere.glob("*.ckpt*"))) == 3
    assert folder.exists()


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIGHTRAIL_CACHE", str(tmp_path / "caches"))
    return cache_folder()


def cache(folder: Path, digest: str, *, is_old: bool) -> Path:
    def build(writer: CacheWriter) -> None:
        text = f'{{"facts": {{}}, "digests": {{"train": "{digest}"}}, "files": [], "notes": {{}}}}'
        (writer.folder / ABOUT).write_text(text)

    build_once(folder, build)
    for path in (folder, *folder.iterdir(), folder.with_name(f"{folder.name}.lock")):
        os.utime(path, (LONG_AGO, LONG_AGO) if is_old else None)
    return folder


def test_caches_go_that_are_damaged_half_built_or_of_no_run_and_long_unused(store: str, caches: Path) -> None:
    made(store, "FINISHED")
    names = {word: f"{number:032x}" for number, word in enumerate(("used", "recent", "unused", "again"))}
    used = cache(caches / names["used"], DIGEST * 2, is_old=True)
    recent = cache(caches / names["recent"], "other", is_old=False)
    unused = cache(caches / names["unused"], "other", is_old=True)
    again = cache(caches / names["again"], "other", is_old=True)
    build_once(again, lambda _: None)  # its time of use
    left = [caches / f"{9:032x}{ending}" for ending in (".damaged", ".unfinished")]
    being_built, own = caches / f"{8:032x}.unfinished", caches / "mine.damaged"
    for folder in (*left, being_built, own):
        folder.mkdir()
    with being_built.with_suffix(".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        clean(store, "--yes")
    assert all(folder.exists() for folder in (used, recent, again, being_built, own))
    assert not any(folder.exists() for folder in (unused, *left))
