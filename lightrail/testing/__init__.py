"""Tests that every task must pass, to derive from: see `docs/own_task.md`. Needs pytest."""

import pytest

pytest.register_assert_rewrite("lightrail.testing.contract", "lightrail.testing.resuming")

from lightrail.testing.contract import Contract, NetworkContract, TaskContract  # noqa: E402 - after the line above

__all__ = ["Contract", "NetworkContract", "TaskContract"]
