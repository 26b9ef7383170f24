"""A sweep that is ended at any moment and in any way, begun again with the same command."""

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable

import psutil
import pytest
from optuna.trial import TrialState

from project.tracking.processes import owner_of
from sweeps.study import DRIVER, PROCESS, RUNS, finished
from tests.sweeps.sweeping import SECONDS_TO_WAIT, TinySweep, processes_of, wait_until

SLOW = ["--trainer.callbacks.seconds=0.2", "--trainer.max_steps=20", "--tracking.checkpoint.every_steps=2"]


def kill_driver(driver: "subprocess.Popen[str]", sweep: TinySweep) -> None:
    driver.kill()


def kill_trials(driver: "subprocess.Popen[str]", sweep: TinySweep) -> None:
    for trial in sweep.study.get_trials(states=[TrialState.RUNNING]):
        process = owner_of(trial.user_attrs.get(PROCESS, ""))
        if process is not None and process.lives:
            os.kill(process.number, signal.SIGKILL)


def kill_both(driver: "subprocess.Popen[str]", sweep: TinySweep) -> None:
    driver.kill()
    kill_trials(driver, sweep)


def interrupt(driver: "subprocess.Popen[str]", sweep: TinySweep) -> None:
    driver.send_signal(signal.SIGINT)


def terminate(driver: "subprocess.Popen[str]", sweep: TinySweep) -> None:
    driver.send_signal(signal.SIGTERM)


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (kill_driver, -signal.SIGKILL),
        (kill_trials, 0),
        (kill_both, -signal.SIGKILL),
        (interrupt, 130),
        (terminate, 143),
    ],
)
def test_the_same_command_ends_with_as_many_trials_as_were_asked_for(
    tiny_sweep: TinySweep, end: Callable[["subprocess.Popen[str]", TinySweep], None], status: int
) -> None:
    tiny_sweep.write(*SLOW, n_trials=3)
    driver = tiny_sweep.start()
    wait_until(lambda: len(in_progress(tiny_sweep)) == 2, driver)
    begun = set(in_progress(tiny_sweep))
    end(driver, tiny_sweep)
    _, errors = driver.communicate(timeout=SECONDS_TO_WAIT)
    assert driver.returncode == status, errors
    again = tiny_sweep.start()
    _, errors = again.communicate(timeout=SECONDS_TO_WAIT)
    assert again.returncode == 0, errors
    assert len(finished(tiny_sweep.study)) == len(tiny_sweep.numbers(TrialState.COMPLETE)) == 3
    assert not tiny_sweep.numbers(TrialState.RUNNING, TrialState.WAITING)
    ended = {run for trial in finished(tiny_sweep.study) for run in trial.user_attrs[RUNS].values()}
    assert ended > begun, "they went on in their own runs"
    assert {run.run_id for run in tiny_sweep.children} == ended
    for run in tiny_sweep.children:
        assert run.status == "FINISHED"
        assert [step for step, _ in run.history("train/loss")] == list(range(1, 21))
        assert ("lightrail.resumed" in run.tags) is (run.run_id in begun)
    for trial in finished(tiny_sweep.study):
        assert sorted(trial.intermediate_values) == [3, 6, 9, 12, 15, 18]
    assert tiny_sweep.parent.status == "FINISHED"
    wait_for_no_process(tiny_sweep)


def in_progress(sweep: TinySweep) -> list[str]:
    """Runs of the trials that train and have been validated."""
    found = sweep.study.get_trials(states=[TrialState.RUNNING])
    return [trial.user_attrs[RUNS]["0"] for trial in found if trial.intermediate_values]


def wait_for_no_process(sweep: TinySweep) -> None:
    deadline = time.monotonic() + 10
    while (left := processes_of(sweep.folder)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []


def test_a_trial_of_nobody_is_gone_on_with(tiny_sweep: TinySweep) -> None:
    """Its driver was killed between asking for it and saying which process it is."""
    tiny_sweep.write(n_trials=2, enqueue=[{"model.optim.lr": 0.05}])
    assert tiny_sweep.run("--timeout_minutes=0").status == 0
    asked = tiny_sweep.study.ask()
    assert asked.number == 0
    outcome = tiny_sweep.run()
    assert outcome.status == 0, outcome.err
    states = Counter(trial.state.name for trial in tiny_sweep.trials)
    assert states == {"FAIL": 1, "COMPLETE": 2}
    assert 0.05 in [trial.params["model.optim.lr"] for trial in tiny_sweep.trials if trial.value is not None]


def test_a_run_that_no_driver_heard_of_is_found(tiny_sweep: TinySweep) -> None:
    """It was killed before it stored which run the trial has."""
    tiny_sweep.write(*SLOW, n_trials=1)
    driver = tiny_sweep.start()
    wait_until(lambda: len(tiny_sweep.trials[0].intermediate_values) > 0, driver)
    kill_both(driver, tiny_sweep)
    driver.communicate()
    (trial,) = tiny_sweep.trials
    tiny_sweep.study._storage.set_trial_user_attr(trial._trial_id, RUNS, {})
    outcome = tiny_sweep.run()
    assert outcome.status == 0, outcome.err
    (run,) = tiny_sweep.children
    assert (run.status, run.tags["lightrail.resumed"]) == ("FINISHED", "1")


def test_two_drivers_share_a_study_and_train_no_trial_too_many(tiny_sweep: TinySweep) -> None:
    tiny_sweep.write(n_trials=5)
    assert tiny_sweep.run("--timeout_minutes=0").status == 0
    drivers = [tiny_sweep.start(), tiny_sweep.start()]
    told = [driver.communicate(timeout=SECONDS_TO_WAIT) for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], told
    assert tiny_sweep.numbers(TrialState.COMPLETE) == [0, 1, 2, 3, 4]
    assert len(tiny_sweep.trials) == len(tiny_sweep.children) == 5
    assert len({trial.user_attrs[DRIVER] for trial in tiny_sweep.trials}) == 2
    lines = sorted(shown.split()[2] for shown, _ in told)
    assert lines in (["finished:", "goes"], ["finished:", "finished:"]), told
    assert len({trial.params["model.optim.lr"] for trial in tiny_sweep.trials}) == 5, "none was tried twice"


def test_a_child_of_a_dead_driver_stops_with_a_checkpoint(tiny_sweep: TinySweep) -> None:
    tiny_sweep.write(*SLOW, "--trainer.max_steps=10000", "--tracking.checkpoint.every_minutes=60", n_trials=1)
    driver = tiny_sweep.start()
    wait_until(lambda: len(tiny_sweep.trials[0].intermediate_values) > 1, driver)
    child = owner_of(tiny_sweep.trials[0].user_attrs[PROCESS])
    assert child is not None
    driver.kill()
    driver.communicate()
    psutil.wait_procs([psutil.Process(child.number)], timeout=20) if child.lives else None
    assert not child.lives
    (run,) = tiny_sweep.children
    assert run.status == "KILLED"
    assert run.checkpoint("last")["global_step"] == len(run.history("train/loss"))
