"""What a finished run leaves: what some command needs. Only a run that can be resumed keeps the state for it."""

from pathlib import Path

import pytest
import torch

from lightrail.lightning_modules import checkpoint
from lightrail.lightning_modules.checkpoint import RESUME_STATE
from lightrail.lightning_modules.text_classification import TextClassifier
from lightrail.project.tracking import recovery
from lightrail.project.tracking.run import TrackedRun, continue_run, start_run
from lightrail.project.tracking.settings import CheckpointConfig, TrackingConfig
from lightrail.project.tracking.store import open_store
from tests.support.running import Fitted, RecordedRun, lightrail, runs_in

FULL = {"state_dict": {"weight": torch.ones(3)}, "hyper_parameters": {}, "epoch": 1, "loops": {}}
STATES: dict[str, object] = {name: [] for name in RESUME_STATE}
ALL = {*FULL, *STATES}


def begin(store: str, *, keep: bool = False) -> TrackedRun:
    return start_run(TrackingConfig(uri=store, checkpoint=CheckpointConfig(keep_resume_state=keep)), {}, {})


def add(run: TrackedRun, *names: str) -> None:
    for name in names:
        torch.save({**FULL, **STATES}, run.directory / "checkpoints" / name)


def left(run: TrackedRun) -> dict[str, set[str]]:
    """Return the entries of each checkpoint that is left."""
    files = (run.directory / "checkpoints").glob("*.ckpt*")
    return {file.name: set(torch.load(file, weights_only=True)) for file in files}


def test_every_command_works_with_what_a_finished_run_leaves_also_after_cleaning(
    fitted_classifier: Fitted, store: str, tmp_path: Path
) -> None:
    here = f"--tracking.uri={store}"
    arguments = [*fitted_classifier.arguments, here, "--tracking.checkpoint.keep_resume_state=false"]
    run = RecordedRun(store, lightrail("fit", *arguments).run_id)
    checkpoints = run.directory / "checkpoints"
    assert {file.name for file in checkpoints.iterdir()} == {"best.ckpt", "run.json"}
    assert lightrail("clean", "--yes", here).status == 0
    assert {file.name for file in checkpoints.iterdir()} == {"best.ckpt", "run.json"}
    assert lightrail("reproduce", run.run_id, here).status == 0
    data, output = f"--data.path={fitted_classifier.folder}/test.jsonl", f"--output={tmp_path}/out.jsonl"
    for command in (
        ["predict", f"--ckpt_path=runs:/{run.run_id}", data, output, here],
        ["test", f"--ckpt_path=runs:/{run.run_id}", here],
        ["compare", *(own.run_id for own in runs_in(store)[:2]), here],
        ["export", run.run_id, f"--output={tmp_path}/exported", here],
        ["list", "runs", here],
        ["sync", here],
    ):
        outcome = lightrail(*command)
        assert outcome.status == 0, outcome.err
    refused = lightrail("resume", run.run_id, here, "--trainer.max_steps=8")
    assert (refused.status, "For a longer training start a new run" in refused.err) == (2, True)
    TextClassifier.load_from_checkpoint(checkpoints / "best.ckpt")


def test_the_state_for_resuming_goes_once_the_end_of_a_run_is_stored(store: str) -> None:
    run = begin(store)
    add(run, "best.ckpt", "last.ckpt", "own.ckpt")
    with run.status():
        pass
    assert left(run) == {"best.ckpt": set(FULL), "own.ckpt": ALL}


def test_without_a_best_checkpoint_the_last_weights_stay(store: str) -> None:
    run = begin(store)
    add(run, "last.ckpt")
    (run.directory / "checkpoints" / "best.ckpt").write_bytes(b"damaged")
    with run.status():
        pass
    (run.directory / "checkpoints" / "best.ckpt").unlink()
    assert left(run) == {"last.ckpt": set(FULL)}


@pytest.mark.parametrize("keeps", [True, False], ids=["kept", "not kept after resuming without it"])
def test_the_state_is_kept_on_request(store: str, keeps: bool) -> None:
    run = begin(store, keep=True)
    add(run, "best.ckpt", "last.ckpt")
    with pytest.raises(KeyboardInterrupt), run.status():
        raise KeyboardInterrupt
    assert left(run) == {"best.ckpt": ALL, "last.ckpt": ALL}, "it can be resumed"
    config = TrackingConfig(uri=store, checkpoint=CheckpointConfig(keep_resume_state=keeps))
    with continue_run(run.run_id, config).status():
        pass
    assert set(left(run)) == ({"best.ckpt", "last.ckpt"} if keeps else {"best.ckpt"})


def test_a_checkpoint_that_a_callback_of_the_users_keeps_stays_as_it_is(store: str) -> None:
    run = begin(store)
    add(run, "own.ckpt", "last.ckpt")
    (run.directory / "checkpoints" / "best.ckpt").hardlink_to(run.directory / "checkpoints" / "own.ckpt")
    with run.status():
        pass
    assert left(run) == {"best.ckpt": ALL, "own.ckpt": ALL}


def test_a_run_killed_while_it_drops_the_state_is_finished_and_sync_does_the_rest(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begin(store)
    add(run, "best.ckpt", "last.ckpt")

    def killed(_path: Path) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "drop_resume_state", killed)
        with pytest.raises(KeyboardInterrupt), run.status():
            pass
    assert RecordedRun(store, run.run_id).status == "FINISHED"
    assert set(left(run)) == {"best.ckpt", "last.ckpt"}
    recovery.synchronize(open_store(store, create=False), store)
    assert left(run) == {"best.ckpt": set(FULL)}
