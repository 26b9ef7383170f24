"""A training whose loss is no longer finite ends there, says where that began, and leaves a finite checkpoint."""

import math
from pathlib import Path

import pytest
import torch

from tests.support.callbacks import ALLOW
from tests.support.running import FOUR_STEPS, QUIET, Outcome, RecordedRun, lightrail, runs_in
from tests.support.tasks.text_classification import settings


def fit(folder: Path, store: str, *more: str) -> tuple[Outcome, RecordedRun]:
    outcome = lightrail("fit", *settings(folder), *FOUR_STEPS, *QUIET, f"--tracking.uri={store}", ALLOW, *more)
    return outcome, runs_in(store)[-1]


NAN = "--trainer.callbacks+=tests.support.callbacks.SpoiltStep"


@pytest.mark.parametrize("more", [[], ["--trainer.accumulate_grad_batches=2", "--trainer.max_epochs=9"]])
def test_a_loss_that_is_nan_ends_the_run_with_its_step_and_its_examples(
    tmp_path: Path, store: str, more: list[str]
) -> None:
    outcome, run = fit(tmp_path, store, NAN, "--tracking.checkpoint.every_steps=1", *more)
    assert (outcome.status, run.status) == (1, "FAILED")
    assert "train/loss is nan at step 3; the gradient norm is nan; its examples are " in outcome.err
    assert f"{tmp_path}/train.jsonl:" in outcome.err
    assert "Traceback" not in outcome.err
    assert run.tags["lightrail.error"].startswith("Diverged: train/loss is nan at step 3")
    assert math.isnan(dict(run.history("train/loss"))[3])
    assert run.checkpoint("last")["global_step"] == 2
    assert all(torch.isfinite(weight).all() for weight in run.weights().values())


def test_weights_that_a_step_made_nan_are_not_stored(tmp_path: Path, store: str) -> None:
    outcome, run = fit(tmp_path, store, "--model.optim.lr=1e30", "--tracking.checkpoint.every_steps=1")
    assert (outcome.status, run.status) == (1, "FAILED")
    last = run.directory / "checkpoints" / "last.ckpt"
    assert not last.exists() or all(torch.isfinite(weight).all() for weight in run.weights().values())


def test_a_resumed_run_says_why_it_had_ended(tmp_path: Path, store: str, caplog: pytest.LogCaptureFixture) -> None:
    _, run = fit(tmp_path, store, NAN)
    with caplog.at_level("INFO", "lightrail"):
        outcome = lightrail("resume", run.run_id, "--trainer.callbacks=null", f"--tracking.uri={store}", ALLOW)
    assert outcome.status == 0
    assert "had ended with Diverged: train/loss is nan at step 3" in caplog.text
    assert run.status == "FINISHED"


def test_a_setting_trains_on(tmp_path: Path, store: str) -> None:
    outcome, run = fit(tmp_path, store, NAN, "--tracking.non_finite_loss=continue")
    assert (outcome.status, run.status) == (0, "FINISHED")
    assert math.isnan(run.metrics["val/loss"])
