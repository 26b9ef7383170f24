"""A sweep from its file and command line: what is found, what is refused, and what a trial's configuration becomes."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from lightrail.project.basics.catalogue import sweep_files
from lightrail.project.basics.errors import ConfigError
from lightrail.sweeps.search.definition import load
from lightrail.sweeps.search.driver import build_pruner
from lightrail.sweeps.search.warm_start import setting
from tests.support.made_studies import SPACE, make_sweep


def test_a_sweep_is_named_by_its_file_or_by_its_setting(tmp_path: Path) -> None:
    make_sweep(tmp_path)
    file = str(tmp_path / "tiny.yaml")
    assert load(["--config", file]).name == "tiny"
    assert load(["--config", file, "--study", "other"]).name == "other"
    assert load(["--config=pinyin"]).name == "pinyin"


def test_a_name_that_is_no_sweep_is_refused_with_its_neighbour() -> None:
    with pytest.raises(ConfigError, match=r"--config pinyn: no such file, .*Did you mean pinyin\?"):
        load(["--config", "pinyn"])
    with pytest.raises(ConfigError, match=r"no sweep given\. Give --config"):
        load(["--n_trials=3"])
    assert "pinyin" in sweep_files()


def test_the_command_line_counts_above_the_file(tmp_path: Path) -> None:
    file = make_sweep(tmp_path, resources={"workers": 2, "threads": 3}).name
    more = ["--n_trials", "3", "--resources.workers=5", "--heartbeat_seconds=7", "--timeout_minutes=0.5"]
    config = load(["--config", f"{tmp_path}/{file}.yaml", *more]).config
    assert (config.n_trials, config.resources.workers, config.resources.threads) == (3, 5, 3)
    assert (config.heartbeat_seconds, config.timeout_minutes) == (7, 0.5)


def test_a_pruner_of_the_command_line_takes_none_of_the_files_arguments(tmp_path: Path) -> None:
    make_sweep(tmp_path, pruner={"class_path": "MedianPruner", "init_args": {"n_warmup_steps": 4}})
    command = ["--config", f"{tmp_path}/tiny.yaml"]
    own = build_pruner(load([*command, "--pruner.n_warmup_steps=6"]).config.pruner)
    assert own._n_warmup_steps == 6  # type: ignore[attr-defined]
    other = load([*command, "--pruner=PercentilePruner", "--pruner.percentile=30.0"]).config.pruner
    assert other == {"class_path": "PercentilePruner", "init_args": {"percentile": 30.0}}


def test_later_bases_count_above_earlier_ones_and_stand_beside_the_definition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "more.yaml").write_text("model.optim.weight_decay: 0.5\nseed_everything: 7\n")
    sweep = make_sweep(tmp_path, base=["base.yaml", "more.yaml"], seeds=2)
    monkeypatch.chdir("/")
    values = sweep.configuration({}).values
    assert setting(values, "model.optim.weight_decay") == 0.5
    assert setting(values, "model.encoder.width") == 16, "as the first one says"
    assert list(sweep.seeds) == [7, 8]
    assert sweep.configuration({}, seed=3).seed == 3


@pytest.mark.parametrize(
    "overrides",
    [
        {"model.optim.weight_decay": 0.25, "model.encoder": "LstmConfig"},
        {"model": {"optim": {"weight_decay": 0.25}, "encoder": {"class_path": "LstmConfig"}}},
        {"model.optim": {"weight_decay": 0.25}, "model": {"encoder": "LstmConfig"}},
    ],
)
def test_overrides_are_dotted_or_nested(tmp_path: Path, overrides: dict[str, Any]) -> None:
    sweep = make_sweep(tmp_path, overrides=overrides)
    values = sweep.configuration({"model.optim.lr": 0.5}).values
    assert setting(values, "model.optim.weight_decay") == 0.25
    assert setting(values, "model.encoder.class_path").endswith(".LstmConfig")
    assert setting(values, "model.optim.lr") == 0.5


def test_overrides_of_the_command_line_are_merged_with_the_files(tmp_path: Path) -> None:
    make_sweep(tmp_path, overrides={"model.optim.weight_decay": 0.25, "model.optim.beta2": 0.9})
    sweep = load(["--config", f"{tmp_path}/tiny.yaml", "--overrides.model.optim.beta2=0.8"])
    values = sweep.configuration({}).values
    assert (setting(values, "model.optim.weight_decay"), setting(values, "model.optim.beta2")) == (0.25, 0.8)


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("model.optim.lr", 1e-5, 1e-5),
        ("model.optim.lr", 3, 3.0),
        ("model.optim.lr", "1e-3", 1e-3),
        ("model.optim.optimizer", "sgd", "sgd"),
        ("data.path", "null", "null"),
        ("data.path", "true", "true"),
        ("data.path", "1e3", "1e3"),
        ("data.path", "数据: [一 二] # 三", "数据: [一 二] # 三"),
        ("data.batch.max_tokens", None, None),
        ("data.has_syllables", False, False),
        ("model.encoder.ngram_orders", [2, 3], [2, 3]),
        ("model.optim.freeze", ["1e3", "null", "数"], ["1e3", "null", "数"]),
        ("model.optim.freeze", ['it\'s a "b"'], ['it\'s a "b"']),
        ("tracking.tags", {"note": "1e3", "更": "true"}, {"note": "1e3", "更": "true"}),
    ],
)
def test_a_setting_has_the_value_that_the_space_says(tmp_path: Path, name: str, value: object, found: object) -> None:
    own = setting(make_sweep(tmp_path).configuration({name: value}).values, name)
    assert (own, type(own)) == (found, type(found))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"metric": ["val/loss", "val/accuracy"]}, r"metric names 2 and direction has 1\. Give one for each metric"),
        ({"direction": ["minimize", "maximize"]}, r"metric names 1 and direction has 2"),
        ({"direction": "maximise"}, r"tiny\.yaml:3: direction: .*maximise"),
        ({"metric": "train/loss"}, r"metric: 'train/loss': only validation metrics can be optimized"),
        ({"enqueue": [{}, {"model.optim.lrr": 1}]}, r"enqueue\.1: .*lrr is not in the space\. Did you mean .*\.lr\?"),
        ({"confirm": {"seeds": 1}}, r"tiny\.yaml:\d+: confirm\.seeds: expected a whole number of at least 2, found 1"),
        ({"resources": {"workers": 0}}, r"resources\.workers: expected a whole number of at least 1 or null, found 0"),
        ({"resources": {"worker": 2}}, r"resources\.worker: no such setting\. Did you mean resources\.workers\?"),
        ({"space": {}}, r"space: nothing to search over"),
        ({"space": []}, r"tiny\.yaml:5: space: expected settings as `name: value`, found \[\]"),
        ({"enqueue": {"model.optim.lr": 1}}, r"enqueue: expected a list, found"),
        ({"enqueue": [{}, 1]}, r"enqueue\.1: expected settings as `name: value`, found 1"),
        ({"overrides": {"print_config": ""}}, r"print_config: it is an option of the command line"),
        ({"space": {"tracking.uri": {"choices": ["a", "b"]}}}, r"space: tracking\.uri cannot be searched"),
        (
            {"metric": ["val/loss", "val/accuracy"], "direction": ["minimize"] * 2, "confirm": {"top": 2}},
            r"confirm\.top is 2, but a Pareto front of 2 metrics has no winner",
        ),
    ],
)
def test_what_makes_no_sweep_is_refused(tmp_path: Path, more: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_sweep(tmp_path, **more)


def test_modules_that_are_allowed_are_allowed_to_trials(tmp_path: Path) -> None:
    make_sweep(tmp_path, space={"trainer.callbacks": "tests.support.callbacks.Going"})
    settings = {"trainer.callbacks": "tests.support.callbacks.Going"}
    command = ["--config", f"{tmp_path}/tiny.yaml"]
    allowed = load([*command, "--allow_modules", "tests.support.callbacks"])
    callbacks = allowed.configuration(settings).values["trainer"]["callbacks"]
    assert callbacks["class_path"] == "tests.support.callbacks.Going"
    with pytest.raises(ConfigError, match=r"tests\.support\.callbacks\.Going is outside the packages"):
        load(command).configuration(settings)


def test_what_a_study_searches_for_is_its_identity(tmp_path: Path) -> None:
    before = make_sweep(tmp_path).identity()
    assert yaml.safe_load(before)["space"] == SPACE
    free: dict[str, Any] = {"n_trials": 99, "resources": {"workers": 3}, "sampler": "RandomSampler", "seed": 4}
    assert make_sweep(tmp_path, **free).identity() == before
    fixed: list[dict[str, Any]] = [
        {"space": {**SPACE, "data.batch.size": {"choices": [2, 8]}}},
        {"metric": "val/loss"},
        {"direction": "minimize"},
        {"seeds": 2},
        {"overrides": {"model.optim.beta2": 0.8}},
    ]
    for more in fixed:
        assert make_sweep(tmp_path, **more).identity() != before, more


def test_a_sweep_searches_over_optimizers_and_schedules_of_torch(tmp_path: Path) -> None:
    branches = {
        "muon": {"model.optim.optimizer": "torch.optim.Muon", "model.optim.optimizer.momentum": {"choices": [0.9]}},
        "ours": {"model.optim.optimizer": {"choices": ["adamw", "NAdam"]}},
    }
    step = {"model.optim.schedule": "StepLR", "model.optim.schedule.step_size": 3}
    sweep = make_sweep(tmp_path, space={"way": {"branches": branches}, **step})
    corners = sweep.space.corners()
    found = [setting(sweep.configuration(corner).values, "model.optim.optimizer") for corner in corners]
    names = [own if isinstance(own, str) else own["class_path"].rpartition(".")[2] for own in found]
    assert sorted(set(names)) == ["Muon", "NAdam", "adamw"]
    assert {own["init_args"]["momentum"] for own in found if own != "adamw" and "Muon" in own["class_path"]} == {0.9}
