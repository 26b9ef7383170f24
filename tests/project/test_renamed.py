"""What version 0.1.0 stored by its path is found where it is now; what a user has under such a path is his."""

import importlib

import pytest

from lightrail.project.basics.renamed import STORED, current_path, with_current_paths

PATHS = [f"{module}.{name}" for module, (_, names) in STORED.items() for name in names.split()]


@pytest.mark.parametrize("path", PATHS)
def test_a_class_that_was_stored_is_found(path: str) -> None:
    module, _, name = current_path(path).rpartition(".")
    assert getattr(importlib.import_module(module), name).__module__ == module, "not where it is only imported"


@pytest.mark.parametrize("path", ["datamodules.mine.MyData", "datamodules.pinyin.MyData", "sweeps.Mine", "Short", ""])
def test_another_class_keeps_its_path(path: str) -> None:
    assert current_path(path) == path


def test_paths_are_restated_wherever_a_class_is_named_and_nowhere_else() -> None:
    old, new = "datamodules.pinyin.PinyinData", "lightrail.datamodules.pinyin.PinyinData"
    stored = {"data": {"class_path": old, "init_args": {"path": old}}, "task": old, "more": [{"class_path": old}, old]}
    expected = {
        "data": {"class_path": new, "init_args": {"path": old}},
        "task": new,
        "more": [{"class_path": new}, old],
    }
    assert with_current_paths(stored) == expected
