"""Whatever cannot be used is refused in one line that names the setting, what was found, and what to do."""

import re
from pathlib import Path

import pytest

from lightrail.project.basics.errors import ConfigError
from lightrail.project.configuration import parse

ALLOW = ("--allow_modules", "tests.support.components")
CHOSEN = (*ALLOW, "--model", "Tagger", "--data", "Lines")


def refusal(*arguments: str) -> str:
    """The message, which is one line without the noise of the libraries."""
    with pytest.raises(ConfigError) as refused:
        parse(arguments)
    message = str(refused.value)
    assert message.isprintable()
    assert len(message) <= 1000
    assert not re.search(r"([a-z])\1{200}", message)
    assert not re.search("Union|subtypes|Namespace|<class|jsonargparse", message)
    return message


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--sede_everything 1", "sede_everything: no such setting. Did you mean seed_everything?"),
        ("--modle.dropout 1", "modle: no such setting. Did you mean model?"),
        ("--trainer.max_epoch 3", "trainer.max_epoch: no such setting. Did you mean trainer.max_epochs?"),
        ("--tracking.experimnt x", "tracking.experimnt: no such setting. Did you mean tracking.experiment?"),
        ("--model.dropuot 1", "model.init_args.dropuot: no such setting. Did you mean model.init_args.dropout?"),
        ("--data.pth 1", "data.init_args.pth: no such setting. Did you mean data.init_args.path?"),
        (
            "--model.network.widht 1",
            "model.init_args.network.init_args.widht: no such setting. "
            "Did you mean model.init_args.network.init_args.width?",
        ),
        (
            "--model.step.schedule.knd linear",
            "model.init_args.step.schedule.knd: no such setting. Did you mean model.init_args.step.schedule.kind?",
        ),
        (
            "--model.networks [WideConfig,{class_path:\tNamedConfig,init_args:\t{nme:\tx}}]",
            "model.init_args.networks.1.init_args.nme: no such setting. "
            "Did you mean model.init_args.networks.1.init_args.name?",
        ),
        (
            "--trainer.callbacks [{class_path:\tEarlyStopping,init_args:\t{monitor:\tx,patence:\t3}}]",
            "trainer.callbacks.0.init_args.patence: no such setting. "
            "Did you mean trainer.callbacks.0.init_args.patience?",
        ),
        ("--data.zzz 1", "data.init_args.zzz: no such setting. Choose from max_tokens, path."),
        ("--max-epoch 3", "max-epoch: no such setting. Did you mean --max_epochs (trainer.max_epochs)?"),
        ("--width 3", "width: no such setting. Did you mean model.network.width?"),
        ("--accumulate 3", "accumulate: no such setting. Choose from data, model, seed_everything, tracking, trainer."),
        ("--ckpt_path x", "ckpt_path: no such setting. Choose from data, model, seed_everything, tracking, trainer."),
    ],
)
def test_an_unknown_setting_is_named_with_the_nearest(argument: str, message: str) -> None:
    name, value = argument.split(" ")
    assert refusal(*CHOSEN, name, value.replace("\t", " ")) == message


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("trainer.max_epochs", "three", 'trainer.max_epochs: expected a whole number or null, found "three".'),
        ("trainer.max_epochs", "3.5", 'trainer.max_epochs: expected a whole number or null, found "3.5".'),
        ("trainer.max_steps", "null", 'trainer.max_steps: expected a whole number, found "null".'),
        ("model.dropout", "x", 'model.init_args.dropout: expected a number, found "x".'),
        ("model.layers", "[1, x]", "model.init_args.layers: expected a list (each a whole number), found"),
        ("model.networks", "3", 'model.init_args.networks: expected a list (each a NetworkConfig) or null, found "3".'),
        ("tracking.tags", "[1]", "tracking.tags: expected a mapping (each text), found [1]."),
        ("model.step", "x", "model.init_args.step: expected settings as `name: value`, found 'x'."),
        ("model.step.schedule.kind", "cosin", "kind: expected one of cosine, linear, found"),
        ("trainer.precision", "bf16-mixd", "transformer-engine, transformer-engine-float16, 16-true"),
        ("trainer.barebones", "1", 'trainer.barebones: expected true or false, found "1".'),
        ("trainer", "[1]", "trainer: expected settings as `name: value`, found [1]."),
        ("seed_everything", "-1", "a whole number of at least 0 and up to 4294967295, found -1."),
        ("seed_everything", "x", 'of at least 0 and up to 4294967295, found "x".'),
        ("model.init_args", "3", "model.init_args: expected arguments as `name: value`, found '3'."),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_in_plain_words(name: str, value: str, message: str) -> None:
    assert message in refusal(*CHOSEN, f"--{name}", value)


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("model.labels", "comes from the data"),
        ("model.init_args.labels", "comes from the data"),
        ("trainer.logger", "logs every run to MLflow"),
        ("trainer.default_root_dir", "Choose the store in the section `tracking`"),
    ],
)
def test_a_setting_with_another_owner_names_it(name: str, owner: str) -> None:
    message = refusal(*CHOSEN, f"--{name}", "[a]")
    assert "cannot be set: " in message
    assert owner in message


def test_what_is_required_is_asked_for() -> None:
    assert refusal(*ALLOW, "--data", "Lines") == "model is required: a LightningModule."
    assert refusal("--model", "TextClassifier") == "data is required: a LightningDataModule."
    assert refusal(*ALLOW, "--model.dropout", "1") == "model.class_path is required: the name of a class."
    named = refusal(*CHOSEN, "--model.network", "NamedConfig")
    assert named == "model.init_args.network.init_args.name is required: text."


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("model", "Taggr", "model.class_path: there is no class 'Taggr'. Did you mean Tagger?"),
        ("model", "tests.support.components.Taggr", "there is no class tests.support.components.Taggr. Did you mean"),
        ("model", "TextClasifier", "Did you mean TextClassifier?"),
        ("model", "Lines", "model.class_path: Lines is not a LightningModule."),
        ("model.network", "WydeConfig", "model.init_args.network.class_path: there is no class 'WydeConfig'. Did"),
        ("model.network", "NetworkConfig", "is abstract: choose one derived from it. Choose from NamedConfig, Wide"),
        ("trainer.callbacks", "EarlyStoping", "class 'EarlyStoping'. Did you mean EarlyStopping?"),
        ("model.cell", "Identty", "there is no class 'Identty'. Did you mean Identity?"),
        ("model", "nope.yaml", "model: there is no file nope.yaml."),
    ],
)
def test_an_unknown_class_is_named_with_the_nearest(name: str, value: str, message: str) -> None:
    assert message in refusal(*CHOSEN, f"--{name}", value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trainer:\n  max_epoch: 3", ":2: trainer.max_epoch: no such setting."),
        ("model:\n  step:\n    rate: x", ":3: model.init_args.step.rate: expected a number"),
        ("# one\nmodel.init_args.dropuot: 1", ":2: model.init_args.dropuot: no such setting."),
        ("trainer:\n  max_steps:", ":2: trainer.max_steps: expected a whole number, found null."),
        ("model: {init_args: x, dropout: 0.1}", ":1: model.init_args: expected arguments as `name: value`, found 'x'."),
        ("trainer:\n- 1", ":1: trainer: expected settings as `name: value`, found [1]."),
        ("trainer: [1\nx: 2", ":2: not valid YAML: "),
        ("trainer: {max_steps: 3, max_steps: 4}", ":1: trainer.max_steps is given twice, first in line 1."),
        ("trainer: {}\ntrainer: {}", ":2: trainer is given twice, first in line 1."),
        ("- 1", ": expected settings as `name: value`, found a list."),
        ("model: !!python/name:os.system", ":1: model: a value of the type 'tag:yaml.org,2002:python/name:os"),
        ("a: &a\n  b: *a", ":1: a.b.b.b.b.b"),
        ("a: &a\n  <<: *a", ": nested too deep, or an anchor contains itself."),
        ("trainer: {a: " + "{b: " * 99 + "1" + "}" * 100, ":1: trainer.a.b.b.b.b"),
        ("a: " + "{a: " * 3000 + "1" + "}" * 3000, ": nested too deep"),
        ("a0: &a0 [1, 1]" + "".join(f"\na{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40)), ":3: a14."),
        (
            "a0: &a0 {x: 1}\nb0: &b0 {y: 1}"
            + "".join(f"\n{c}{n}: &{c}{n} {{<<: [*a{n - 1}, *b{n - 1}]}}" for n in range(1, 40) for c in "ab"),
            ":29: a14: more than 100,000 values",
        ),
        ("trainer: {max_epochs: " + "9" * 5000 + "}", ":1: trainer.max_epochs: Exceeds the limit (4300 digits)"),
        ("trainer: {max_epochs: " + "9" * 30 + "}", ":1: trainer.max_epochs: 999999999999999999999999999999 has more"),
        ('tracking: {run_name: "\\ud800"}', ":1: tracking.run_name: '\\ud800' is not valid Unicode text"),
        ('tracking: {run_name: "\\0"}', ":1: tracking.run_name: '\\x00' is not valid Unicode text"),
        ("model: {dropout: .nan}", ":1: model.init_args.dropout: expected a finite number, found nan."),
        ("model: {dropout: -.inf}", ":1: model.init_args.dropout: expected a finite number, found -inf."),
        ("? [a]\n: 1", ":1: a name is a list or a mapping."),
        ("trainer: !!set {a}", ":1: trainer: a value of the type 'tag:yaml.org,2002:set'."),
        ("trainer: !<" + "a" * 500 + "> 1", ":1: trainer: a value of the type 'aaa"),
        ("trainer: {" + "k" * 900 + ": 1}", ":1: trainer.kkk"),
        ("trainer: {max_epochs: " + "x" * 900 + "}", ":1: trainer.max_epochs: expected a whole number"),
        ("trainer: {callbacks: " + "x" * 900 + "}", ":1: trainer.callbacks.class_path: there is no class 'xxx"),
        ('trainer: {callbacks: "a\\e[31m"}', ":1: trainer.callbacks"),
    ],
)
def test_a_fault_in_a_file_is_named_with_its_line(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "0.yaml"
    file.write_text(text)
    assert refusal(*CHOSEN, "--config", str(file)).startswith(f"{file}{message}")


def test_a_file_that_names_itself_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "0.yaml"
    file.write_text("class_path: NamedConfig\ninit_args: {name: x, inner: 0.yaml}")
    found = refusal(*CHOSEN, "--model.network", str(file))
    assert found == f"{file} is opened more than 100 times. Does it include itself?"


def test_a_setting_of_the_command_line_is_not_blamed_on_a_file(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("trainer: {max_epochs: 3}")
    assert refusal(*CHOSEN, "--config", str(file), "--trainer.max_epochs", "x").startswith("trainer.max_epochs: ")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\x00")
    assert refusal("--config", str(binary)).startswith(f"{binary} is not a configuration: it is not UTF-8 text.")
    assert "--config none.yaml: no such file" in refusal("--config", "none.yaml")
    assert refusal("--config", "text_clasification").endswith("Did you mean text_classification?")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fit",), "Unexpected argument 'fit'. Settings are given as --name value."),
        (("--model",), "--model needs a value: --model VALUE."),
        (("--model", "--data", "Lines"), "--model needs a value: --model VALUE."),
        (("--allow_modules", "no_such_module"), "--allow_modules no_such_module: there is no module no_such_module."),
    ],
)
def test_a_malformed_command_line_is_explained(arguments: tuple[str, ...], message: str) -> None:
    assert refusal(*arguments) == message


def test_a_callback_that_refuses_its_arguments_is_not_a_traceback() -> None:
    callbacks = "{class_path: EarlyStopping, init_args: {monitor: x, mode: sideways}}"
    configuration = parse([*CHOSEN, "--trainer.callbacks", callbacks])
    with pytest.raises(ConfigError, match=r"trainer: .*sideways"):
        configuration.trainer_arguments()


def test_arguments_that_are_a_list_are_refused_when_another_class_is_given(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("data: {class_path: Lines, init_args: [{path: x}]}\n")
    found = "data.init_args: expected arguments as `name: value`, found"

    assert found in refusal(*ALLOW, "--model", "Tagger", "--config", str(file), "--data", "PinyinData")
    assert found in refusal(*ALLOW, "--model", "Tagger", "--config", str(file))
