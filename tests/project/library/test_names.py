"""`import lightrail`: the names that it gives, and that it imports nothing before one is used."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import lightrail

HEAVY = ("torch", "lightning", "mlflow", "numpy", "pandas", "optuna", "pytest")


def test_the_import_is_free() -> None:
    program = f"import sys, lightrail; print([name for name in {HEAVY} if name in sys.modules], len(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    found, _, number = done.stdout.strip().rpartition(" ")
    assert found == "[]"
    assert int(number) < 200  # modules of Python's own start, and no others


def test_every_name_is_there_and_listed() -> None:
    assert set(lightrail.__all__) <= set(dir(lightrail))
    assert "testing" in dir(lightrail)
    for name in lightrail.__all__:
        assert getattr(lightrail, name).__doc__ or name == "FromData"


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(str(lightrail.__file__)).read_text("utf-8"))
    (typed,) = [node for node in tree.body if isinstance(node, ast.If)]
    found = {
        f"{node.module}.{own.name}" for node in typed.body if isinstance(node, ast.ImportFrom) for own in node.names
    }
    assert found == {f"lightrail.{module}.{name}" for module, names in lightrail._HOMES.items() for name in names}


def test_there_is_no_other_name() -> None:
    with pytest.raises(AttributeError, match="module 'lightrail' has no attribute 'train'"):
        lightrail.train  # noqa: B018 - it raises
    with pytest.raises(ImportError):
        importlib.import_module("lightrail.fit")


def test_the_contract_of_tasks_is_there() -> None:
    assert lightrail.testing.TaskContract.__name__ == "TaskContract"
