"""An empty MLflow store for each test: making one takes seconds, so that one is made and copied."""

import shutil
from pathlib import Path

import pytest

from lightrail.project.tracking.store import open_store


@pytest.fixture(scope="session")
def store_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("store") / "template.db"
    open_store(f"sqlite:///{file}", create=True)
    return file


@pytest.fixture
def store(store_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the address of a fresh store; everything else a run writes goes into `tmp_path` too."""
    file = tmp_path / "mlflow.db"
    shutil.copy(store_template, file)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("LIGHTRAIL_RUN", "")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr("lightrail.project.tracking.run.CLOSE_SECONDS", 5.0)
    return f"sqlite:///{file}"
