"""Runs that have been trained once, for all tests that only read them."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.running import Fitted


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
    from tests.support.running import fit_pinyin

    with _working_in(world):
        return fit_pinyin(world / "pinyin", f"sqlite:///{world}/mlflow.db")


@pytest.fixture(scope="session")
def fitted_classifier(world: Path) -> "Fitted":
    from tests.support.running import fit_classifier

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
