"""What the first process of a trial says when another one of it has ended."""

import subprocess
from collections.abc import Callable
from multiprocessing import Pipe
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from lightrail.project.tracking.run import GivenUp
from lightrail.sweeps.trials import trial
from lightrail.sweeps.trials.callback import NonFinite, TrialReporter
from lightrail.sweeps.trials.messages import Assignment, Failed, clear_failure, first_failure
from lightrail.sweeps.trials.trial import follow, lead
from tests.support.tiny import Signs, quiet_trainer

GONE = RuntimeError("[gloo] Connection closed by peer")


@pytest.fixture
def assignment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Assignment:
    """Of a trial whose processes are this one."""
    for name in ("_write_to", "_prepare", "_watch"):
        monkeypatch.setattr(trial, name, lambda *_: None)
    monkeypatch.setattr("os.setsid", lambda: None)
    log = str(tmp_path / "trial_0.log")
    return Assignment(
        values={}, run_id=None, has_begun=False, tags={}, metrics=[], log=log, devices=[], threads=1, tests=False
    )


@pytest.fixture
def untrained() -> pl.Trainer:
    """One that would train with two processes."""
    return quiet_trainer(devices=2, strategy="ddp")


def raising(error: Exception) -> Callable[..., None]:
    def train(*_: object) -> None:
        raise error

    return train


def told(assignment: Assignment, monkeypatch: pytest.MonkeyPatch) -> Failed:
    """What the driver hears from the first process, which finds that another one has gone."""
    monkeypatch.setattr(trial, "_train", raising(GONE))
    ours, theirs = Pipe()
    with ours, theirs:
        assert lead(assignment, theirs, theirs) == 1
        failed = ours.recv()
    assert isinstance(failed, Failed)
    return failed


def test_out_of_memory_in_another_process_is_told_as_that(
    assignment: Assignment, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert told(assignment, monkeypatch) == Failed(f"RuntimeError: {GONE}", "error")
    for error in (torch.OutOfMemoryError("CUDA out of memory"), ValueError("a consequence")):
        monkeypatch.setattr(trial, "_train", raising(error))
        with pytest.raises(type(error)):
            follow(assignment)
    assert told(assignment, monkeypatch) == Failed("OutOfMemoryError: CUDA out of memory", "memory")
    assert first_failure(assignment.log) is not None
    clear_failure(assignment.log)
    assert told(assignment, monkeypatch) == Failed(f"RuntimeError: {GONE}", "error"), "the trial was begun again"


def test_a_trial_that_is_given_up_is_not_taken_for_one_whose_other_process_died(untrained: pl.Trainer) -> None:
    """They leave at the same moment, and how the other one does is no cause."""
    killed = subprocess.Popen(["sleep", "60"])
    killed.kill()
    assert isinstance(untrained.strategy.launcher, _SubprocessScriptLauncher)
    untrained.strategy.launcher.procs = [killed]
    for ours, expected in ((GivenUp(6), None), (NonFinite("val/loss is nan at step 6"), None), (GONE, "killed")):
        reporter = TrialReporter(None, ["val/loss"])
        reporter.on_exception(untrained, Signs(), ours)
        assert (reporter.killed and reporter.killed.kind) == expected
