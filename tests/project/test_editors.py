"""Help while a configuration or a command is typed: the schema for editors, and completion by a shell."""

import copy
import json
import subprocess
from typing import Any

import jsonschema
import pytest
import yaml

from lightrail.project.basics.catalogue import ROOT, experiment_files
from lightrail.project.basics.errors import ConfigError
from lightrail.project.configuration.checking import OWNED
from lightrail.project.configuration.configuration import SECTIONS
from lightrail.project.editors import completion
from lightrail.project.editors.completion import candidates
from lightrail.project.editors.schema import schema_of

PINYIN = yaml.safe_load((ROOT / "project" / "experiments" / "pinyin.yaml").read_text("utf-8"))


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = schema_of(SECTIONS, OWNED)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(json.loads(json.dumps(schema)))


def test_every_shipped_experiment_is_valid(validator: Any) -> None:
    assert len(experiment_files()) > 5
    for file in experiment_files().values():
        assert [error.message for error in validator.iter_errors(yaml.safe_load(file.read_text("utf-8")))] == []


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("trainer.max_epoch", 3),
        ("trainer.logger", True),
        ("trainer.accumulate_grad_batches", 0),
        ("model.init_args.encoder.init_args.width", "wide"),
        ("model.init_args.encoder.init_args.dropout", 1),
        ("model.init_args.optim.learning_rate", 0.1),
        ("model.init_args.vocabulary", ["a"]),
        ("data.init_args.batch.size", 0),
        ("seed_everything", -1),
        ("tracking.tags", ["a"]),
    ],
)
def test_a_mistake_is_marked(validator: Any, setting: str, value: Any) -> None:
    configuration = copy.deepcopy(PINYIN)
    *sections, name = setting.split(".")
    place = configuration
    for section in sections:
        place = place.setdefault(section, {})
    place[name] = value
    assert not validator.is_valid(configuration)


def test_a_setting_is_described_with_its_default(validator: Any) -> None:
    arguments = validator.schema["$defs"]["lightrail.lightning_modules.optimization.config.OptimConfig"]["properties"]
    assert arguments["lr"]["description"]
    assert "default" in arguments["lr"]


@pytest.mark.parametrize(
    ("words", "some"),
    [
        (["comp"], ["compare", "completion"]),
        (["fit", "lo"], ["lora_finetune"]),
        (["fit", "pinyin_t"], ["pinyin_translation"]),
        (["fit", "--config", "dig"], ["digits"]),
        (["compare", "--metr"], ["--metric"]),
        (["fit", "--epo"], ["--epochs"]),
        (["nothing", "x"], []),
        (["predict", "RUN", "x"], []),
    ],
)
def test_words_are_completed(words: list[str], some: list[str]) -> None:
    assert candidates(words) == some


def test_a_shell_completes_by_the_script() -> None:
    script = completion._SCRIPTS["bash"]
    command = f'lightrail() {{ echo digits; echo pinyin; echo "$@" >&2; }}\n{script}\n'
    typed = 'COMP_WORDS=(lightrail fit pi); COMP_CWORD=2; _lightrail; echo "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", command + typed], capture_output=True, text=True, check=True)
    assert done.stdout == "pinyin\n"


def test_an_unknown_shell_is_refused() -> None:
    with pytest.raises(ConfigError, match="give bash, zsh, fish"):
        completion.run(["tcsh"])
