"""An empty MLflow store for each test: making one takes seconds, so that one is made and copied."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lightrail.project.tracking.store import open_store

if TYPE_CHECKING:
    from tests.project.running import Fitted

MLFLOW_WITH_SQLALCHEMY_2_1 = "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.filterwarnings(MLFLOW_WITH_SQLALCHEMY_2_1))


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


@pytest.fixture(scope="session")
def world(store_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that the finished runs of the whole session share: a store, and a clean git repository."""
    folder = tmp_path_factory.mktemp("world")
    shutil.copy(store_template, folder / "mlflow.db")
    (folder / "repository").mkdir()
    commit = "git init --quiet && git -c user.name=a -c user.email=a@b commit --quiet --allow-empty -m first"
    subprocess.run(commit, shell=True, check=True, cwd=folder / "repository")
    return folder


@pytest.fixture(scope="session")
def fitted_pinyin(world: Path) -> "Fitted":
    from tests.project.running import fit_pinyin

    with _working_in(world):
        return fit_pinyin(world / "pinyin", f"sqlite:///{world}/mlflow.db")


@pytest.fixture(scope="session")
def fitted_classifier(world: Path) -> "Fitted":
    from tests.project.running import fit_classifier

    with _working_in(world):
        return fit_classifier(world / "classifier", f"sqlite:///{world}/mlflow.db")


@contextmanager
def _working_in(folder: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder / "repository")
        patch.setenv("LIGHTRAIL_CACHE", str(folder / "cache"))
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        for name in ("MLFLOW_TRACKING_URI", "LIGHTRAIL_RUN", "LIGHTRAIL_ALLOW_MODULES"):
            patch.delenv(name, raising=False)
        yield
