"""Throughput of training, and its use of processor, memory and GPUs."""

import _thread
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import lightning.pytorch as pl
import psutil
import torch
import torch.distributed
from lightning.pytorch import Callback
from torch.utils._pytree import tree_leaves

from lightrail.lightning_modules.base import TaskModule
from lightrail.project.tracking.logger import MlflowLogger
from lightrail.project.tracking.sender import milliseconds_now

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 10.0


class Throughput(Callback):
    """Logs examples and tokens per second over all processes, without padding and without validation time."""

    def __init__(self) -> None:
        self._num_examples = self._num_tokens = 0
        self._last_step = 0
        self._since = 0.0
        self._paused_seconds = 0.0
        self._paused_at = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start_over(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._paused_at = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._paused_seconds += time.perf_counter() - self._paused_at

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        examples, tokens = _sizes(batch)
        self._num_examples += examples
        self._num_tokens += tokens
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        is_step_over = trainer.global_step != self._last_step  # an epoch's last step may take fewer batches
        if every and is_step_over and trainer.global_step % every == 0:
            self._log(trainer, pl_module)

    def _log(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        seconds = time.perf_counter() - self._since - self._paused_seconds
        counts = torch.tensor([self._num_examples, self._num_tokens], device=pl_module.device)
        if trainer.world_size > 1:
            torch.distributed.all_reduce(counts)
        rates = {
            f"throughput/{name}_per_second": float(count) / seconds
            for name, count in zip(("examples", "tokens"), counts, strict=True)
            if isinstance(pl_module, TaskModule) or count
        }
        for own in trainer.loggers:
            own.log_metrics(rates, step=trainer.global_step)
        self._start_over(trainer)

    def _start_over(self, trainer: pl.Trainer) -> None:
        self._last_step = trainer.global_step
        self._num_examples = self._num_tokens = 0
        self._since, self._paused_seconds = time.perf_counter(), 0.0


def _sizes(batch: Any) -> tuple[int, int]:
    """Return the numbers of examples and tokens of a batch; of a plain module's the length of its first tensor, and 0.

    A batch that only fills a process up has none.
    """
    if isinstance(batch, Mapping) and "is_filler" in batch:
        return (0, 0) if batch["is_filler"] else (len(batch["id"]), batch["num_tokens"])
    first = next((own for own in tree_leaves(batch) if isinstance(own, torch.Tensor) and own.ndim), ())
    return len(first), 0


class SystemMetrics(Callback):
    """Logs the use of processor, memory and the trainer's own GPUs while a tracked run trains or tests.

    A thread of process zero measures, so that no step waits. The metrics' step is the number of whole seconds since the
    start of the run, the time between an interruption and the resume included.
    """

    def __init__(self) -> None:
        self._sampling: _Sampling | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._stop()
        if trainer.is_global_zero and isinstance(trainer.logger, MlflowLogger):
            self._sampling = _Sampling(trainer.logger, cuda_devices(trainer))

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._sampling is not None:
            self._sampling.stop()
        self._sampling = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_sampling": None}


def cuda_devices(trainer: pl.Trainer) -> list[int]:
    """Return the indices of the trainer's GPUs on this machine, as seen by this process."""
    return list(trainer.device_ids) if trainer.strategy.root_device.type == "cuda" else []


class ProcessUse:
    """Measures this process and its descendants."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._seconds: dict[psutil.Process, float] = {}
        self._since = time.monotonic()
        self.measure()

    def measure(self) -> dict[str, float]:
        """Return processor use since the last call, in percent of one core, and the current memory use in megabytes.

        Memory shared by processes counts in each of them.
        """
        seconds, memory, now = {}, 0, time.monotonic()
        for process in (self._process, *self._process.children(recursive=True)):
            with suppress(psutil.Error), process.oneshot():  # one that ends at this moment
                times = process.cpu_times()
                seconds[process] = times.user + times.system
                memory += process.memory_info().rss
        used = sum(value - self._seconds.get(process, 0.0) for process, value in seconds.items())
        elapsed = max(now - self._since, 1e-9)
        self._seconds, self._since = seconds, now
        return {
            "system/cpu_utilization_percentage": 100 * used / elapsed,
            "system/memory_usage_megabytes": memory / 1e6,
        }


def measure_gpu(device: int) -> dict[str, float]:
    """Return a GPU's memory use of all processes, in megabytes, and its utilization in percent, as far as known.

    Utilization, and the memory of a GPU that only another process uses, need nvidia-ml-py.
    """
    metrics = {}
    memory = _first_known(lambda: torch.cuda.device_memory_used(device), lambda: _memory_of_own(device))
    if memory is not None:
        metrics[f"system/gpu_{device}_memory_usage_megabytes"] = memory / 1e6
    busy = _first_known(lambda: torch.cuda.utilization(device))
    if busy is not None:
        metrics[f"system/gpu_{device}_utilization_percentage"] = float(busy)
    return metrics


def _memory_of_own(device: int) -> int:
    if not torch.cuda.memory_reserved(device):
        raise RuntimeError("a query would start CUDA on this GPU, which takes half a gigabyte")
    free, total = torch.cuda.mem_get_info(device)
    return total - free


def _first_known(*ways: Callable[[], int]) -> int | None:
    for way in ways:
        with suppress(Exception):  # drivers, cards and MIG partitions raise different exceptions
            return way()
    return None


class _Sampling:
    """A thread that logs until it is stopped."""

    def __init__(self, logger: MlflowLogger, devices: Sequence[int]) -> None:
        self._logger, self._devices = logger, devices
        self._stopped = threading.Event()
        self._logging = threading.Lock()
        self.is_over = threading.Event()
        """Set when nothing is measured any more."""
        try:
            # Not threading.Thread, whose start waits for ever where the new thread finds no memory to begin.
            _thread.start_new_thread(self._run, ())
        except RuntimeError:
            self.is_over.set()
            log.warning("system metrics are not logged: no further thread can be started")

    def stop(self) -> None:
        """Log nothing from now on, without waiting for a measurement."""
        with self._logging:
            self._stopped.set()

    def _run(self) -> None:
        try:
            use = ProcessUse()
            while not self._stopped.wait(INTERVAL_SECONDS):
                metrics = use.measure()
                for device in self._devices:
                    metrics |= measure_gpu(device)
                self._log(metrics)
        except Exception:
            log.warning("system metrics are no longer logged", exc_info=True)
        finally:
            self.is_over.set()

    def _log(self, metrics: dict[str, float]) -> None:
        seconds = (milliseconds_now() - self._logger.start_time) // 1000
        with self._logging:
            if not self._stopped.is_set():  # after the end a run is closed
                self._logger.log_metrics(metrics, step=seconds)
