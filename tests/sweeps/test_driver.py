"""The workers of a study: which trials they ask for, how many, and how they end; nothing is trained."""

import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
from optuna.trial import FrozenTrial, TrialState

from lightrail.project.tracking.processes import PROCESS_TAG, Owner, process_tag
from lightrail.sweeps.search import driver as sweeps_sweep
from lightrail.sweeps.search import study as study_of_sweep
from lightrail.sweeps.search.definition import Sweep
from lightrail.sweeps.search.driver import Driver
from lightrail.sweeps.search.outcomes import Progress
from lightrail.sweeps.search.study import DRIVER, FAILURE, PROCESS, open_storage, open_study
from lightrail.sweeps.search.worker import Interrupted, TrialFailed
from tests.support.children import SECONDS_TO_HANG
from tests.support.made_studies import make_sweep

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
SPACE = {"model.optim.lr": {"low": 1e-4, "high": 1e-1, "log": True}, "model.encoder.depth": {"low": 1, "high": 8}}
Objective = Callable[[optuna.Trial, dict[str, Any], threading.Event], float]


def value_of(trial: optuna.Trial, settings: dict[str, Any], is_stopping: threading.Event) -> float:
    return float(settings["model.optim.lr"] * settings["model.encoder.depth"])


class Untrained:
    """In place of a worker: says at once what comes of a trial."""

    objective_of: Objective = staticmethod(value_of)
    num_with_turn = 0
    most_with_turn = 0

    def __init__(self, sweep: Sweep, parent: str, devices: list[str], threads: int, folder: Path, stop: Any) -> None:
        self.sweep, self.is_stopping = sweep, stop

    def objective(self, trial: optuna.Trial, release: Callable[[], None]) -> float:
        cls = type(self)
        cls.num_with_turn += 1
        cls.most_with_turn = max(cls.most_with_turn, cls.num_with_turn)
        trial.set_user_attr(DRIVER, process_tag()[PROCESS_TAG])
        settings = self.sweep.space.suggest(trial)
        time.sleep(0.01)
        cls.num_with_turn -= 1
        release()
        return cls.objective_of(trial, settings, self.is_stopping)

    def stop(self) -> None: ...


@pytest.fixture(autouse=True)
def _nothing_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeps_sweep, "Worker", Untrained)
    monkeypatch.setattr(sweeps_sweep, "SECONDS_BETWEEN_LOOKS", 0.05)
    monkeypatch.setattr(Untrained, "objective_of", staticmethod(value_of))
    monkeypatch.setattr(Untrained, "most_with_turn", 0)


def drive(folder: Path, *, workers: int = 1, **more: Any) -> list[FrozenTrial]:
    """Have a study in `folder` filled, or gone on with."""
    folder.mkdir(exist_ok=True)
    given = {"space": SPACE, "storage": f"sqlite:///{folder}/sweeps.db", "n_trials": 5, **more}
    sweep = make_sweep(folder, metric="val/loss", direction="minimize", **given)
    storage = open_storage(sweep)
    study = open_study(sweep, storage)
    try:
        Driver(sweep, storage, "parent", [[]] * workers, 1, folder, Progress(sweep, None)).run()
    finally:
        trials = study.get_trials()
    return trials


def asked(trials: list[FrozenTrial]) -> list[tuple[dict[str, Any], float | None]]:
    return [(trial.params, trial.value) for trial in trials if trial.state == TrialState.COMPLETE]


def interrupt_once(*numbers: int) -> Objective:
    """Interrupt these trials, by the order in which they begin."""
    begun: list[int] = []

    def objective(trial: optuna.Trial, settings: dict[str, Any], is_stopping: threading.Event) -> float:
        begun.append(trial.number)
        if len(begun) - 1 in numbers:
            raise Interrupted("as asked")
        return value_of(trial, settings, is_stopping)

    return objective


@pytest.mark.parametrize("sampler", [None, "RandomSampler"])
def test_a_definition_asks_for_the_same_trials_each_time(tmp_path: Path, sampler: str | None) -> None:
    more: dict[str, Any] = {"n_trials": 14, **({} if sampler is None else {"sampler": sampler})}
    one, other = (asked(drive(tmp_path / name, **more)) for name in ("one", "other"))
    assert one == other
    assert len({str(params) for params, _ in one}) == 14, "none is tried twice"
    assert asked(drive(tmp_path / "third", seed=1, n_trials=1)) != one[:1]


def test_a_sweep_in_parts_asks_for_what_it_asks_for_at_once(tmp_path: Path) -> None:
    at_once = asked(drive(tmp_path / "one", n_trials=13))
    for number in (4, 12, 13):
        trials = drive(tmp_path / "parts", n_trials=number)
    assert asked(trials) == at_once


def test_a_sweep_that_is_interrupted_asks_for_the_same_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = asked(drive(tmp_path / "one", n_trials=13))
    monkeypatch.setattr(Untrained, "objective_of", staticmethod(interrupt_once(1, 4)))
    assert asked(drive(tmp_path / "disturbed", n_trials=13)) == undisturbed


def test_workers_begin_one_at_a_time_and_no_trial_too_many(tmp_path: Path) -> None:
    trials = drive(tmp_path, workers=4, n_trials=9)
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 9
    assert Untrained.most_with_turn == 1
    assert len({str(trial.params) for trial in trials}) == 9
    assert len(drive(tmp_path, workers=4, n_trials=9)) == 9, "there is nothing left to be done"
    assert len(drive(tmp_path, workers=4, n_trials=3)) == 9


def test_interrupted_trials_go_on_and_failed_ones_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupting = interrupt_once(1, 3)

    def objective(trial: optuna.Trial, settings: dict[str, Any], is_stopping: threading.Event) -> float:
        if trial.number == 0:
            trial.set_user_attr(FAILURE, {"reason": "as asked", "log": ""})
            raise TrialFailed("as asked")
        return interrupting(trial, settings, is_stopping)

    monkeypatch.setattr(Untrained, "objective_of", staticmethod(objective))
    trials = drive(tmp_path, workers=2, n_trials=5)
    assert Counter(trial.state.name for trial in trials) == {"FAIL": 3, "COMPLETE": 4}
    assert len({str(trial.params) for trial in trials}) == 5, "the copies have the settings of those interrupted"


def test_an_error_of_one_worker_stops_the_others_and_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    has_begun = threading.Event()

    def objective(trial: optuna.Trial, settings: dict[str, Any], is_stopping: threading.Event) -> float:
        if trial.number == 0:
            assert has_begun.wait(SECONDS_TO_HANG)
            raise OSError("the disk is full")
        has_begun.set()
        assert is_stopping.wait(SECONDS_TO_HANG), "the others are told"
        raise Interrupted("stopped")

    monkeypatch.setattr(Untrained, "objective_of", staticmethod(objective))
    with pytest.raises(OSError, match="the disk is full"):
        drive(tmp_path, workers=3)
    monkeypatch.setattr(Untrained, "objective_of", staticmethod(value_of))
    trials = drive(tmp_path, workers=3)
    assert len(asked(trials)) == 5, "the same command goes on"


def test_no_trial_begins_when_the_time_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def objective(trial: optuna.Trial, settings: dict[str, Any], is_stopping: threading.Event) -> float:
        time.sleep(3.5)  # beyond the end of the time
        return value_of(trial, settings, is_stopping)

    monkeypatch.setattr(Untrained, "objective_of", staticmethod(objective))
    assert drive(tmp_path, timeout_minutes=0) == []
    trials = drive(tmp_path, timeout_minutes=3 / 60, workers=2)
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}, "those in progress come to their end"
    assert len(trials) == 2


def test_a_worker_without_a_trial_waits_for_those_in_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of them may be interrupted, and then it is its turn."""
    workers: list[str] = []

    def objective(trial: optuna.Trial, settings: dict[str, Any], is_stopping: threading.Event) -> float:
        workers.append(threading.current_thread().name)
        if len(workers) == 1:
            time.sleep(0.4)
            raise Interrupted("as asked")
        return value_of(trial, settings, is_stopping)

    monkeypatch.setattr(Untrained, "objective_of", staticmethod(objective))
    trials = drive(tmp_path, workers=2, n_trials=1)
    assert [trial.state.name for trial in trials] == ["FAIL", "COMPLETE"]


def test_a_trial_interrupted_while_another_worker_counts_is_not_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends without the turn, between the look for interrupted trials and the count."""
    is_looked_for = threading.Event()
    restore = study_of_sweep.restore_interrupted
    begun: list[int] = []

    def restore_slowly(study: optuna.Study) -> None:
        restore(study)
        if begun and not is_looked_for.is_set():
            is_looked_for.set()
            while study.get_trials(states=[TrialState.RUNNING]):
                time.sleep(0.01)

    def objective(trial: optuna.Trial, settings: dict[str, Any], is_stopping: threading.Event) -> float:
        begun.append(trial.number)
        if len(begun) == 1:
            assert is_looked_for.wait(SECONDS_TO_HANG)
            raise Interrupted("as asked")
        return value_of(trial, settings, is_stopping)

    monkeypatch.setattr(Untrained, "objective_of", staticmethod(objective))
    monkeypatch.setattr(sweeps_sweep, "restore_interrupted", restore_slowly)
    trials = drive(tmp_path, workers=2, n_trials=1)
    assert [trial.state.name for trial in trials] == ["FAIL", "COMPLETE"]
    assert study_of_sweep.requeue.retry_history(trials[1]) == [0]


def test_a_process_that_a_dead_driver_left_is_ended_before_its_trial_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_of_sweep, "SECONDS_TO_STOP", 0.2)
    drive(tmp_path, timeout_minutes=0)
    study = optuna.load_study(study_name="tiny", storage=f"sqlite:///{tmp_path}/sweeps.db")
    left = study.ask()
    left.set_user_attr(DRIVER, Owner.of(psutil.Process())._replace(created=1).tag)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True) as orphan:
        left.set_user_attr(PROCESS, Owner.of(psutil.Process(orphan.pid)).tag)
        trials = drive(tmp_path, n_trials=1)
        assert orphan.poll() == -signal.SIGKILL
    assert [trial.state.name for trial in trials] == ["FAIL", "COMPLETE"]
