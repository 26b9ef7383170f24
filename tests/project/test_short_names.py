"""Short names of settings, and what a command takes without a name."""

import pytest

from lightrail.project.basics.catalogue import experiment_files
from lightrail.project.cli import COMMANDS
from lightrail.project.configuration import parse
from lightrail.project.configuration.configuration import SECTIONS
from lightrail.project.configuration.sources import FLAGS, SHORT_NAMES, take_option, written_out
from lightrail.sweeps.search.definition import SHORT_OVERRIDES, SweepConfig, load
from tests.support.running import lightrail


def test_a_short_name_is_the_setting_that_it_stands_for() -> None:
    short = ["--epochs=3", "--steps", "40", "--lr=1e-3", "--batch-size", "7", "--seed=5", "--device=cpu", "--devices=1"]
    named = ["--name=first", "--experiment=mine", "--precision=32-true"]
    values = parse(["--config=digits", *short, *named]).values
    trainer = {name: values["trainer"][name] for name in ("max_epochs", "max_steps", "accelerator")}
    assert trainer == {"max_epochs": 3, "max_steps": 40, "accelerator": "cpu"}
    assert (values["trainer"]["precision"], str(values["trainer"]["devices"])) == ("32-true", "1")
    assert values["model"]["init_args"]["optim"]["lr"] == 1e-3
    assert values["data"]["init_args"]["batch"]["size"] == 7
    assert values["seed_everything"] == 5
    assert (values["tracking"]["run_name"], values["tracking"]["experiment"]) == ("first", "mine")


@pytest.mark.parametrize("name", experiment_files())
def test_every_shipped_experiment_has_the_settings_of_the_short_names(name: str) -> None:
    options = ["--epochs=3", "--steps=40", "--lr=1e-3", "--batch_size=7"]
    if name in ("gpt_finetune", "lora_finetune"):
        options.append("--model.decoder.checkpoint=gpt2")
    assert parse(written_out([name, *options, "--data.path=x"], "--config")).values["data"]["init_args"]["batch"][
        "size"
    ]


def test_no_short_name_hides_a_setting_or_an_option() -> None:
    taken = {"seeds", "output", "ckpt_path", "config", "allow_modules", "if_different", "check_only", "force", "status"}
    assert not SHORT_NAMES.keys() & (SECTIONS.keys() | taken | {flag.removeprefix("--") for flag in FLAGS})
    assert not SHORT_OVERRIDES.keys() & SweepConfig.__dataclass_fields__.keys()


def test_what_has_no_name_is_the_configuration_and_an_empty_value_stays() -> None:
    given = ["digits", "--lr", "0.1", "mine.yaml", "--tracking.run_name", "", "--print_config"]
    written = [
        "--config=digits",
        "--model.optim.lr=0.1",
        "--config=mine.yaml",
        "--tracking.run_name=",
        "--print_config",
    ]
    assert written_out(given, "--config") == written
    assert take_option(written, "--config") == ("mine.yaml", [own for own in written if "config=" not in own])


def test_fit_and_check_and_sweep_take_the_name_of_what_they_run() -> None:
    for command in ("fit", "check"):
        outcome = lightrail(command, "digits", "--epochs", "3", "--print_config")
        assert (outcome.status, "max_epochs: 3" in outcome.out) == (0, True)
        assert "Did you mean digits?" in lightrail(command, "digitz").err
    sweep = load(["digits", "--epochs", "2", "--lr", "0.5"])
    assert sweep.name == "digits"
    assert {"--trainer.max_epochs=2", "--model.optim.lr=0.5"} <= set(sweep.base)


@pytest.mark.parametrize("command", ["predict", "validate", "test"])
def test_a_model_is_named_once_and_without_its_option(command: str, store: str) -> None:
    uri = f"--tracking.uri={store}"
    assert "no run 'somewhere'" in lightrail(command, "somewhere", uri).err
    assert "two models are named" in lightrail(command, "one", "other", uri).err
    assert "which model?" in lightrail(command, uri).err
    assert COMMANDS[command].usage.startswith(f"lightrail {command} MODEL")
