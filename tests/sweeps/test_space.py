"""What a space asks the sampler for, and its corners."""

from typing import Any

import optuna
import pytest
from optuna.samplers import RandomSampler
from optuna.trial import FixedTrial

from lightrail.project.basics.errors import ConfigError
from lightrail.sweeps.search.space import read_space

BRANCHES = {"lstm": {"model.depth": {"low": 1, "high": 2}}, "plain": {"model.depth": 3}}


def test_only_the_branch_that_is_chosen_is_asked_for() -> None:
    space = read_space({"network": {"branches": BRANCHES}})
    assert space.suggest(FixedTrial({"network": "lstm", "network.lstm.model.depth": 2})) == {"model.depth": 2}
    assert space.suggest(FixedTrial({"network": "plain"})) == {"model.depth": 3}
    assert [corner["model.depth"] for corner in space.corners()] == [1, 2, 3]


def test_a_bound_below_the_other_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"space\.lr: low is 2 and high is 1"):
        read_space({"lr": {"low": 2, "high": 1}})


def test_a_misspelt_key_of_a_distribution_names_its_neighbour() -> None:
    with pytest.raises(ConfigError, match=r"space\.lr: unknown key 'stepp'\. Did you mean step\?"):
        read_space({"lr": {"low": 1, "high": 2, "stepp": 1}})


@pytest.mark.parametrize(
    ("low", "high", "step", "last"), [(16, 50, 16, 48), (0.1, 0.5, 0.3, 0.4), (0.1, 0.4, 0.1, 0.4), (1, 4, 9, 1)]
)
def test_the_last_corner_is_the_last_value_that_can_be_drawn(low: float, high: float, step: float, last: float) -> None:
    corners = read_space({"x": {"low": low, "high": high, "step": step}}).corners()
    assert max(corner["x"] for corner in corners) == pytest.approx(last)


@pytest.mark.parametrize(
    "choices",
    [[1, 1.0], [0, False, 0.5], [True, 1], [1, 1.0, "1.0", True], ["1.0", 1, 1.0], [[1], [1.0], "[1]"], [None, "None"]],
    ids=str,
)
def test_each_of_the_choices_that_are_equal_in_python_is_drawn_stored_and_found_again(choices: list[Any]) -> None:
    space = read_space({"x": {"choices": choices}})
    study = optuna.create_study(storage="sqlite://", sampler=RandomSampler(seed=0))
    drawn: list[Any] = []
    study.optimize(lambda trial: drawn.append(space.suggest(trial)["x"]) or 0.0, n_trials=40)  # type: ignore[func-returns-value]
    assert set(map(repr, drawn)) == set(map(repr, choices))
    stored = [dict(trial.params) for trial in study.trials]
    assert [repr(space.suggest(FixedTrial(params))["x"]) for params in stored] == list(map(repr, drawn))
    enqueued = [space.distributions["x"].parameter(value) for value in choices]
    assert [repr(space.suggest(FixedTrial({"x": one}))["x"]) for one in enqueued] == list(map(repr, choices))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"x": {"choices": [1, 2, 1]}}, r"space\.x\.choices: .* names a value twice"),
        ({"x": {"branches": {1: {"y": 1}, "1": {"y": 2}}}}, r"space\.x\.branches: .* names a branch twice"),
        ({"x": {"choices": [1], "low": 1}}, r"space\.x: low does not go with choices\."),
        ({1: {"choices": [1]}}, r"space: expected names of settings, found 1"),
        ({"x": {"low": 0, "high": float("nan")}}, r"space\.x\.high: expected a finite number, found nan"),
        ({"x": {"low": 0, "high": 10**400}}, r"space\.x\.high: expected a finite number, found 1000"),
        ({"x": {"low": 0.5, "high": 2, "step": 1, "log": True}}, r"space\.x\.step: .*logarithmic scale"),
    ],
    ids=str,
)
def test_what_cannot_be_searched_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_space(given)
