"""Every test runs on one thread, in a world of its own: no cache, store or setting of the machine leaks in."""

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.support.blank_figures import DRAWS_FIGURES
from tests.support.children import ALIVE

pytest_plugins = ["tests.support.stores", "tests.support.installed"]
collect_ignore = ["outside"]  # a package of its own, which `test_outside.py` installs
OPEN_FILES, MAX_OPEN_FILES = Path("/proc/self/fd"), 500

gc.disable()  # till all is imported: there is nothing to collect
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # also where a fixture of a whole file trains, before any fixture of a test
os.environ["HF_HUB_OFFLINE"] = "1"  # read once, when huggingface_hub is imported


def pytest_collection_finish() -> None:
    """Keep what was imported out of every later collection: a tenth of the tests' time went into looking at it."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)  # before what fixtures of a whole file train
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave figures blank but in the tests marked `pictures`."""
    os.environ.pop(DRAWS_FIGURES, None)
    if item.get_closest_marker("pictures"):
        os.environ[DRAWS_FIGURES] = "1"


@pytest.fixture(autouse=True)
def _own_signal_handlers() -> None:
    """As Python starts with. A shell's background job begins with SIGINT ignored, and after a Ctrl-C Lightning ignores
    it for good: a test that waits for it would wait for ever.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _own_world(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("LIGHTRAIL_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.getbasetemp() / "state"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("MLFLOW_TRACKING_URI", "LIGHTRAIL_RUN", "LIGHTRAIL_ALLOW_MODULES"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """A test that fails leaves no process to the next one; and no test leaves the files of its experiments, of which an
    ordinary user may have a thousand open: they would wait for the garbage collector.
    """
    yield
    for child in list(ALIVE):
        child.close()
    if OPEN_FILES.is_dir() and len(list(OPEN_FILES.iterdir())) > MAX_OPEN_FILES:
        gc.collect()
