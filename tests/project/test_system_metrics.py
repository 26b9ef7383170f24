"""What a run's processes and devices are busy with. The GPU part runs with torch.cuda's answers made up here."""

import _thread
import multiprocessing
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from mlflow import MlflowClient

from lightrail.project.tracking.logger import MlflowLogger
from lightrail.project.tracking.run import TrackedRun, start_run
from lightrail.project.tracking.settings import TrackingConfig
from lightrail.project.training import system_metrics as system_metrics
from lightrail.project.training.system_metrics import ProcessUse, SystemMetrics, cuda_devices, measure_gpu
from tests.support.children import SECONDS_TO_HANG
from tests.support.tracking import fit

STARTED: list[system_metrics._Sampling] = []
"""Those that the test has started."""
CPU, MEMORY = "system/cpu_utilization_percentage", "system/memory_usage_megabytes"


@pytest.fixture
def run(store: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[TrackedRun]:
    monkeypatch.setattr(system_metrics, "INTERVAL_SECONDS", 0.2)
    run = start_run(TrackingConfig(uri=store), {}, {})
    with run.status():
        yield run


def burn(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


class BusyAt(Callback):
    """Computes, or waits, until the end of the training."""

    def __init__(self, seconds: float, error: type[BaseException] | None = None) -> None:
        self.seconds, self.error = seconds, error

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        burn(self.seconds)
        if self.error is not None:
            raise self.error


@pytest.fixture(autouse=True)
def _counted(monkeypatch: pytest.MonkeyPatch) -> None:
    STARTED.clear()
    begin = system_metrics._Sampling.__init__

    def count(self: system_metrics._Sampling, *arguments: Any) -> None:
        STARTED.append(self)
        begin(self, *arguments)

    monkeypatch.setattr(system_metrics._Sampling, "__init__", count)


def measuring() -> list[system_metrics._Sampling]:
    return [own for own in STARTED if not own.is_over.is_set()]


def until_none_measures() -> bool:
    deadline = time.monotonic() + SECONDS_TO_HANG
    while measuring() and time.monotonic() < deadline:
        time.sleep(0.02)
    return not measuring()


def test_a_busy_and_an_idle_core_are_logged() -> None:
    use = ProcessUse()
    began = time.monotonic()
    burn(0.5)
    busy = use.measure()
    assert busy[CPU] == pytest.approx(100 * 0.5 / (time.monotonic() - began), rel=0.2)
    assert 20 < busy[MEMORY] < 100_000
    time.sleep(0.3)
    assert use.measure()[CPU] < 50


def test_the_processes_it_started_count_as_well() -> None:
    use = ProcessUse()
    alone = use.measure()[MEMORY]
    child = multiprocessing.get_context("fork").Process(target=burn, args=(60,))
    child.start()
    try:
        time.sleep(1)
        together = use.measure()
    finally:
        child.kill()
        child.join()
    assert together[CPU] > 5
    assert together[MEMORY] > alone


@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
class TestInARun:
    def test_points_are_at_the_seconds_since_the_start_and_none_comes_after_the_end(
        self, run: TrackedRun, store: str
    ) -> None:
        fit(run, SystemMetrics(), BusyAt(0.7), num_steps=4)
        assert until_none_measures()
        run.logger.finalize("success")
        points = MlflowClient(store).get_metric_history(run.run_id, CPU)
        seconds = [point.step for point in points]
        assert len(seconds) >= 2
        assert seconds == sorted(set(seconds))
        for point in points:
            assert point.step == pytest.approx((point.timestamp - run.logger.start_time) / 1000, abs=1.5)
        assert max(point.value for point in points) > 5
        count = len(run.logger.journal.series()[CPU])
        time.sleep(0.5)
        assert len(run.logger.journal.series()[CPU]) == count

    def test_an_exception_ends_it(self, run: TrackedRun) -> None:
        with pytest.raises(RuntimeError):
            fit(run, SystemMetrics(), BusyAt(0.5, RuntimeError), num_steps=4)
        assert until_none_measures()

    def test_what_goes_wrong_in_it_does_not_reach_the_training(
        self, run: TrackedRun, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(_: ProcessUse) -> dict[str, float]:
            raise PermissionError("hidden processes")

        monkeypatch.setattr(ProcessUse, "measure", fail)
        fit(run, SystemMetrics(), BusyAt(0.2), num_steps=2)
        assert until_none_measures()
        assert "system metrics are no longer logged" in caplog.text
        assert "train/loss" in run.logger.journal.series()


def test_where_no_thread_can_begin_a_run_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made up: `threading.Thread.start` waits for ever when the new thread finds no memory to begin."""

    def wait_for_ever(_: threading.Thread) -> None:
        pytest.fail("it would wait for ever")

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", wait_for_ever)
    monkeypatch.setattr(_thread, "start_new_thread", refuse)
    sampling = system_metrics._Sampling(cast(MlflowLogger, None), [])
    assert sampling.is_over.is_set()
    sampling.stop()


def test_a_trainer_without_a_tracked_run_is_not_measured(tmp_path: Path) -> None:
    callback = SystemMetrics()
    trainer = Trainer(logger=False, accelerator="cpu", enable_checkpointing=False, default_root_dir=tmp_path)
    callback.setup(trainer, LightningModule(), "fit")
    assert not measuring()


def test_only_gpus_of_the_trainer_are_measured() -> None:
    """Made up: a trainer on the second and third of four GPUs."""
    on_gpus = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cuda", 1)), device_ids=[1, 2])
    assert cuda_devices(on_gpus) == [1, 2]  # type: ignore[arg-type]
    assert cuda_devices(Trainer(logger=False, accelerator="cpu", enable_checkpointing=False)) == []


def test_a_gpu_is_logged_as_the_driver_reports_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made up: the driver's answers."""
    monkeypatch.setattr(torch.cuda, "device_memory_used", lambda device: 3_000_000_000 * device)
    monkeypatch.setattr(torch.cuda, "utilization", lambda device: 70 + device)
    assert measure_gpu(1) == {
        "system/gpu_1_memory_usage_megabytes": 3000.0,
        "system/gpu_1_utilization_percentage": 71.0,
    }


def test_without_the_drivers_library_the_memory_of_its_own_gpu_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made up: no nvidia-ml-py, and CUDA in use on the first GPU alone."""

    def missing(device: int) -> int:
        raise ModuleNotFoundError("nvidia-ml-py does not seem to be installed")

    monkeypatch.setattr(torch.cuda, "device_memory_used", missing)
    monkeypatch.setattr(torch.cuda, "utilization", missing)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 1000 if device == 0 else 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (60_000_000_000, 80_000_000_000))
    assert measure_gpu(0) == {"system/gpu_0_memory_usage_megabytes": 20_000.0}
    assert measure_gpu(1) == {}
