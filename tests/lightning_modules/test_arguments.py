"""Constructor arguments survive a checkpoint as plain values, and nothing but settings is ever built from one."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightrail.lightning_modules.arguments import FromData, check_facts, from_plain, to_plain
from lightrail.lightning_modules.networks.encoders.pretrained import PretrainedConfig
from lightrail.lightning_modules.networks.encoders.transformer import TransformerConfig
from lightrail.lightning_modules.optimization import OptimConfig
from lightrail.project.basics.errors import ConfigError


@dataclass(frozen=True)
class OwnConfig:
    inner: OptimConfig = field(default_factory=lambda: OptimConfig(lr=0.25))
    several: list[TransformerConfig] = field(default_factory=lambda: [TransformerConfig(width=8)])
    counts: dict[str, int] = field(default_factory=lambda: {"你": 2})


ARGUMENTS: dict[str, Any] = {
    "encoder": TransformerConfig(width=16, ngram_orders=[2, 3]),
    "optim": OptimConfig(freeze=["tokens"]),
    "own": OwnConfig(),
    "pretrained": PretrainedConfig(checkpoint="x", architecture={"model_type": "bert", "id2label": {0: "A"}}),
    "labels": ["a", "b"],
    "candidates": {"ta": {"他": 2}},
    "nothing": None,
}

plain_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["class_path", "init_args", "a", "b"]), inner, max_size=3).filter(
            lambda found: set(found) != {"class_path", "init_args"}
        )
    ),
    max_leaves=8,
)


def test_settings_are_written_in_the_words_of_a_configuration() -> None:
    assert to_plain(TransformerConfig(width=16))["class_path"] == (
        "lightrail.lightning_modules.networks.encoders.transformer.TransformerConfig"
    )
    assert to_plain({"optim": OptimConfig(lr=0.5)})["optim"]["init_args"]["lr"] == 0.5
    assert to_plain((1, (2, 3))) == [1, [2, 3]]


def test_arguments_come_back_equal_through_a_file_without_pickles(tmp_path: Path) -> None:
    torch.save(to_plain(ARGUMENTS), tmp_path / "arguments.pt")
    assert from_plain(torch.load(tmp_path / "arguments.pt", weights_only=True)) == ARGUMENTS


@given(plain_values)
def test_plain_values_come_back_as_they_are_whatever_their_keys(value: Any) -> None:
    assert from_plain(to_plain(value)) == value


@pytest.mark.parametrize(
    "class_path",
    [
        "os.system",
        "subprocess.Popen",
        "builtins.exec",
        "lightrail.lightning_modules.base.TaskModule",
        "lightrail.lightning_modules.optimization.build_optimizer",
        "lightrail.lightning_modules.optimization.NoSuchConfig",
        "tests.not_imported.Config",
        "nothing",
    ],
)
def test_nothing_but_a_settings_class_is_built(class_path: str) -> None:
    with pytest.raises(ConfigError, match=r"which is no settings class of lightrail.*--allow_modules"):
        from_plain({"optim": {"class_path": class_path, "init_args": {}}})


def test_no_module_of_others_is_imported_for_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "intruder.py").write_text("raise SystemExit('imported')\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"the checkpoint names intruder\.Config"):
        from_plain({"class_path": "intruder.Config", "init_args": {}})
    assert "intruder" not in sys.modules


def test_a_missing_fact_is_named_and_one_with_a_default_may_be_left_out() -> None:
    class Task:
        def __init__(self, labels: FromData[list[str]], alphabet: FromData[list[str] | None] = None) -> None: ...

    check_facts(Task, {"labels": ["a"]})
    with pytest.raises(ValueError, match="its argument labels, which came from the data, is missing"):
        check_facts(Task, {"alphabet": ["a"]})
