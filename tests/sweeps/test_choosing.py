"""Samplers and pruners by the names that a definition gives them."""

import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.pruners import MedianPruner, NopPruner
from optuna.samplers import RandomSampler, TPESampler

from lightrail.project.basics.errors import ConfigError
from lightrail.sweeps.search.definition import SAMPLER
from lightrail.sweeps.search.driver import build_pruner, build_sampler, try_out
from tests.support.made_studies import ACCURACY, LOSS, make_sweep


def test_a_class_is_named_in_short_or_in_full() -> None:
    for name in ("TPESampler", "optuna.samplers.TPESampler"):
        assert type(build_sampler(name, 0, 0)) is TPESampler
        assert type(build_sampler({"class_path": name, "init_args": {"n_startup_trials": 3}}, 0, 0)) is TPESampler
    for name in ("MedianPruner", "optuna.pruners.MedianPruner"):
        assert type(build_pruner(name)) is MedianPruner


def test_arguments_are_passed() -> None:
    spec = {"class_path": "PercentilePruner", "init_args": {"percentile": 25.0, "n_warmup_steps": 7}}
    pruner = build_pruner(spec)
    assert (pruner._percentile, pruner._n_warmup_steps) == (25.0, 7)  # type: ignore[attr-defined]
    assert type(build_pruner({"class_path": "NopPruner", "init_args": None})) is NopPruner


def first_points(spec: str | dict[str, Any], seeds: list[int]) -> list[float]:
    """What the first trial of a study is, by the seed of its sampler."""
    studies = [optuna.create_study(sampler=build_sampler(spec, seed, 0)) for seed in seeds]
    return [study.ask().suggest_float("x", 0, 1) for study in studies]


@pytest.mark.parametrize("spec", ["RandomSampler", "TPESampler", "CmaEsSampler", "NSGAIISampler", SAMPLER])
def test_a_seed_decides_what_a_sampler_chooses(spec: str | dict[str, Any]) -> None:
    one, same, other = first_points(spec, [1, 1, 2])
    assert one == same != other


def test_a_seed_of_the_definition_counts_above_the_trials_own() -> None:
    fixed = {"class_path": "RandomSampler", "init_args": {"seed": 5}}
    assert first_points(fixed, [1, 2]) == first_points("RandomSampler", [5, 5])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("TPESamler", r"sampler.*Did you mean TPESampler\?"),
        ("MedianPruner", r"sampler.*MedianPruner"),
        ({"class_path": "TPESampler", "init_args": {"n_startup": 1}}, r"sampler\.n_startup: .*n_startup_trials\?"),
        ({"class_path": "GridSampler", "init_args": {}}, r"sampler: GridSampler refuses its arguments: .*search_space"),
        ({"class_path": "RandomSampler", "seed": 1}, r"sampler: expected a class of optuna\.samplers, or class_path"),
        ({"init_args": {"seed": 1}}, r"sampler: expected a class of optuna\.samplers, or class_path and init_args"),
    ],
)
def test_what_is_no_sampler_is_refused(spec: str | dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_sampler(spec, 0, 0)


def test_what_is_no_pruner_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"pruner: PercentilePruner refuses its arguments: .*between 0 and 100"):
        build_pruner({"class_path": "PercentilePruner", "init_args": {"percentile": 120.0}})
    with pytest.raises(ConfigError, match=r"pruner\.warmup: MedianPruner takes no such argument"):
        build_pruner({"class_path": "MedianPruner", "init_args": {"warmup": 3}})


FRACTIONS = {"model.optim.lr": {"low": 0.1, "high": 0.5}, "model.dropout": {"low": 0.1, "high": 0.5}}
PAIR = {"metric": [ACCURACY, LOSS], "direction": ["maximize", "minimize"]}


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        ({"sampler": "CmaEsSampler"}, r"sampler: CmaEsSampler needs cmaes, which is not installed"),
        ({"sampler": "CmaEsSampler", **PAIR}, r"sampler: CmaEsSampler cannot be used here: .*multi-objective"),
        ({"sampler": "BruteForceSampler"}, r"sampler: BruteForceSampler cannot be used here: .*step must be given"),
        ({"sampler": "GPSampler"}, r"sampler: GPSampler needs scipy, which is not installed"),
        ({"sampler": {"class_path": "TPESampler", "init_args": {"n_ei_candidates": 0}}}, r"TPESampler cannot be used"),
        ({"pruner": "WilcoxonPruner"}, r"pruner: WilcoxonPruner needs scipy, which is not installed"),
        (
            {"pruner": {"class_path": "PatientPruner", "init_args": {"wrapped_pruner": {"a": 1}, "patience": 1}}},
            r"pruner: PatientPruner cannot be used here: 'dict' object has no attribute 'prune'",
        ),
    ],
    ids=str,
)
def test_what_fails_in_its_first_trials_is_refused_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, definition: dict[str, Any], message: str
) -> None:
    for name in ("cmaes", *([name for name in sys.modules if name.startswith("scipy")] if "scipy" in message else ())):
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    with pytest.raises(ConfigError, match=message):
        try_out(make_sweep(tmp_path, **{"space": FRACTIONS, **definition}))


@pytest.mark.parametrize(
    "definition",
    [
        *(
            {"sampler": name}
            for name in ("NSGAIISampler", "NSGAIIISampler", "QMCSampler", "RandomSampler", "GPSampler")
        ),
        *({"sampler": name, **PAIR} for name in ("TPESampler", "NSGAIIISampler", "GPSampler")),
        *({"pruner": name} for name in ("HyperbandPruner", "MedianPruner", "SuccessiveHalvingPruner")),
        {"pruner": "MedianPruner", **PAIR},
        {"sampler": "BruteForceSampler", "space": {"data.batch.size": {"choices": [1, 1.0]}}},
        {"sampler": "CmaEsSampler", "space": {"data.batch.size": {"choices": [1, 2]}}},
    ],
    ids=str,
)
def test_what_works_is_not_refused(tmp_path: Path, definition: dict[str, Any]) -> None:
    try_out(make_sweep(tmp_path, **{"space": FRACTIONS, **definition}))


def test_a_grid_is_gone_through_once_whatever_the_seeds_of_its_trials() -> None:
    spec = {"class_path": "GridSampler", "init_args": {"search_space": {"x": [1.0, 2.0, 3.0, 4.0]}}}
    study = optuna.create_study()
    for seed in range(4):
        study.sampler = build_sampler(spec, seed, 0)
        study.optimize(lambda trial: trial.suggest_float("x", 0, 5), n_trials=1)
    assert sorted(trial.params["x"] for trial in study.trials) == [1.0, 2.0, 3.0, 4.0]


def test_a_sampler_of_an_allowed_module_is_found_and_another_is_not() -> None:
    own = f"{__name__}.Middle"
    assert type(build_sampler(own, 0, 0, modules=[__name__])) is Middle
    with pytest.raises(ConfigError, match=r"Middle is outside the packages a configuration may name"):
        build_sampler(own, 0, 0)


class Middle(RandomSampler):
    """A sampler of a user's own."""
