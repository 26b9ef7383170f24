"""Exceptions from the contract are named with a reason, and have to be ones."""

from pathlib import Path
from typing import ClassVar

import pytest

from lightrail.testing.contract import Contract


class TestAnExceptionIsRunAndHasToFail(Contract):
    expected_failures: ClassVar[dict[str, str]] = {"test_what_cannot_be_kept": "so that it fails here"}

    for _name in [name for name in vars(Contract) if name.startswith("test_")]:
        locals()[_name] = None  # the contract's own tests need a task

    def settings(self, folder: Path) -> list[str]:
        return []

    def test_what_cannot_be_kept(self) -> None:
        raise AssertionError

    def test_the_others_are_left_alone(self, request: pytest.FixtureRequest) -> None:
        assert [mark.name for mark in request.node.iter_markers("xfail")] == []


def test_an_exception_that_is_no_test_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Wrong\.expected_failures names test_none, which is no test of the contract"):
        type("Wrong", (Contract,), {"expected_failures": {"test_none": "a reason"}})
