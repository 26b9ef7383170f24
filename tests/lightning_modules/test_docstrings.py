"""Examples in docstrings give what they show."""

import doctest
import importlib

import pytest

from lightrail.project.basics.catalogue import ROOT

MODULES = sorted(
    ".".join(file.relative_to(ROOT).with_suffix("").parts)
    for folder in ("lightning_modules", "project/figures")
    for file in (ROOT / folder).rglob("*.py")
    if ">>> " in file.read_text("utf-8")
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_give_what_they_show(name: str) -> None:
    results = doctest.testmod(importlib.import_module(f"lightrail.{name}"))
    assert results.attempted
    assert not results.failed


def test_some_modules_have_examples() -> None:
    assert len(MODULES) > 10
