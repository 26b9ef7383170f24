"""The best trials are trained again with fresh seeds; what is called the winner is one beyond the luck of a seed."""

import csv
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from mlflow import MlflowClient
from optuna.trial import FixedTrial
from scipy import stats

from lightrail.project.basics.errors import ConfigError
from lightrail.project.configuration import Configuration
from lightrail.sweeps.report.concluding import conclude
from lightrail.sweeps.report.description import status_table
from lightrail.sweeps.search.confirming import Confirmation, compare, confirm, confirmation_of, fresh_seeds
from lightrail.sweeps.search.definition import Sweep
from lightrail.sweeps.search.study import open_storage, open_study
from lightrail.sweeps.search.worker import Interrupted, Reports, TrialFailed
from tests.support.children import SECONDS_TO_HANG
from tests.support.made_studies import ACCURACY, LOSS, Story, make_parent, make_sweep
from tests.support.sweeping import TinySweep

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

VALUES = [[0.5], [0.9], [0.7], [0.8]]
"""Of which trials 1 and 3 are the best two."""


@dataclass
class Trainer:
    """Trains nothing, and gives what it is told to; sees that nobody else trains on the same devices."""

    values: Mapping[str, float | Exception]
    """Name of a run, or its first words, to what comes of it."""
    calls: list[dict[str, Any]] = field(default_factory=list)
    together: threading.Barrier | None = None
    is_busy: bool = False
    is_stopping: threading.Event = field(default_factory=threading.Event)

    def __call__(
        self,
        configuration: Configuration,
        *,
        name: str,
        tags: Mapping[str, str],
        run_id: str | None,
        began: Callable[[str], None],
    ) -> Reports:
        assert not self.is_busy
        self.is_busy = True
        self.calls.append({"configuration": configuration, "name": name, "tags": tags, "run_id": run_id})
        began(run_id or f"run of {name}")
        if self.together is not None:
            self.together.wait(SECONDS_TO_HANG)
        self.is_busy = False
        value = self.values.get(name, self.values.get(name.partition(" confirm")[0]))
        if isinstance(value, Exception):
            if str(value) == "stopping":
                self.is_stopping.set()
            raise value
        assert isinstance(value, float)
        return {"3": {ACCURACY: value}, "6": {ACCURACY: value - 0.1}}


def sweep_in(folder: Path, **more: Any) -> Sweep:
    return make_sweep(folder, confirm={"top": 2, "seeds": 3}, storage=f"sqlite:///{folder}/sweeps.db", **more)


def told(sweep: Sweep) -> optuna.Study:
    return Story(sweep, VALUES).tell(open_study(sweep, open_storage(sweep)))


def run(study: optuna.Study, sweep: Sweep, *trainers: Trainer) -> None:
    confirm(study, sweep, trainers, trainers[0].is_stopping)


def confirmed(study: optuna.Study, sweep: Sweep) -> Confirmation:
    found = confirmation_of(study, sweep)
    assert found is not None
    return found


def test_the_best_are_trained_again_with_seeds_that_no_trial_had(tmp_path: Path) -> None:
    sweep = sweep_in(tmp_path, seeds=2)
    study, trainer = told(sweep), Trainer({"trial 1": 0.8, "trial 3": 0.7})
    run(study, sweep, trainer)
    assert (list(sweep.seeds), fresh_seeds(sweep)) == ([0, 1], [2, 3, 4])
    names = [f"trial {number} confirm seed {seed}" for seed in (2, 3, 4) for number in (1, 3)]
    assert [call["name"] for call in trainer.calls] == names
    for call in trainer.calls:
        number, seed = int(call["name"].split()[1]), int(call["name"].split()[-1])
        settings = sweep.space.suggest(FixedTrial(study.trials[number].params))
        assert call["configuration"] == sweep.configuration(settings, seed)
        assert call["tags"] == {
            "lightrail.trial": str(number),
            "lightrail.confirm": "true",
        }
    found = confirmed(study, sweep)
    assert found.values == {1: {2: 0.8, 3: 0.8, 4: 0.8}, 3: {2: 0.7, 3: 0.7, 4: 0.7}}  # at the best validation
    assert confirmation_of(open_study(sweep, open_storage(sweep)), sweep) == found  # the storage holds it


def test_nothing_is_trained_again_where_none_is_asked_for(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path)
    study, trainer = Story(sweep, VALUES).tell(), Trainer({})
    run(study, sweep, trainer)
    assert trainer.calls == []
    assert confirmation_of(study, sweep) is None


def test_all_trainers_train_at_the_same_time_and_none_twice_at_once(tmp_path: Path) -> None:
    sweep = sweep_in(tmp_path)
    values, both = {"trial 1": 0.8, "trial 3": 0.7}, threading.Barrier(2)
    one, other = Trainer(values, together=both), Trainer(values, together=both)
    run(told(sweep), sweep, one, other)
    assert len(one.calls) == len(other.calls) == 3


def test_it_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    sweep = sweep_in(tmp_path)
    study = told(sweep)
    first = Trainer({"trial 1": 0.8, "trial 3": 0.7, "trial 1 confirm seed 2": Interrupted("stopping")})
    with pytest.raises(Interrupted):
        run(study, sweep, first)
    assert [call["name"] for call in first.calls][-1] == "trial 1 confirm seed 2"  # nothing begins after that
    assert confirmation_of(study, sweep) is None
    again = Trainer({"trial 1": 0.8, "trial 3": 0.7})
    run(open_study(sweep, open_storage(sweep)), sweep, again)
    assert len(first.calls) + len(again.calls) == 6 + 1
    assert (again.calls[0]["name"], again.calls[0]["run_id"]) == (
        "trial 1 confirm seed 2",
        "run of trial 1 confirm seed 2",
    )
    assert {call["run_id"] for call in again.calls[1:]} == {None}
    last = Trainer({})
    run(study, sweep, last)
    assert last.calls == []


def test_a_process_that_is_killed_goes_on_at_once_but_not_for_ever(tmp_path: Path) -> None:
    sweep = sweep_in(tmp_path)
    study = told(sweep)
    trainer = Trainer({"trial 1": 0.8, "trial 3": 0.7, "trial 3 confirm seed 1": Interrupted("killed")})
    run(study, sweep, trainer)
    runs = [call["run_id"] for call in trainer.calls if call["name"] == "trial 3 confirm seed 1"]
    assert runs == [None, "run of trial 3 confirm seed 1", "run of trial 3 confirm seed 1"]
    assert confirmed(study, sweep).failures == {3: "killed"}


def test_a_training_that_fails_leaves_its_trial_out(tmp_path: Path) -> None:
    sweep = sweep_in(tmp_path)
    study = told(sweep)
    trainer = Trainer({"trial 1": 0.8, "trial 3": 0.7, "trial 1 confirm seed 3": TrialFailed("out of memory")})
    run(study, sweep, trainer)
    found = confirmed(study, sweep)
    assert (found.order, found.winner, found.failures) == ([3], None, {1: "out of memory"})
    assert "nothing was trained again to compare it with" in found.verdict
    assert "trial 1 could not be trained again: out of memory" in found.verdict


def test_a_winner_is_named_with_its_evidence() -> None:
    ahead = {1: {5: 0.81, 6: 0.84, 7: 0.80}, 2: {5: 0.71, 6: 0.75, 7: 0.70}, 4: {5: 0.1, 6: 0.2, 7: 0.3}}
    found = compare("val/accuracy", True, ahead, {})
    assert (found.order, found.winner) == ([1, 2, 4], 1)
    expected = stats.ttest_rel(list(ahead[1].values()), list(ahead[2].values())).confidence_interval(0.95)
    own = found.differences[0]
    assert own.other == 2
    assert (own.low, own.high) == pytest.approx((expected.low, expected.high))
    assert found.verdict.startswith(
        "Trial 1 is the winner: val/accuracy 0.8167 ± 0.0208 over 3 fresh seeds; it is better"
    )


def test_differences_within_the_noise_are_a_tie_that_says_what_was_measured() -> None:
    near = {1: {5: 0.81, 6: 0.70, 7: 0.80}, 2: {5: 0.71, 6: 0.75, 7: 0.70}}
    found = compare("val/accuracy", True, near, {})
    assert (found.order, found.winner) == ([1, 2], None)
    assert found.verdict.startswith("No winner: trial 1 ties with 2. It has val/accuracy 0.7700 ± 0.0608 over 3")
    assert "95 % interval [-0.1651, 0.2651]" in found.verdict


def test_a_winner_must_be_better_than_every_other_one() -> None:
    values = {1: {5: 0.8, 6: 0.8, 7: 0.81}, 2: {5: 0.7, 6: 0.71, 7: 0.7}, 3: {5: 0.9, 6: 0.6, 7: 0.5}}
    found = compare("val/accuracy", True, values, {})
    assert [own.is_shown for own in found.differences] == [True, False]
    assert found.winner is None
    assert "ties with 3" in found.verdict


def test_of_a_loss_less_is_better() -> None:
    values = {1: {5: 0.81, 6: 0.84, 7: 0.80}, 2: {5: 0.71, 6: 0.75, 7: 0.70}}
    found = compare("val/loss", False, values, {})
    assert (found.order, found.winner) == ([2, 1], 2)


@pytest.mark.parametrize("num_trials", [2, 4])
def test_equal_trials_are_called_a_tie_as_often_as_is_promised(num_trials: int) -> None:
    random = np.random.default_rng(0)
    seeds = range(3)
    winners = 0
    for values in random.normal(0.8, 0.02, (1000, num_trials, len(seeds))):
        own = {number: dict(zip(seeds, map(float, row), strict=True)) for number, row in enumerate(values)}
        winners += compare("val/accuracy", True, own, {}).winner is not None
    assert winners <= 65  # 5 % of 1000, and two standard deviations


def test_the_parent_run_tells_what_was_confirmed(tmp_path: Path, store: str) -> None:
    parent = make_parent(store)
    sweep = make_sweep(tmp_path, store, confirm={"top": 2, "seeds": 2})
    study = Story(sweep, VALUES, parent=parent).tell()
    run(study, sweep, Trainer({"trial 1": 0.6, "trial 3 confirm seed 1": 0.75, "trial 3 confirm seed 2": 0.76}))
    with parent.status():
        last = conclude(study, sweep, parent)
    client = MlflowClient(store)
    stored = client.get_run(parent.run_id).data
    assert "confirmed/character_accuracy=0.7550 confirmed/character_accuracy_sd=0.0071" in last
    assert stored.metrics["confirmed/character_accuracy"] == pytest.approx(0.755)
    assert "Trial 3 is the winner" in stored.tags["mlflow.note.content"]
    assert "Trial 3 is the winner" in (parent.directory / "report.html").read_text("utf-8")
    assert (parent.directory / "best.yaml").read_text("utf-8").startswith("# Trial 3 of the sweep tiny")
    assert client.get_model_version_by_alias("tiny", "best").tags["lightrail.trial"] == "3"
    with (parent.directory / "confirmed.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["trial"], row["seed"], row[ACCURACY]) for row in rows][:2] == [("3", "1", "0.75"), ("3", "2", "0.76")]
    assert len(rows) == 4


@pytest.mark.parametrize(
    ("more", "number"),
    [
        ({"n_trials": 18}, 3),
        ({"n_trials": 17}, 0),
        ({"n_trials": 6, "seeds": 3}, 3),
        ({"n_trials": 12, "confirm": {"seeds": 2}}, 3),
        ({"n_trials": 18, "timeout_minutes": 9}, 0),
        ({"n_trials": 18, "metric": [ACCURACY, LOSS], "direction": ["maximize", "minimize"]}, 0),
        ({"n_trials": 18, "confirm": False}, 0),
        ({"n_trials": 18, "confirm": 0}, 0),
        ({"n_trials": 2, "confirm": {"top": 1}}, 1),
    ],
)
def test_the_best_three_are_confirmed_where_that_is_half_of_the_trainings_at_most(
    tmp_path: Path, more: dict[str, Any], number: int
) -> None:
    sweep = make_sweep(tmp_path, **more)
    assert sweep.config.num_confirmed == number
    said = status_table(optuna.create_study(), sweep)
    assert (f"{number * sweep.config.confirm.seeds} trainings; --confirm 0: none" in said) is (number > 0)


def test_a_pareto_front_has_no_winner_to_confirm(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"confirm.top is 2, but a Pareto front of 2 metrics has no winner"):
        sweep_in(tmp_path, metric=[ACCURACY, LOSS], direction=["maximize", "minimize"])


def test_a_sweep_confirms_its_best_trials_and_has_them_in_mlflow(tiny_sweep: TinySweep) -> None:
    tiny_sweep.write(n_trials=2, confirm={"top": 2, "seeds": 2})
    outcome = tiny_sweep.run()
    assert outcome.status == 0, outcome.err
    assert "confirmed/character_accuracy=" in outcome.last_line
    confirming = [run for run in tiny_sweep.children if run.tags.get("lightrail.confirm") == "true"]
    assert sorted((run.tags["lightrail.trial"], run.tags["lightrail.seed"]) for run in confirming) == [
        ("0", "1"),
        ("0", "2"),
        ("1", "1"),
        ("1", "2"),
    ]
    assert {run.status for run in confirming} == {"FINISHED"}
    assert all("test/loss" in run.metrics for run in confirming)
    trials = [run for run in tiny_sweep.children if run not in confirming]
    tested = [run for run in trials if "test/loss" in run.metrics]
    assert tested == [run for run in trials if run.tags.get("lightrail.best") == "true"], (
        "the others are validated only"
    )
    assert [(run.status, (run.directory / "predictions/test.parquet").is_file()) for run in tested] == [
        ("FINISHED", True)
    ]
    best = {value for run in confirming for _, value in run.history("val/character_accuracy")}
    with (tiny_sweep.parent.directory / "confirmed.csv").open(encoding="utf-8", newline="") as stream:
        assert {float(row[ACCURACY]) for row in csv.DictReader(stream)} <= best
    assert tiny_sweep.run().last_line == outcome.last_line  # nothing is left to do
    assert len(tiny_sweep.children) == 2 + 4
