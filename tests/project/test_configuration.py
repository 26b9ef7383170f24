"""What a configuration says, how its sources are merged, and what is built from it."""

import copy
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from lightrail.project.basics.catalogue import experiment_files
from lightrail.project.basics.errors import ConfigError, Shown
from lightrail.project.configuration import Configuration, completed, parse
from lightrail.project.configuration.parameters import read
from lightrail.project.tracking.settings import TrackingConfig
from tests.support.components import Lines, NamedConfig, Recorder, ScheduleConfig, StepConfig, Tagger, WideConfig

ALLOW = ("--allow_modules", "tests.support.components")
CHOSEN = (*ALLOW, "--model", "Tagger", "--data", "Lines")
WriteYaml = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path) -> WriteYaml:
    """Write a YAML file and return its name."""
    names = iter(f"{number}.yaml" for number in range(9))

    def write_text(text: str) -> str:
        file = tmp_path / next(names)
        file.write_text(text, "utf-8")
        return str(file)

    return write_text


def model_arguments(*arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = parse([*CHOSEN, *arguments]).values["model"]["init_args"]
    return found


def tagger(configuration: Configuration, **facts: int) -> dict[str, Any]:
    built = configuration.model({"labels": ["a", "b"], **facts})
    assert isinstance(built, Tagger)
    return built.given


def test_the_values_hold_every_default() -> None:
    values = parse(CHOSEN).values
    assert list(values) == ["seed_everything", "model", "data", "trainer", "tracking"]
    assert values["seed_everything"] == 0
    assert values["model"] == {
        "class_path": "tests.support.components.Tagger",
        "init_args": {
            "network": {"class_path": "tests.support.components.WideConfig", "init_args": {"width": 16, "depth": 2}},
            "step": {"rate": 1e-3, "schedule": {"kind": "cosine"}, "extra": {}},
            "dropout": 0.1,
            "layers": [1, 2],
            "networks": None,
            "on_start": None,
            "anything": None,
            "init_from": None,
        },
    }
    assert values["data"]["init_args"] == {"path": "lines.txt", "max_tokens": None}
    assert values["trainer"]["max_epochs"] is None
    assert values["trainer"]["accumulate_grad_batches"] == 1
    assert not values["trainer"].keys() & {"logger", "default_root_dir"}
    assert values["tracking"] == {
        "uri": None,
        "experiment": "lightrail",
        "run_name": None,
        "tags": {},
        "non_finite_loss": "stop",
        "checkpoint": {"every_minutes": 10.0, "every_steps": None, "keep_resume_state": False},
        "samples": {
            "prompts": [""],
            "num_samples": 1,
            "max_tokens": 100,
            "temperature": 0.8,
            "top_k": None,
            "seed": 0,
        },
        "loggers": [],
    }


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--model.network", "NamedConfig", "--model.network.name", "1e-3"),
        ("--model.anything", "[1, 2020-01-01, yes, null]", "--tracking.tags", "{a.b: '12', c: 'null'}"),
        ("--trainer.callbacks", "[Timer, {class_path: EarlyStopping, init_args: {monitor: x}}]"),
        ("--trainer.strategy", "DDPStrategy", "--trainer.profiler", "SimpleProfiler", "--trainer.precision", "16"),
        ("--trainer.callbacks", "StochasticWeightAveraging", "--trainer.callbacks.swa_lrs", "0.1"),
        ("--trainer.max_time", "12:00:00:00"),
        ("--tracking.tags", "{yes: 'no', 1: '1e-3', x: ' # '}", "--tracking.run_name", "null"),
    ],
)
def test_a_dumped_configuration_is_the_same_configuration(arguments: tuple[str, ...], write: WriteYaml) -> None:
    configuration = parse([*CHOSEN, *arguments])
    assert parse([*ALLOW, "--config", write(configuration.dump())]) == configuration
    assert parse(ALLOW, saved=configuration.values) == configuration
    assert configuration.trainer_arguments()


@pytest.mark.parametrize("first", [int, float])
def test_the_first_type_of_several_that_a_text_can_be_counts(first: type[int | float]) -> None:
    """Though Python says that `int | str` and `str | int` are equal."""
    assert (read("3", first | str)[0], read("3", str | first)[0]) == (first(3), "3")
    assert (read("x", first | str)[0], read("x", str | first)[0]) == ("x", "x")


def test_every_shipped_experiment_is_a_configuration() -> None:
    assert experiment_files()
    for name in experiment_files():
        assert parse(["--config", name]).values["model"]["class_path"].startswith("lightrail.lightning_modules.")


def test_settings_are_taken_from_left_to_right(write: WriteYaml) -> None:
    first = write("trainer: {max_epochs: 1, min_epochs: 1}\nmodel.dropout: 0.3")
    second = write("trainer:\n  max_epochs: 2")
    trainer = parse([*CHOSEN, "--config", first, "--config", second, "--trainer.max_steps=9"]).values["trainer"]
    assert (trainer["max_epochs"], trainer["min_epochs"], trainer["max_steps"]) == (2, 1, 9)
    assert model_arguments("--config", first)["dropout"] == 0.3
    assert model_arguments("--config", first, "--model.dropout", "0.4")["dropout"] == 0.4
    assert model_arguments("--model.dropout", "0.4", "--config", first)["dropout"] == 0.3


def test_init_args_may_be_left_out() -> None:
    short = model_arguments("--model.network.width", "5", "--model.step.rate", "1e-2")
    full = model_arguments("--model.init_args.network.init_args.width", "5", "--model.init_args.step.rate", "0.01")
    assert short == full
    assert short["network"]["init_args"] == {"width": 5, "depth": 2}


def test_another_class_keeps_the_arguments_it_shares(caplog: pytest.LogCaptureFixture) -> None:
    network = ("--model.network", "WideConfig", "--model.network.width", "5", "--model.network.depth", "7")
    other = model_arguments(*network, "--model.network", "NamedConfig", "--model.network.name", "x")["network"]
    assert other["class_path"].endswith("NamedConfig")
    assert other["init_args"] == {"name": "x", "depth": 7, "inner": None}
    assert "model.init_args.network.init_args.width was given for another class and is left out" in caplog.text


def test_a_saved_configuration_is_the_base() -> None:
    saved = parse([*CHOSEN, "--trainer.max_epochs", "3", "--trainer.callbacks+", "Recorder"]).values
    before = copy.deepcopy(saved)
    again = parse([*ALLOW, "--model.dropout", "0.2", "--trainer.callbacks.every", "2"], saved=saved).values
    assert again["trainer"]["max_epochs"] == 3
    assert again["model"]["init_args"]["dropout"] == 0.2
    assert again["trainer"]["callbacks"][0]["init_args"] == {"every": 2}
    assert saved == before


def test_lists_are_replaced_or_extended(write: WriteYaml) -> None:
    base = write("trainer: {callbacks: [{class_path: EarlyStopping, init_args: {monitor: val/loss}}]}")
    more = write("trainer:\n  callbacks+:\n  - class_path: Recorder")
    other = write("trainer:\n  callbacks:\n  - class_path: Recorder")

    def names(*arguments: str) -> list[str]:
        callbacks = parse([*CHOSEN, *arguments]).values["trainer"]["callbacks"]
        return [callback["class_path"].rpartition(".")[2] for callback in callbacks]

    assert names("--config", base, "--config", more) == ["EarlyStopping", "Recorder"]
    assert names("--config", base, "--config", other) == ["Recorder"]
    assert names("--config", base, "--trainer.callbacks+=Recorder") == ["EarlyStopping", "Recorder"]
    last = parse([*CHOSEN, "--config", base, "--trainer.callbacks+", "Recorder", "--trainer.callbacks.every", "4"])
    assert last.values["trainer"]["callbacks"][1]["init_args"] == {"every": 4}


def test_a_part_may_be_a_file_of_its_own(write: WriteYaml, tmp_path: Path) -> None:
    network = write("class_path: NamedConfig\ninit_args: {name: x}")
    model = write(f"class_path: Tagger\ninit_args: {{network: {Path(network).name}}}")
    top = write(f"model: {model}")
    arguments = ("--config", top, "--trainer", write("max_epochs: 4"), "--model.network.depth", "9")
    configuration = parse([*ALLOW, "--data", "Lines", *arguments])
    network_values = configuration.values["model"]["init_args"]["network"]
    assert network_values["init_args"] == {"name": "x", "depth": 9, "inner": None}
    assert configuration.values["trainer"]["max_epochs"] == 4


def test_classes_are_found_by_bare_name_and_stored_by_path() -> None:
    values = parse(["--model", "TextClassifier", "--data", "TextClassificationData", "--data.path", "x.csv"]).values
    assert values["model"]["class_path"] == "lightrail.lightning_modules.text_classification.TextClassifier"
    assert values["model"]["init_args"]["encoder"]["class_path"].endswith("transformer.TransformerConfig")
    assert values["data"]["class_path"] == "lightrail.datamodules.text_classification.TextClassificationData"


def test_the_model_is_built_from_settings_and_facts() -> None:
    network = ("--model.networks", "[WideConfig, {class_path: NamedConfig, init_args: {name: x, inner: WideConfig}}]")
    given = tagger(parse([*CHOSEN, *network, "--model.layers", "[3]", "--model.cell", "torch.nn.GELU"]), unused=1)
    assert given == {
        "labels": ["a", "b"],
        "network": WideConfig(width=16),
        "step": StepConfig(schedule=ScheduleConfig()),
        "dropout": 0.1,
        "layers": (3,),
        "networks": [WideConfig(), NamedConfig(name="x", inner=WideConfig())],
        "on_start": None,
        "anything": None,
        "cell": nn.GELU,
    }


def test_a_fact_that_the_data_does_not_give_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^Tagger needs `labels` from the data, and .*Lines does not provide it\.$"):
        parse(CHOSEN).model({})


def test_data_trainer_arguments_and_tracking_are_built() -> None:
    trainer = ("--trainer.callbacks", "EarlyStopping", "--trainer.callbacks.monitor", "x", "--trainer.strategy")
    configuration = parse(
        [*CHOSEN, *trainer, "DDPStrategy", "--data.max_tokens", "7", "--tracking.run_name", "12", "--seed_everything=3"]
    )
    data = configuration.data()
    assert isinstance(data, Lines)
    assert data.max_tokens == 7
    arguments = configuration.trainer_arguments()
    assert [type(callback) for callback in arguments["callbacks"]] == [EarlyStopping]
    assert isinstance(arguments["strategy"], DDPStrategy)
    assert arguments["plugins"] == []
    assert configuration.tracking() == TrackingConfig(run_name="12")
    assert configuration.seed == 3


def test_each_build_is_a_new_one() -> None:
    configuration = parse([*CHOSEN, "--trainer.callbacks", "[ModelCheckpoint, Recorder]"])
    first, second = (configuration.trainer_arguments()["callbacks"] for _ in range(2))
    assert [type(callback) for callback in first] == [ModelCheckpoint, Recorder]
    assert not set(map(id, first)) & set(map(id, second))


def test_building_changes_no_value() -> None:
    configuration = parse([*CHOSEN, "--trainer.callbacks", "Hooked", "--trainer.callbacks.pauses", "['0:01:00']"])
    before = copy.deepcopy(configuration.values)
    callback = configuration.trainer_arguments()["callbacks"][0]
    assert callback.pauses == [timedelta(minutes=1)]
    assert configuration.values == before


def test_a_stored_configuration_gets_the_defaults_of_newer_settings_and_keeps_the_rest() -> None:
    now = parse([*CHOSEN, "--model.dropout", "0.25", "--model.step.rate", "0.5"]).values
    stored = copy.deepcopy({name: now[name] for name in ("seed_everything", "model", "data")})
    del stored["model"]["init_args"]["dropout"], stored["model"]["init_args"]["step"]["rate"]
    found = completed(stored, now)
    usual = parse(CHOSEN).values
    assert found == {name: usual[name] for name in stored}
    stored["model"]["init_args"]["dropout"] = "much"
    assert completed(stored, now) == stored


def test_print_config_shows_the_complete_yaml() -> None:
    with pytest.raises(Shown) as shown:
        parse([*CHOSEN, "--model.dropout", "0.25", "--print_config"])
    assert str(shown.value) == parse([*CHOSEN, "--model.dropout", "0.25"]).dump().rstrip()


def test_help_all_shows_type_value_and_meaning() -> None:
    with pytest.raises(Shown) as shown:
        parse([*CHOSEN, "--help_all"])
    text = str(shown.value)
    assert "--model.step.rate (a number) = 0.001\n    Peak learning rate.\n" in text
    assert "--model.network.width (a whole number) = 16\n    Hidden units, at least 1.\n" in text
    assert "--trainer.max_epochs (a whole number or null) = null\n" in text
    with pytest.raises(Shown, match=r"Choose model and data \(--config NAME\) to see their settings too\."):
        parse(["--help_all"])
