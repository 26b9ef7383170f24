"""A sweep of a tiny network in a folder of its own."""

from pathlib import Path

import pytest

from tests.project.conftest import pytest_collection_modifyitems, store, store_template  # noqa: F401
from tests.sweeps.sweeping import TinySweep


@pytest.fixture
def tiny_sweep(tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> TinySweep:  # noqa: F811
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")  # of the processes that are started
    return TinySweep(tmp_path, store)
