"""A ModelCheckpoint of the configuration decides which checkpoint is the best, under whatever name it writes it."""

from pathlib import Path

import pytest
import torch

from lightrail.project.tracking.naming import find_checkpoint
from lightrail.project.tracking.settings import TrackingConfig
from tests.support.running import FOUR_STEPS, QUIET, RecordedRun, lightrail
from tests.support.tasks.text_classification import settings


def fit(folder: Path, store: str, callbacks: str) -> RecordedRun:
    arguments = [*settings(folder), *FOUR_STEPS, *QUIET, f"--tracking.uri={store}", f"--trainer.callbacks={callbacks}"]
    outcome = lightrail("fit", *arguments)
    assert outcome.status == 0, outcome.err
    return RecordedRun(store, outcome.run_id)


def spec(**arguments: str | int | bool) -> str:
    given = ", ".join(f"{name}: {value}" for name, value in arguments.items())
    return f"{{class_path: ModelCheckpoint, init_args: {{{given}}}}}"


NAMED = spec(monitor="val/loss", filename='"{epoch}-{val/loss:.3f}"')


@pytest.mark.parametrize(
    "callbacks",
    [
        f"[{NAMED}]",
        f"[{NAMED}, {spec(monitor='val/accuracy', mode='max', filename='second')}, {spec(filename='third')}]",
        f"[{spec(monitor='val/loss', save_last='true', save_top_k=-1)}]",
        f"[{spec(monitor='val/loss', dirpath='elsewhere')}]",
    ],
    ids=["metric in the name", "several", "all and the last", "another folder"],
)
def test_a_run_stands_for_the_best_of_the_first_with_a_monitor(
    callbacks: str, tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = fit(tmp_path, store, callbacks)
    found = find_checkpoint(f"runs:/{run.run_id}", TrackingConfig(uri=store))
    assert found == run.directory / "checkpoints" / "best.ckpt"
    state = run.checkpoint("last")["callbacks"]
    first = next(own for name, own in state.items() if name.startswith("ModelCheckpoint") and "val/loss" in name)
    best = torch.load(first["best_model_path"], weights_only=True)["state_dict"]
    assert all(torch.equal(best[name], weight) for name, weight in run.weights("best").items())
    losses = dict(run.history("val/loss"))
    assert float(first["best_model_score"]) == pytest.approx(min(losses.values()))


@pytest.mark.parametrize("callbacks", [f"[{spec(filename='mine')}]", f"[{spec(monitor='val/loss', save_top_k=0)}]"])
def test_one_that_decides_nothing_leaves_the_choice_to_the_task(callbacks: str, tmp_path: Path, store: str) -> None:
    run = fit(tmp_path, store, callbacks)
    assert (run.directory / "checkpoints" / "best.ckpt").is_file()
