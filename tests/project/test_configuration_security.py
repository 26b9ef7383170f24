"""A configuration can name classes of a few packages, and nothing else that Python could import and call."""

import os
import sys
from pathlib import Path

import pytest

from lightrail.project.basics.errors import ConfigError
from lightrail.project.configuration import parse

ALLOW = ("--allow_modules", "tests.support.components")
CHOSEN = (*ALLOW, "--model", "Tagger", "--data", "Lines")
FUNCTIONS = ["os.system", "torch.os.system", "builtins.eval", "torch.load", "torch.hub.load", "subprocess.Popen"]


def refuse(*arguments: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        parse([*CHOSEN, *arguments])


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_function_is_no_value_for_a_callable(function: str) -> None:
    refuse("--model.on_start", function, match="model.init_args.on_start: .* cannot name a function")
    hook = f"{{class_path: LambdaCallback, init_args: {{setup: {function}}}}}"
    refuse("--trainer.callbacks", hook, match="trainer.callbacks.init_args.setup: .* cannot name a function")
    refuse("--trainer.callbacks", f"[{hook}]", match="trainer.callbacks.0.init_args.setup: .* cannot name a function")
    refuse("--trainer.callbacks+", "LambdaCallback", "--trainer.callbacks.setup", function, match="name a function")


@pytest.mark.parametrize("name", [*FUNCTIONS, "torch.nn.ReLU"])
def test_a_callable_is_not_built_from_a_class_either(name: str, tmp_path: Path) -> None:
    refuse("--model.on_start", f"{{class_path: {name}}}", match="takes plain values, not a class")
    file = tmp_path / "a.yaml"
    file.write_text(f"model.on_start: {{class_path: {name}}}")
    refuse("--config", str(file), match="a.yaml:1: model.init_args.on_start takes plain values, not a class")


@pytest.mark.parametrize("function", [*FUNCTIONS, "torch.nn.ReLU", "tests.support.components.run_in_shell"])
def test_functions_do_not_hide_in_lists_and_mappings(function: str) -> None:
    hooked = "--trainer.callbacks", "Hooked"
    for value in (f"[{function}]", f"[{{class_path: {function}}}]"):
        refuse(
            *hooked,
            "--trainer.callbacks.several",
            value,
            match=r"several\.0.* (cannot name a function|takes plain values)",
        )
    for value in (f"{{a: {function}}}", f"{{a: {{class_path: {function}}}}}"):
        refuse(
            *hooked, "--trainer.callbacks.named", value, match=r"named\.a.* (cannot name a function|takes plain values)"
        )
    if function != "torch.nn.ReLU":
        refuse(
            *hooked, "--trainer.callbacks.kinds", f"[{function}]", match=r"kinds.0: .*(outside|no class|not a class)"
        )


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_function_is_no_class(function: str) -> None:
    problem = "outside the packages|is not a class|there is no class"
    refuse("--model", function, match=problem)
    refuse("--model.network", f"{{class_path: {function}, init_args: {{command: ls}}}}", match=problem)
    refuse("--model.networks", f"[WideConfig, {function}]", match=problem)
    refuse("--model.cell", function, match=problem)
    refuse("--trainer.callbacks", f"[{{class_path: {function}}}]", match=problem)
    inner = f"{{class_path: NamedConfig, init_args: {{name: x, inner: {{class_path: {function}}}}}}}"
    refuse("--model.network", inner, match=rf"network.init_args.inner.class_path: .*({problem})")


@pytest.mark.parametrize(
    "path",
    [
        "tests.support.components.run_in_shell",
        "tests.support.components.os.system",
        "tests.support.components.timedelta",
        "lightning.pytorch.trainer.connectors.callback_connector.os.system",
        "lightning.fabric.utilities.cloud_io.Path",
        "torch.serialization.pickle.Unpickler",
        "torch._utils_internal.os.popen",
    ],
)
def test_what_an_allowed_module_imported_is_not_allowed_with_it(path: str) -> None:
    refuse("--trainer.callbacks", "Hooked", "--trainer.callbacks.kind", path, match="not a class|no class|outside")
    problem = "is not a class|there is no class|outside the packages|is not a"
    refuse("--model.network", path, match=problem)
    refuse("--model.cell", path, match=problem)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("setting", ["model.anything", "model.step.extra", "model.step.extra.deep"])
@pytest.mark.parametrize(
    "form", ["{{class_path: {}}}", "class_path: {}", "a: {{class_path: {}}}", "[{{class_path: {}}}]"]
)
def test_no_class_hides_where_any_value_goes(setting: str, form: str, name: str) -> None:
    refuse(f"--{setting}", form.format(name), match="takes plain values, not a class|expected a mapping")


def test_a_callable_that_may_also_be_a_name_takes_names_only() -> None:
    pruning = "--trainer.callbacks", "ModelPruning", "--trainer.callbacks.pruning_fn"
    callback = parse([*CHOSEN, *pruning, "l1_unstructured"]).values["trainer"]["callbacks"]
    assert callback["init_args"]["pruning_fn"] == "l1_unstructured"
    refuse(*pruning, "torch.nn.utils.prune.identity", match="cannot name a function")


def test_a_name_where_any_value_goes_stays_text() -> None:
    values = parse([*CHOSEN, "--model.anything", "os.system"]).values
    assert values["model"]["init_args"]["anything"] == "os.system"


def test_a_file_is_read_only_as_a_configuration(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("class_path: os.system")
    refuse("--model", str(secret), match="there is no class")
    assert parse([*CHOSEN, "--model.anything", str(secret)]).values["model"]["init_args"]["anything"] == str(secret)
    assert parse([*CHOSEN, "--data.path", str(secret)]).values["data"]["init_args"]["path"] == str(secret)
    part = tmp_path / "part.yaml"
    part.write_text("class_path: os.system\ninit_args: {command: ls}")
    refuse("--model.network", str(part), match=r"part.yaml:1: model.init_args.network.class_path: os.system is outside")
    whole = tmp_path / "whole.yaml"
    whole.write_text("model:\n  init_args:\n    network: part.yaml")
    refuse("--config", str(whole), match=r"part.yaml:1: .* os.system is outside")


def test_a_configuration_cannot_allow_modules(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("allow_modules: os")
    refuse("--config", str(file), match="a.yaml:1: allow_modules cannot be set")
    with pytest.raises(ConfigError, match="allow_modules cannot be set"):
        parse(CHOSEN, saved={"allow_modules": "os"})


def test_only_what_was_allowed_this_time_is_allowed() -> None:
    stored = parse(CHOSEN).values
    with pytest.raises(ConfigError, match=r"tests\.support\.components\.Tagger is outside the packages"):
        parse([], saved=stored)


def test_a_typed_class_of_model_or_data_is_the_users_own_decision(tmp_path: Path) -> None:
    typed = ["--model", "tests.support.components.Tagger", "--data", "tests.support.components.Lines"]
    chosen = parse(typed).values
    file = tmp_path / "a.yaml"
    file.write_text("model: tests.support.components.Tagger\ndata: {class_path: tests.support.components.Lines}")
    assert parse(["--config", str(file)]).values == chosen
    with pytest.raises(ConfigError, match="is outside the packages"):
        parse([*typed[2:], "--model.dropout", "0.5"], saved=chosen | {"model": {"class_path": "elsewhere.Tagger"}})
    with pytest.raises(ConfigError, match="is not a LightningModule"):
        parse(["--model", "tests.support.components.WideConfig", *typed[2:]])
    with pytest.raises(ConfigError, match=r"elsewhere\.Network is outside the packages"):
        parse([*typed, "--model.network", "elsewhere.Network"])


def test_the_environment_allows_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTRAIL_ALLOW_MODULES", "tests.support.components,")
    assert parse(["--model", "Tagger", "--data", "tests.support.components.Lines"]).values["model"]


def test_an_allowed_module_may_lie_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_data.py").write_text(
        "from lightning.pytorch import LightningDataModule\nclass Mine(LightningDataModule): pass\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", os.getcwd())])
    arguments = ["--allow_modules", "my_data,tests.support.components", "--model", "Tagger", "--data", "Mine"]
    assert parse(arguments).values["data"]["class_path"] == "my_data.Mine"


def test_naming_a_module_that_is_not_allowed_does_not_import_it() -> None:
    sys.modules.pop("antigravity", None)
    refuse("--model.cell", "antigravity.fly", match="outside the packages")
    refuse("--model.anything", "antigravity.fly", "--model.on_start", "antigravity.fly", match="cannot name a function")
    assert "antigravity" not in sys.modules
