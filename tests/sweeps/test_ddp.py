"""Trials of two processes: judged as trials of one, ended together, and leaving nothing behind."""

import os
import shutil
import signal
import time
from pathlib import Path

import psutil
import pytest
from optuna.trial import FrozenTrial, TrialState

from lightrail.project.tracking.processes import owner_of
from lightrail.sweeps.search.study import KILLS, PROCESS, REPORTS, RUNS
from tests.support.callbacks import ALLOW
from tests.support.children import SECONDS_TO_HANG, wait_for
from tests.support.sweeping import TinySweep, processes_of

RATES = [0.03, 1e-9]
"""The second one learns nothing, and is given up."""
WITHOUT_CHANCE = ["--model.encoder.dropout=0", "--model.encoder.ngram_dropout=0", "--model.optim.warmup_fraction=0"]


@pytest.fixture
def alone(tiny_sweep: TinySweep, store_template: Path) -> TinySweep:
    """A second sweep, in a folder and a store of its own."""
    folder = tiny_sweep.folder / "alone"
    folder.mkdir()
    shutil.copy(store_template, folder / "mlflow.db")
    return TinySweep(folder, f"sqlite:///{folder}/mlflow.db")


def write(sweep: TinySweep, devices: int, *settings: str, rates: list[float]) -> None:
    shown = ["--trainer.callbacks=Weights", f"--trainer.callbacks.folder={sweep.folder}/weights", ALLOW]
    sweep.write(
        *WITHOUT_CHANCE,
        *shown,
        *settings,
        space={"model.optim.lr": {"low": 1e-9, "high": 0.1}},
        enqueue=[{"model.optim.lr": rate} for rate in rates],
        n_trials=len(rates),
        metric="val/loss",
        direction="minimize",
        pruner={"class_path": "MedianPruner", "init_args": {"n_startup_trials": 1, "n_warmup_steps": 4}},
        resources={"workers": 1, "devices": devices, "threads": 1},
    )


def test_trials_of_two_processes_are_judged_as_trials_of_one(tiny_sweep: TinySweep, alone: TinySweep) -> None:
    write(tiny_sweep, 2, rates=RATES)
    driver = tiny_sweep.start()
    _, errors = driver.communicate()
    assert driver.returncode == 0, errors
    assert wait_for_no_process(tiny_sweep) == []
    write(alone, 1, rates=RATES)
    assert alone.run().status == 0
    assert [trial.state.name for trial in tiny_sweep.trials] == ["COMPLETE", "PRUNED"]
    for trial, expected in zip(tiny_sweep.trials, alone.trials, strict=True):
        assert (trial.state, trial.params) == (expected.state, expected.params)
        assert trial.value == pytest.approx(expected.value, rel=1e-5)
        assert trial.intermediate_values == pytest.approx(expected.intermediate_values, rel=1e-5)
    assert list(tiny_sweep.trials[1].intermediate_values) == [3, 6], "given up in the middle"
    for trial, last_step in zip(tiny_sweep.trials, (12, 6), strict=True):
        first, second = weights_of(tiny_sweep, trial)
        if trial.state == TrialState.PRUNED:
            assert (first.pop(), second.pop()) == ("6 GivenUp", "6 SystemExit"), "neither waited for the other"
        assert first == second
        assert [int(line.split()[0]) for line in first] == list(range(last_step)), "both ended at the same step"
        assert len(weights_of(alone, alone.trials[trial.number])) == 1
    statuses = [(run.status, run.tags.get("lightrail.pruned_step")) for run in tiny_sweep.children]
    assert statuses == [("FINISHED", None), ("KILLED", "6")]


def test_a_trial_one_process_of_which_is_killed_goes_on(tiny_sweep: TinySweep) -> None:
    write(tiny_sweep, 2, "--trainer.callbacks.seconds=0.2", "--tracking.checkpoint.every_steps=1", rates=RATES[:1])
    driver = tiny_sweep.start()
    wait_for(lambda: len(tiny_sweep.trials[0].intermediate_values) > 0, driver)
    owner = owner_of(tiny_sweep.trials[0].user_attrs[PROCESS])
    assert owner is not None
    (second,) = (own for own in psutil.Process(owner.number).children() if own.environ().get("LOCAL_RANK") == "1")
    os.kill(second.pid, signal.SIGKILL)
    _, errors = driver.communicate()
    assert driver.returncode == 0, errors
    assert wait_for_no_process(tiny_sweep) == []
    before, after = tiny_sweep.trials
    assert (before.state, after.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert (after.user_attrs[KILLS], after.user_attrs[RUNS]) == (1, before.user_attrs[RUNS])
    assert sorted(after.user_attrs[REPORTS]["0"], key=int) == ["3", "6", "9", "12"]
    (run,) = tiny_sweep.children
    assert (run.status, run.tags["lightrail.resumed"]) == ("FINISHED", "1")
    assert [step for step, _ in run.history("train/loss")] == list(range(1, 13))
    first, other = (dict(line.split() for line in lines) for lines in weights_of(tiny_sweep, after))
    assert first == other, "at the last time of each step"
    assert sorted(first, key=int) == [str(step) for step in range(12)]


def weights_of(sweep: TinySweep, trial: FrozenTrial) -> list[list[str]]:
    """What each process of a trial wrote down."""
    (run_id,) = trial.user_attrs[RUNS].values()
    return [file.read_text().splitlines() for file in sorted((sweep.folder / "weights" / run_id).iterdir())]


def wait_for_no_process(sweep: TinySweep) -> list[psutil.Process]:
    """Wait until nothing works in the sweep's folder any more; give what does not end."""
    deadline = time.monotonic() + SECONDS_TO_HANG
    while (left := processes_of(sweep.folder)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left
