"""What a worker tells Optuna of what a trial's process says: with a process that only says it."""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import psutil
import pytest
from optuna.trial import FrozenTrial, TrialState

from lightrail.project.basics.errors import ConfigError
from lightrail.project.tracking.processes import Owner
from lightrail.sweeps.search import worker as driving
from lightrail.sweeps.search.definition import Sweep
from lightrail.sweeps.search.study import DRIVER, FAILURE, HALVED, KILLS, REPORTS, RUNS, requeue
from lightrail.sweeps.search.worker import MOST_KILLS, Interrupted, TrialFailed, Worker, best_of
from lightrail.sweeps.trials.messages import Assignment, Failed, FailureKind, Finished, Message, Report, Started
from tests.support.made_studies import ACCURACY, LOSS, make_sweep

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
RUN = Started("run")
DONE = Finished({})


class Said:
    """In place of a trial's process. `answers` are those of the driver, `assignments` what each was to do."""

    stories: list[list[Message]]
    answers: list[bool]
    assignments: list[Assignment]

    def __init__(self, assignment: Assignment, num_processes: int) -> None:
        self.assignments.append(assignment)
        self.owner = Owner.of(psutil.Process())

    def messages(self) -> Iterator[Message]:
        yield from self.stories.pop(0)

    def answer(self, goes_on: bool) -> None:
        self.answers.append(goes_on)

    def last_lines(self) -> str:
        return "its last words"

    def stop(self) -> None: ...

    def close(self) -> None: ...


@pytest.fixture(autouse=True)
def _no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    Said.stories, Said.answers, Said.assignments = [], [], []
    monkeypatch.setattr(driving, "TrialProcess", Said)


def reports(*values: float, metric: str = LOSS) -> list[Message]:
    return [Report(3 * place, {metric: value}) for place, value in enumerate(values, 1)]


def train(
    sweep: Sweep,
    *stories: Sequence[Message],
    pruner: optuna.pruners.BasePruner | None = None,
    is_stopping: bool = False,
) -> list[FrozenTrial]:
    """Have as many trials trained as there are stories; a trial that is interrupted is queued again."""
    stopping = threading.Event()
    if is_stopping:
        stopping.set()
    worker = Worker(sweep, "parent", [], 1, Path("logs"), stopping)
    Said.stories = [list(story) for story in stories]
    sampler = optuna.samplers.RandomSampler(seed=0)
    study = optuna.create_study(sampler=sampler, pruner=pruner, directions=list(sweep.config.directions))
    while Said.stories:
        study.optimize(
            lambda trial: worker.objective(trial, lambda: None),
            n_trials=1,
            catch=(TrialFailed, Interrupted),
            callbacks=[_queue_again],
        )
    return study.get_trials(deepcopy=False)


def _queue_again(study: optuna.Study, trial: FrozenTrial) -> None:
    if trial.state == TrialState.FAIL and FAILURE not in trial.user_attrs:
        requeue(study, trial)


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return make_sweep(tmp_path, metric=LOSS, direction="minimize")


def test_a_trial_is_as_good_as_its_best_validation(sweep: Sweep) -> None:
    (trial,) = train(sweep, [RUN, *reports(0.5, 0.2, 0.4), DONE])
    assert (trial.value, trial.intermediate_values) == (0.2, {3: 0.5, 6: 0.2, 9: 0.4})
    assert trial.user_attrs[RUNS] == {"0": "run"}
    assert DRIVER in trial.user_attrs
    assert Said.answers == [True, True, True]
    (assignment,) = Said.assignments
    assert assignment.tags["lightrail.trial"] == "0"
    assert (assignment.run_id, assignment.has_begun) == (None, False)
    assert assignment.values["model"]["init_args"]["optim"]["lr"] == trial.params["model.optim.lr"]


@pytest.mark.parametrize(("direction", "best"), [("maximize", [0.8, 3.0]), ("minimize", [0.1, 2.0])])
def test_other_metrics_are_those_of_the_validation_that_was_best_by_the_first(
    tmp_path: Path, direction: str, best: list[float]
) -> None:
    two = make_sweep(tmp_path, metric=[ACCURACY, LOSS], direction=[direction, "minimize"])
    values = [{ACCURACY: own, LOSS: loss} for own, loss in ((0.5, 1.0), (0.1, 2.0), (0.8, 3.0))]
    assert best_of({str(step): own for step, own in enumerate(values)}, two) == best
    (trial,) = train(two, [RUN, *(Report(step, own) for step, own in enumerate(values, 1)), DONE])
    assert trial.values == best
    assert trial.intermediate_values == {}, "Optuna prunes by one number"


def test_a_trial_that_the_pruner_gives_up_is_told_so_and_counts_as_pruned(sweep: Sweep) -> None:
    pruner = optuna.pruners.ThresholdPruner(upper=0.5)
    (trial,) = train(sweep, [RUN, *reports(0.3, 0.7), Failed("pruned at step 6", "pruned")], pruner=pruner)
    assert (trial.state, list(trial.intermediate_values)) == (TrialState.PRUNED, [3, 6])
    assert Said.answers == [True, False]
    assert FAILURE not in trial.user_attrs


def test_a_failure_keeps_its_reason_and_last_words(sweep: Sweep) -> None:
    (trial,) = train(sweep, [RUN, *reports(0.3), Failed("RuntimeError: as asked", "error")])
    assert trial.state == TrialState.FAIL
    assert trial.user_attrs[FAILURE] == {"reason": "RuntimeError: as asked", "log": "its last words"}


def test_a_training_without_a_validation_is_a_failure(sweep: Sweep) -> None:
    (trial,) = train(sweep, [RUN, DONE])
    assert trial.user_attrs[FAILURE]["reason"].startswith("no validation took place")


def test_a_trial_that_goes_on_repeats_validations_and_tells_none_twice(sweep: Sweep) -> None:
    killed: list[Message] = [RUN, *reports(0.5, 0.4), Failed("ended from outside", "killed")]
    rest: list[Message] = [RUN, Report(6, {LOSS: 0.41}), Report(9, {LOSS: 0.3}), DONE]
    before, after = train(sweep, killed, rest)
    assert (before.state, after.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert FAILURE not in before.user_attrs
    assert (after.params, after.user_attrs[KILLS]) == (before.params, 1)
    assert after.intermediate_values == {3: 0.5, 6: 0.4, 9: 0.3}
    assert (after.value, sorted(after.user_attrs[REPORTS]["0"])) == (0.3, ["3", "6", "9"])
    assert [(own.run_id, own.has_begun) for own in Said.assignments] == [(None, False), ("run", True)]
    assert Said.assignments[1].tags["lightrail.trial"] == "0"


def test_a_trial_that_is_killed_again_and_again_is_a_failure(sweep: Sweep) -> None:
    killed: list[Message] = [RUN, Failed("ended from outside", "killed")]
    trials = train(sweep, *[killed] * (MOST_KILLS + 1))
    assert [FAILURE in trial.user_attrs for trial in trials] == [False] * MOST_KILLS + [True]
    assert trials[-1].user_attrs[FAILURE]["reason"] == "ended from outside"


@pytest.mark.parametrize("kind", ["killed", "interrupted"])
def test_what_a_sweep_that_stops_has_interrupted_goes_on_however_often(sweep: Sweep, kind: FailureKind) -> None:
    stopped: list[Message] = [RUN, Failed("stopped", kind)]
    trials = train(sweep, *[stopped] * (MOST_KILLS + 2), is_stopping=True)
    assert not any(FAILURE in trial.user_attrs or KILLS in trial.user_attrs for trial in trials)


def test_out_of_memory_begins_anew_with_half_batches_once(tmp_path: Path) -> None:
    space = {"model.optim.lr": {"low": 1e-4, "high": 1e-1}, "data.batch.max_tokens": 100}
    sweep = make_sweep(tmp_path, metric=LOSS, direction="minimize", space=space)
    full = Failed("not enough memory", "memory")
    (trial,) = train(sweep, [RUN, *reports(0.3, 0.3, 0.1), full], [Started("second"), *reports(0.6, 0.5), DONE])
    assert (trial.value, trial.user_attrs[HALVED], trial.user_attrs[RUNS]) == (0.5, True, {"0": "second"})
    batches = [own.values["data"]["init_args"]["batch"]["max_tokens"] for own in Said.assignments]
    steps = [own.values["trainer"]["accumulate_grad_batches"] for own in Said.assignments]
    assert (batches, steps) == ([100, 50], [1, 2])
    assert [own.run_id for own in Said.assignments] == [None, None]
    (failed,) = train(sweep, [RUN, full], [RUN, full])
    assert failed.user_attrs[FAILURE]["reason"] == "not enough memory"


def test_seeds_are_reported_one_by_one_and_their_mean_counts(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, metric=LOSS, direction="minimize", seeds=2)
    seeds = [
        [Started(f"run {place}"), *reports(*values), DONE] for place, values in enumerate([(0.5, 0.2), (0.4, 0.6)])
    ]
    (trial,) = train(sweep, *seeds)
    assert trial.value == pytest.approx(0.3)
    assert trial.intermediate_values == {0: 0.2, 1: 0.4}
    assert trial.user_attrs[RUNS] == {"0": "run 0", "1": "run 1"}
    assert [own.values["seed_everything"] for own in Said.assignments] == [0, 1]
    (bad,) = train(sweep, seeds[0], pruner=optuna.pruners.ThresholdPruner(upper=0.1))
    assert (bad.state, bad.intermediate_values) == (TrialState.PRUNED, {0: 0.2})


def test_a_trial_is_given_up_when_its_seeds_are_worse_one_by_one(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, metric=LOSS, direction="minimize", seeds=6)
    good = [[RUN, *reports(0.1 + seed / 100), DONE] for seed in range(6)]
    worse = [[RUN, *reports(0.2 + seed / 100), DONE] for seed in range(4)]
    first, second = train(sweep, *good, *worse, pruner=optuna.pruners.WilcoxonPruner(p_threshold=0.1))
    assert (first.state, second.state) == (TrialState.COMPLETE, TrialState.PRUNED)
    assert list(second.intermediate_values) == [0, 1, 2, 3], "four pairs are the fewest that can show it: p is 1/16"


def test_a_trial_with_settings_that_do_not_go_together_is_a_failure_of_its_own(sweep: Sweep) -> None:
    def refuse(*_: Any) -> None:
        raise ConfigError("width is 3")

    own = SimpleNamespace(config=sweep.config, space=sweep.space, seeds=sweep.seeds, configuration=refuse)
    worker = Worker(own, "parent", [], 1, Path("logs"), threading.Event())  # type: ignore[arg-type]
    study = optuna.create_study()
    study.optimize(lambda trial: worker.objective(trial, lambda: None), n_trials=1, catch=(TrialFailed,))
    assert study.trials[0].user_attrs[FAILURE]["reason"] == "ConfigError: width is 3"
