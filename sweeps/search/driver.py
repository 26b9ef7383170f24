"""The workers of a sweep on this machine: trials are trained until the study holds as many as were asked for.

Besides them Optuna's samplers and pruners by name, and how the machine is divided.
"""

import logging
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import optuna
import torch
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler, GridSampler, QMCSampler, RandomSampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial

from lightrail.project.basics.did_you_mean import did_you_mean
from lightrail.project.basics.errors import ConfigError
from lightrail.project.basics.hardware import usable_cores
from lightrail.project.configuration.classes import AllowedClasses
from lightrail.project.configuration.parameters import parameters_of
from lightrail.project.training.stopping import exception_for
from lightrail.sweeps.search.definition import ResourceConfig, Sweep
from lightrail.sweeps.search.locks import Turn
from lightrail.sweeps.search.outcomes import Progress
from lightrail.sweeps.search.study import end_orphans, finished, is_finished, num_taken, origin, restore_interrupted
from lightrail.sweeps.search.worker import Interrupted, TrialFailed, Worker

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LOOKS = 1.0
"""How often a worker that is left no trial looks whether one comes back from a process that has died."""


class Driver:
    """Has the trials of a study trained on this machine.

    Args:
        parent: MLflow run of the study.
        devices: GPUs of each worker, empty on a CPU.
        threads: of each process.
        folder: for what trials write to their standard output and error.
        progress: told of every trial that ends.
    """

    def __init__(
        self,
        sweep: Sweep,
        storage: RDBStorage,
        parent: str,
        devices: Sequence[list[str]],
        threads: int,
        folder: Path,
        progress: Progress,
    ) -> None:
        self.sweep, self.storage, self.progress = sweep, storage, progress
        self.is_stopping = threading.Event()
        self.turn = Turn(storage, sweep.name)
        self._signal = 0
        self.workers = [Worker(sweep, parent, own, threads, folder, self.is_stopping) for own in devices]
        minutes = sweep.config.timeout_minutes
        self._ends_at = float("inf") if minutes is None else time.monotonic() + 60 * minutes

    def run(self) -> None:
        """Train until the study is full or the time is over.

        Raises: KeyboardInterrupt or Terminated when a signal stopped it; trials in progress have written their
            checkpoints then, and wait in the study.
        """
        with self.stopping_on_signals(), ThreadPoolExecutor(len(self.workers)) as executor:
            for future in [executor.submit(self._work, worker) for worker in self.workers]:
                future.result()

    @contextmanager
    def stopping_on_signals(self) -> Iterator[None]:
        """The first SIGINT or SIGTERM lets trials write their checkpoints; a second ends them at once.

        Raises: KeyboardInterrupt or Terminated at the end of the block, when there was one.
        """

        def stop(number: int, _frame: FrameType | None) -> None:
            if self._signal:
                signal.signal(number, signal.SIG_DFL)
            else:
                os.write(2, b"\nlightrail: stopping; trials in progress write their checkpoints. Once more: at once.\n")
            self._signal = number
            self._stop()

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            if self._signal:
                raise exception_for(self._signal)  # whatever else was raised came of it

    def _stop(self) -> None:
        self.is_stopping.set()
        for worker in self.workers:
            worker.stop()

    def _work(self, worker: Worker) -> None:
        study = optuna.load_study(study_name=self.sweep.name, storage=self.storage)
        study.pruner = build_pruner(self.sweep.config.pruner, self.sweep.modules)
        try:
            while not self.is_stopping.is_set() and time.monotonic() < self._ends_at:
                if self._train_one(study, worker):
                    continue
                if len(finished(study)) >= self.sweep.config.n_trials:
                    return
                self.is_stopping.wait(SECONDS_BETWEEN_LOOKS)
        except BaseException:
            self._stop()
            raise

    def _train_one(self, study: optuna.Study, worker: Worker) -> bool:
        """Train a trial, and say True, if the study wants another one besides those in progress anywhere."""
        end_orphans(study)
        with self.turn.taken() as end_turn:
            restore_interrupted(study)
            if num_taken(study) >= self.sweep.config.n_trials or self.is_stopping.is_set():
                return False
            sampler, modules = self.sweep.config.sampler, self.sweep.modules
            study.sampler = build_sampler(sampler, self._seed(study), self.sweep.config.seed, modules)
            try:
                study.optimize(
                    lambda trial: worker.objective(trial, end_turn),
                    n_trials=1,
                    catch=(TrialFailed, Interrupted),
                    callbacks=[self._ended],
                )
            except UpdateFinishedTrialError:
                log.warning("a trial was taken over by another machine: for too long its heartbeat was not seen")
        return True

    def _seed(self, study: optuna.Study) -> int:
        """The next trial's own seed of the sampler: no machine, worker or launch says again what another has said.

        Trials that were interrupted count once.
        """
        number = sum(origin(trial) == trial.number for trial in study.get_trials(deepcopy=False))
        return int(np.random.SeedSequence((self.sweep.config.seed, number)).generate_state(1)[0])

    def _ended(self, study: optuna.Study, trial: FrozenTrial) -> None:
        if is_finished(trial):
            self.progress.ended(study, trial)


def shares(resources: ResourceConfig, gpus: list[str]) -> tuple[list[list[str]], int]:
    """Give the GPUs of each worker, none on a CPU, and the threads of each process.

    Args:
        gpus: the GPUs that this process may use.

    Raises: ConfigError when there are fewer GPUs than are asked for.
    """
    each = resources.devices
    most = len(gpus) // each if gpus else None
    num_workers = resources.workers or most or 1
    if gpus and num_workers * each > len(gpus):
        raise ConfigError(
            f"resources: {num_workers} workers with {each} devices each need {num_workers * each} GPUs, and there are "
            f"{len(gpus)}. Give fewer."
        )
    threads = resources.threads or max(1, usable_cores() // (num_workers * each))
    return [gpus[number * each : (number + 1) * each] for number in range(num_workers)], threads


def usable_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not torch.cuda.is_available():
        return []
    return visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]


def build_sampler(
    spec: str | dict[str, Any], seed: int, sequence_seed: int, modules: Sequence[str] = ()
) -> BaseSampler:
    """Build the sampler of one trial, whatever samplers of other trials have given.

    Args:
        seed: of the trial.
        sequence_seed: the same for all trials, of a sampler that gives the points of one sequence.
        modules: further ones that the sampler may be of.

    Raises: ConfigError when there is no such sampler, or it takes no such argument.
    """
    found, arguments = _read(spec, BaseSampler, "sampler", "optuna.samplers", modules)
    if QMCSampler in found.__mro__:
        first = RandomSampler(seed=seed)  # the sequence begins when the study knows its settings
        arguments = {"seed": sequence_seed, "independent_sampler": first, **arguments}
    elif "seed" in parameters_of(found):
        is_one_order = GridSampler in found.__mro__  # the seed decides in which order its points are gone through
        arguments = {"seed": sequence_seed if is_one_order else seed, **arguments}
    sampler: BaseSampler = _built(found, arguments, "sampler")
    return sampler


def build_pruner(spec: str | dict[str, Any], modules: Sequence[str] = ()) -> BasePruner:
    """Raises: ConfigError when there is no such pruner, or it takes no such argument."""
    pruner: BasePruner = _built(*_read(spec, BasePruner, "pruner", "optuna.pruners", modules), "pruner")
    return pruner


def _read(
    spec: str | dict[str, Any], base: Any, setting: str, package: str, modules: Sequence[str]
) -> tuple[type, dict[str, Any]]:
    given: dict[str, Any] = {"class_path": spec} if isinstance(spec, str) else spec
    name, arguments = given.get("class_path"), given.get("init_args") or {}
    if not isinstance(name, str) or set(given) - {"class_path", "init_args"}:
        raise ConfigError(f"{setting}: expected a class of {package}, or class_path and init_args; found {spec!r}.")
    path = name if "." in name else f"{package}.{name}"
    found = AllowedClasses(modules).find(path, (base,), setting)
    known = parameters_of(found)
    for argument in arguments:
        if argument not in known:
            raise ConfigError(f"{setting}.{argument}: {name} takes no such argument.{did_you_mean(argument, known)}")
    return found, dict(arguments)


def _built(found: type, arguments: dict[str, Any], setting: str) -> Any:
    warnings.filterwarnings("ignore", category=ExperimentalWarning)  # `group` of TPE is, for six years
    try:
        return found(**arguments)
    except (ValueError, TypeError, ImportError) as error:
        raise ConfigError(f"{setting}: {found.__name__} refuses its arguments: {error}") from error
