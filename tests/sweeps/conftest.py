"""A sweep of a tiny network in a folder of its own."""

from pathlib import Path

import pytest

from tests.support.sweeping import TinySweep


@pytest.fixture
def tiny_sweep(tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> TinySweep:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")  # of the processes that are started
    return TinySweep(tmp_path, store)
