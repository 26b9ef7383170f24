"""A sweep that is ended at any moment and in any way, begun again with the same command."""

import os
import signal
import time
from collections import Counter
from collections.abc import Collection, Mapping

from mlflow.entities import Run
from optuna.trial import FrozenTrial, TrialState

from lightrail.project.tracking.processes import Owner, owner_of
from lightrail.sweeps.search.study import DRIVER, PROCESS, RUNS, finished
from tests.support.children import SECONDS_TO_HANG, wait_for
from tests.support.running import Outcome, RecordedRun
from tests.support.sweeping import TinySweep

STEPS, VALIDATED_EVERY = 30, 3
SLOW = ["--trainer.callbacks.seconds=0.2", f"--trainer.max_steps={STEPS}", "--tracking.checkpoint.every_steps=2"]


def test_a_sweep_that_is_killed_again_and_again_ends_with_as_many_trials_as_were_asked_for(
    tiny_sweep: TinySweep,
) -> None:
    tiny_sweep.write(*SLOW, n_trials=3)
    driver = tiny_sweep.start()
    wait_for(GoneOn(tiny_sweep, {}), driver)
    kill_trials(tiny_sweep)
    before = places(tiny_sweep)
    wait_for(GoneOn(tiny_sweep, before), driver)
    driver.kill()
    driver.communicate()
    for trial in tiny_sweep.study.get_trials(states=[TrialState.RUNNING]):
        wait_for_the_end(trial)
        run = RecordedRun(tiny_sweep.store, trial.user_attrs[RUNS]["0"])
        assert run.status == "KILLED", run.tags
        steps = len(run.history("train/loss"))
        is_unheard = steps % VALIDATED_EVERY == 0  # a validation of which no driver heard takes place again
        assert is_unheard or run.checkpoint("last")["global_step"] == steps, "no other step is lost"
    before = places(tiny_sweep)
    driver = tiny_sweep.start()
    wait_for(GoneOn(tiny_sweep, before), driver)
    driver.kill()
    kill_trials(tiny_sweep)
    driver.communicate()
    forgotten = tiny_sweep.study.get_trials(states=[TrialState.RUNNING])[0]
    tiny_sweep.study._storage.set_trial_user_attr(forgotten._trial_id, RUNS, {})  # its driver had not yet heard of it
    check_is_whole(tiny_sweep, tiny_sweep.run(), interrupted=before)


def test_a_sweep_that_is_told_to_stop_goes_on(tiny_sweep: TinySweep) -> None:
    tiny_sweep.write(*SLOW, n_trials=2)
    before: dict[str, Place] = {}
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        driver = tiny_sweep.start()
        wait_for(GoneOn(tiny_sweep, before), driver)
        driver.send_signal(number)
        _, errors = driver.communicate()
        assert driver.returncode == status, errors
        assert {run.status for run in tiny_sweep.children} == {"KILLED"}
        before = places(tiny_sweep)
    check_is_whole(tiny_sweep, tiny_sweep.run(), interrupted=before)


def check_is_whole(sweep: TinySweep, outcome: Outcome, interrupted: Collection[str]) -> None:
    """Every trial is complete, in one run from its first step to its last.

    Args:
        interrupted: runs that were.
    """
    assert outcome.status == 0, outcome.err
    wanted = sweep.values["n_trials"]
    assert len(finished(sweep.study)) == len(sweep.numbers(TrialState.COMPLETE)) == wanted
    assert not sweep.numbers(TrialState.RUNNING, TrialState.WAITING)
    ended = {run for trial in finished(sweep.study) for run in trial.user_attrs[RUNS].values()}
    assert ended >= set(interrupted), "they went on in their own runs"
    assert {run.run_id for run in sweep.children} == ended
    for run in sweep.children:
        assert run.status == "FINISHED"
        assert [step for step, _ in run.history("train/loss")] == list(range(1, STEPS + 1))
        assert ("lightrail.resumed" in run.tags) is (run.run_id in interrupted)
    for trial in finished(sweep.study):
        assert sorted(trial.intermediate_values) == list(range(VALIDATED_EVERY, STEPS + 1, VALIDATED_EVERY))
    assert sweep.parent.status == "FINISHED"
    deadline = time.monotonic() + SECONDS_TO_HANG
    while (left := trials_left(sweep)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []


Place = tuple[int, int]
"""How far a run is: how often it has gone on, and its optimizer steps."""


def places(sweep: TinySweep) -> dict[str, Place]:
    """Of each run of a trial."""
    return {run.info.run_id: place_of(sweep, run) for run in sweep.found_children}


def place_of(sweep: TinySweep, run: Run) -> Place:
    steps = RecordedRun(sweep.store, run.info.run_id).history("train/loss")
    return int(run.data.tags.get("lightrail.resumed", 0)), len(steps)


class GoneOn:
    """Whether two trials are trained, each beyond where it was and beyond its first validation.

    The last steps before a run was killed may have waited on the disk. They are sent when it resumes, and are none that
    it trains now: a run counts from what it had when it was first seen to be resumed.
    """

    def __init__(self, sweep: TinySweep, before: Mapping[str, Place]) -> None:
        self.sweep, self.before = sweep, before
        self.resumed_at: dict[str, int] = {}

    def __call__(self) -> bool:
        running = [run for run in self.sweep.found_children if run.info.status == "RUNNING"]
        return len(running) == 2 and all(
            self._is_beyond(run.info.run_id, *place_of(self.sweep, run)) for run in running
        )

    def _is_beyond(self, run_id: str, num_resumed: int, num_steps: int) -> bool:
        if run_id not in self.before:
            return num_steps > VALIDATED_EVERY
        resumed, steps = self.before[run_id]
        return num_resumed > resumed and num_steps > max(steps, self.resumed_at.setdefault(run_id, num_steps))


def process_of(trial: FrozenTrial) -> Owner | None:
    return owner_of(trial.user_attrs.get(PROCESS, ""))


def lives(trial: FrozenTrial) -> bool:
    process = process_of(trial)
    return process is not None and process.lives


def trials_left(sweep: TinySweep) -> list[int]:
    return [trial.number for trial in sweep.trials if lives(trial)]


def kill_trials(sweep: TinySweep) -> None:
    for trial in sweep.study.get_trials(states=[TrialState.RUNNING]):
        process = process_of(trial)
        if process is not None and process.lives:
            os.kill(process.number, signal.SIGKILL)


def wait_for_the_end(trial: FrozenTrial) -> None:
    """Of a trial's process, which has lost its driver."""
    deadline = time.monotonic() + SECONDS_TO_HANG
    while lives(trial) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not lives(trial)


def test_a_trial_of_nobody_is_gone_on_with(tiny_sweep: TinySweep) -> None:
    """Its driver was killed between asking for it and saying which process it is."""
    tiny_sweep.write(n_trials=2, enqueue=[{"model.optim.lr": 0.05}])
    assert tiny_sweep.run("--timeout_minutes=0").status == 1  # no trial has been finished
    asked = tiny_sweep.study.ask()
    assert asked.number == 0
    outcome = tiny_sweep.run()
    assert outcome.status == 0, outcome.err
    states = Counter(trial.state.name for trial in tiny_sweep.trials)
    assert states == {"FAIL": 1, "COMPLETE": 2}
    assert 0.05 in [trial.params["model.optim.lr"] for trial in tiny_sweep.trials if trial.value is not None]


def test_two_drivers_share_a_study_and_train_no_trial_too_many(tiny_sweep: TinySweep) -> None:
    tiny_sweep.write("--trainer.callbacks.seconds=0.3", n_trials=5)
    driver = tiny_sweep.start("--resources.workers=1")  # which alone takes longer than another one takes to join
    wait_for(lambda: len(tiny_sweep.trials) > 0, driver)
    joined = tiny_sweep.run()
    shown, errors = driver.communicate()
    assert (driver.returncode, joined.status) == (0, 0), errors + joined.err
    assert tiny_sweep.numbers(TrialState.COMPLETE) == [0, 1, 2, 3, 4]
    assert len(tiny_sweep.trials) == len(tiny_sweep.children) == 5
    assert len({trial.user_attrs[DRIVER] for trial in tiny_sweep.trials}) == 2
    assert shown.startswith(f"sweep {tiny_sweep.parent.run_id} finished: ")
    assert joined.last_line.startswith(f"sweep {tiny_sweep.parent.run_id} is still running: ")
    assert len({trial.params["model.optim.lr"] for trial in tiny_sweep.trials}) == 5, "none was tried twice"
