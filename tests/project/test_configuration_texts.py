"""Texts are what was written: on the command line, in files, and beside types that YAML or jsonargparse prefer."""

import os
from pathlib import Path
from typing import Any

import pytest
from torch.nn.utils import prune

from lightrail.project.basics.errors import ConfigError
from lightrail.project.configuration import parse
from lightrail.project.configuration.yaml_file import write_text

CHOSEN = ("--allow_modules", "tests.support.components", "--model", "Tagger", "--data", "Lines")


def values(*arguments: str) -> dict[str, Any]:
    return parse([*CHOSEN, *arguments]).values


def of_files(folder: Path, *texts: str) -> dict[str, Any]:
    arguments = []
    for number, text in enumerate(texts):
        (folder / f"{number}.yaml").write_text(text)
        arguments += ["--config", str(folder / f"{number}.yaml")]
    return values(*arguments)


ODD = [
    "#7 a",
    "1e5",
    "yes",
    "~",
    "@x",
    "*x",
    "&x",
    "[a",
    "{a",
    "a: b",
    "%",
    "  ",
    " x ",
    "[a]",
    "{a: b}",
    "- a",
    "'q'",
    "|",
]


@pytest.mark.parametrize("text", ODD)
def test_a_text_of_the_command_line_is_itself(text: str) -> None:
    found = values(f"--tracking.run_name={text}", f"--tracking.tags.a={text}")
    assert (found["tracking"]["run_name"], found["tracking"]["tags"]) == (text, {"a": text})


@pytest.mark.parametrize("text", [*ODD, "null", ""])
def test_a_text_in_quotes_in_a_file_is_itself_and_reaches_the_run(text: str, tmp_path: Path) -> None:
    (tmp_path / "0.yaml").write_text(write_text({"tracking": {"run_name": text}}))
    first = parse([*CHOSEN, "--config", str(tmp_path / "0.yaml")])
    again = parse(CHOSEN[:2], saved=first.values)
    assert [one.tracking().run_name for one in (first, again)] == [text, text]


def test_null_is_the_one_text_that_means_nothing() -> None:
    assert values("--tracking.run_name", "null")["tracking"]["run_name"] is None


def test_a_number_is_read_where_a_type_beside_text_takes_it() -> None:
    found = values("--trainer.precision", "32", "--trainer.max_time.hours", "1", "--trainer.devices", "[0, 1]")[
        "trainer"
    ]
    assert (found["precision"], found["max_time"], found["devices"]) == (32, {"hours": 1}, [0, 1])
    assert values("--trainer.max_time", "{hours: 2}")["trainer"]["max_time"] == {"hours": 2}


def test_what_a_file_gives_for_a_text_is_kept_as_written(tmp_path: Path) -> None:
    text = (
        "tracking:\n  run_name: 007\n  tags: {version: 1.10, debug: yes, none: 'null'}\ntrainer: {max_time: 1:00:00:00}"
    )
    found = of_files(tmp_path, text)
    assert found["tracking"]["run_name"] == "007"
    assert found["tracking"]["tags"] == {"version": "1.10", "debug": "yes", "none": "null"}
    assert found["trainer"]["max_time"] == "1:00:00:00"


def test_tags_that_are_no_texts_are_refused_by_what_they_should_be() -> None:
    with pytest.raises(ConfigError, match=r"tracking.tags: expected a mapping \(each text\), found {"):
        values("--tracking.tags", "{version: 1.10}")


BASE = """
trainer:
  max_epochs: 3
  callbacks: [{class_path: EarlyStopping, init_args: {monitor: x}}]
model:
  class_path: Tagger
  init_args:
    step: {rate: 2.0, schedule: {kind: linear}}
tracking: {tags: {a: b}}
"""


@pytest.mark.parametrize(
    "empty",
    [
        "trainer:\n#  max_epochs: 5\nmodel:\ntracking:\n",
        "model:\n  init_args:\n    step:\n      schedule:\n",
        "model.init_args.step:\nmodel.step.schedule:\n",
        "model:\n  init_args:\n",
        "tracking:\n  tags:\n  checkpoint:\ntrainer:\n  callbacks:\n#  - Timer\n",
    ],
)
def test_a_section_without_lines_changes_nothing(empty: str, tmp_path: Path) -> None:
    assert of_files(tmp_path, BASE, empty) == of_files(tmp_path, BASE)


def test_null_and_an_empty_list_still_empty_what_came_before(tmp_path: Path) -> None:
    assert of_files(tmp_path, BASE, "trainer: {callbacks: null}")["trainer"]["callbacks"] is None
    assert of_files(tmp_path, BASE, "trainer: {callbacks: []}")["trainer"]["callbacks"] == []


def pruning(*arguments: str) -> dict[str, Any]:
    found = values(
        "--trainer.callbacks", "ModelPruning", "--trainer.callbacks.pruning_fn", "l1_unstructured", *arguments
    )
    arguments_of_it: dict[str, Any] = found["trainer"]["callbacks"]["init_args"]
    return arguments_of_it


def test_a_setting_that_may_be_a_function_takes_its_other_types() -> None:
    found = pruning("--trainer.callbacks.amount", "0.25", "--trainer.callbacks.apply_pruning", "false")
    assert (found["pruning_fn"], found["amount"], found["apply_pruning"]) == ("l1_unstructured", 0.25, False)
    arguments = ["--trainer.callbacks", "ModelPruning", "--trainer.callbacks.pruning_fn", "l1_unstructured"]
    (built,) = parse([*CHOSEN, *arguments]).trainer_arguments()["callbacks"]
    assert built.pruning_fn is prune.L1Unstructured


@pytest.mark.parametrize("name", ["os.system", "torch.nn.utils.prune.l1_unstructured"])
def test_a_function_is_still_refused_there(name: str) -> None:
    for setting in ("pruning_fn", "amount", "apply_pruning"):
        with pytest.raises(ConfigError, match="a configuration cannot name a function"):
            pruning(f"--trainer.callbacks.{setting}", name)


@pytest.mark.parametrize(
    "bomb", ["[" * 2000 + "]" * 2000, "!!python/name:os.system x", "9" * 5000, "\ud800", "a\0", "x" * 9000]
)
@pytest.mark.parametrize("setting", ["tracking.tags", "trainer.max_epochs", "model.dropout", "trainer.callbacks"])
def test_a_value_of_the_command_line_that_nothing_can_use_is_refused(setting: str, bomb: str) -> None:
    with pytest.raises(ConfigError) as refused:
        values(f"--{setting}={bomb}")
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 400


def test_aliases_of_aliases_are_refused_soon() -> None:
    lines = ", ".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40))
    with pytest.raises(ConfigError, match="more than 100,000 values"):
        values("--tracking.tags", f"{{a0: &a0 [1], {lines}}}")


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, what in ((tmp_path / "pipe", "a pipe"), (tmp_path, "a folder"), (Path("/dev/zero"), "a device")):
        with pytest.raises(ConfigError, match=f"{name} is {what}; a file is needed"):
            values("--config", str(name))
    for missing in ("x" * 5000, "a\0b"):
        with pytest.raises(ConfigError, match="no such file"):
            values("--config", missing)
    with pytest.raises(ConfigError, match="nested more than 50 deep"):
        values("--a" + ".a" * 5000, "1")
    (tmp_path / "large.yaml").write_bytes(b"#" * 10_000_001)
    with pytest.raises(ConfigError, match="at most 10,000,000 make sense"):
        values("--config", str(tmp_path / "large.yaml"))
