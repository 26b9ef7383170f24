"""What a space asks the sampler for, and its corners."""

import pytest
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
