"""The driver of a sweep: workers on this machine train trials until the study holds `n_trials`.

Also: Optuna's samplers and pruners by name, and the devices and threads of each worker.
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
from lightrail.project.basics.errors import ConfigError, first_line, shown
from lightrail.project.basics.hardware import usable_cores
from lightrail.project.basics.private_names import start_at_once
from lightrail.project.basics.reading import reading
from lightrail.project.configuration.classes import AllowedClasses
from lightrail.project.configuration.parameters import parameters_of
from lightrail.project.tracking.processes import ENDING, exception_for, handling, leave_terminal
from lightrail.sweeps.search.definition import ResourceConfig, Sweep
from lightrail.sweeps.search.locks import StudyLock
from lightrail.sweeps.search.outcomes import Progress
from lightrail.sweeps.search.study import end_orphans, finished, is_finished, num_taken, origin, restore_interrupted
from lightrail.sweeps.search.worker import Interrupted, TrialFailed, Worker

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LOOKS = 1.0
"""How often a worker without a trial checks whether one was lost by a process that has died."""


class Driver:
    """Trains the trials of a study on this machine, by one worker for each group of devices.

    Args:
        parent: MLflow run of the study.
        devices: GPUs of each worker, empty on a CPU.
        threads: of each process.
        folder: for the standard output and error of trials.
        progress: receives every trial that ends.
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
        self.lock = StudyLock(storage, sweep.name)
        self._signal = 0
        self.workers = [Worker(sweep, parent, own, threads, folder, self.is_stopping) for own in devices]
        minutes = sweep.config.timeout_minutes
        self._ends_at = float("inf") if minutes is None else time.monotonic() + 60 * minutes

    def run(self) -> None:
        """Train until the study holds `n_trials` or the time is over.

        Raises: KeyboardInterrupt or Terminated when a signal stopped it; by then trials in progress have written
            their checkpoints, and wait in the study.
        """
        with self.stopping_on_signals(), ThreadPoolExecutor(len(self.workers)) as executor:
            for future in [executor.submit(self._work, worker) for worker in self.workers]:
                future.result()

    @contextmanager
    def stopping_on_signals(self) -> Iterator[None]:
        """Handle SIGINT, SIGTERM and SIGHUP: the first lets trials write checkpoints; a second ends them immediately.

        Raises: KeyboardInterrupt or Terminated at the end of the block, when there was one.
        """

        def stop(number: int, _frame: FrameType | None) -> None:
            if number == signal.SIGHUP:
                leave_terminal()
            if self._signal:
                signal.signal(number, signal.SIG_DFL)
            else:
                os.write(2, b"\nlightrail: stopping; trials write checkpoints. Press Ctrl-C again to stop at once.\n")
            self._signal = number
            self._stop()

        try:
            with handling(ENDING, stop):
                yield
        finally:
            if self._signal:
                raise exception_for(self._signal)  # any other exception is a consequence of the signal

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
        """Train a trial if the study needs another one besides those in progress anywhere; return whether it did."""
        end_orphans(study)
        with self.lock.held() as release:
            restore_interrupted(study)
            if num_taken(study) >= self.sweep.config.n_trials or self.is_stopping.is_set():
                return False
            sampler, modules = self.sweep.config.sampler, self.sweep.modules
            study.sampler = build_sampler(sampler, self._seed(study), self.sweep.config.seed, modules)
            try:
                study.optimize(
                    lambda trial: worker.objective(trial, release),
                    n_trials=1,
                    catch=(TrialFailed, Interrupted),
                    callbacks=[self._ended],
                )
            except UpdateFinishedTrialError:
                log.warning("a trial was taken over by another machine: its heartbeat was missing for too long")
        return True

    def _seed(self, study: optuna.Study) -> int:
        """The sampler's seed for the next trial, so that no machine, worker or launch repeats another's suggestions.

        An interrupted trial counts once.
        """
        number = sum(origin(trial) == trial.number for trial in study.get_trials(deepcopy=False))
        return int(np.random.SeedSequence((self.sweep.config.seed, number)).generate_state(1)[0])

    def _ended(self, study: optuna.Study, trial: FrozenTrial) -> None:
        if is_finished(trial):
            self.progress.ended(study, trial)


def shares(resources: ResourceConfig, gpus: list[str]) -> tuple[list[list[str]], int]:
    """Return the GPUs of each worker, none on a CPU, and the threads of each process.

    Args:
        gpus: the GPUs that this process may use.

    Raises: ConfigError when there are fewer GPUs than requested.
    """
    each = resources.devices
    most = len(gpus) // each if gpus else None
    num_workers = resources.workers or most or 1
    if gpus and num_workers * each > len(gpus):
        raise ConfigError(
            f"resources: {num_workers} workers with {each} devices each need {num_workers * each} GPUs, and there are "
            f"{len(gpus)}. Request fewer."
        )
    threads = resources.threads or max(1, usable_cores() // (num_workers * each))
    return [gpus[number * each : (number + 1) * each] for number in range(num_workers)], threads


def usable_gpus() -> list[str]:
    """Return the GPUs that this process may use, by their names in CUDA_VISIBLE_DEVICES."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not torch.cuda.is_available():
        return []
    return visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]


def build_sampler(
    spec: str | dict[str, Any], seed: int, sequence_seed: int, modules: Sequence[str] = ()
) -> BaseSampler:
    """Build the sampler of one trial, whose suggestions do not depend on the state of other trials' samplers.

    Args:
        seed: seed of the trial.
        sequence_seed: seed shared by all trials, for a sampler whose points form one sequence.
        modules: further modules that the sampler may be of.

    Raises: ConfigError when there is no such sampler, or it takes no such argument.
    """
    found, arguments = _read(spec, BaseSampler, "sampler", "optuna.samplers", modules)
    if QMCSampler in found.__mro__:
        first = RandomSampler(seed=seed)  # until a trial has ended, from which Optuna infers the settings
        arguments = {"seed": sequence_seed, "independent_sampler": first, **arguments}
    elif "seed" in parameters_of(found):
        is_one_order = GridSampler in found.__mro__  # the seed decides the order of the grid's points
        arguments = {"seed": sequence_seed if is_one_order else seed, **arguments}
    sampler: BaseSampler = _built(found, arguments, "sampler")
    return sampler


def build_pruner(spec: str | dict[str, Any], modules: Sequence[str] = ()) -> BasePruner:
    """Build the pruner. Raises: ConfigError when there is no such pruner, or it takes no such argument."""
    pruner: BasePruner = _built(*_read(spec, BasePruner, "pruner", "optuna.pruners", modules), "pruner")
    return pruner


def _read(
    spec: str | dict[str, Any], base: Any, setting: str, package: str, modules: Sequence[str]
) -> tuple[type, dict[str, Any]]:
    given: dict[str, Any] = {"class_path": spec} if isinstance(spec, str) else spec
    name, arguments = given.get("class_path"), given.get("init_args") or {}
    if not isinstance(name, str) or not isinstance(arguments, dict) or set(given) - {"class_path", "init_args"}:
        found = shown(spec)
        raise ConfigError(f"{setting}: expected a class of {package}, or class_path and init_args; found {found}.")
    path = name if "." in name else f"{package}.{name}"
    chosen = AllowedClasses(modules).find(path, (base,), setting)
    known = parameters_of(chosen)
    for argument in arguments:
        if argument not in known:
            raise ConfigError(f"{setting}.{argument}: {name} takes no such argument.{did_you_mean(argument, known)}")
    return chosen, dict(arguments)


def _built(found: type, arguments: dict[str, Any], setting: str) -> Any:
    warnings.filterwarnings("ignore", category=ExperimentalWarning)  # TPE's `group` has been experimental for six years
    with _usable(setting, found.__name__, "refuses its arguments"):
        return found(**arguments)


NUM_TRIED = 4
"""Number of made-up trials by which sampler and pruner are tried out."""


def try_out(sweep: Sweep) -> None:
    """Let sampler and pruner decide on a few made-up trials in memory, so that neither fails in a trial.

    Many import a package, or look at the space and the metrics, only when they are first used.

    Raises: ConfigError when one of them cannot be used here.
    """
    config, modules = sweep.config, sweep.modules
    sampler, pruner = build_sampler(config.sampler, 0, 0, modules), build_pruner(config.pruner, modules)
    start_at_once(sampler)

    def objective(trial: optuna.Trial) -> list[float]:
        sweep.space.suggest(trial)
        values = [float(trial.number + place) for place in range(len(config.metrics))]
        if len(values) == 1:
            with _usable("pruner", type(pruner).__name__):
                for step in range(-NUM_TRIED, NUM_TRIED):  # better and then worse, or the other way round
                    trial.report(values[0] + abs(step), step + NUM_TRIED)
                    trial.should_prune()
        return values

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with _usable("sampler", type(sampler).__name__), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = optuna.create_study(sampler=sampler, pruner=pruner, directions=list(config.directions))
        study.optimize(objective, n_trials=NUM_TRIED)


@contextmanager
def _usable(setting: str, name: str, wrong: str = "cannot be used here") -> Iterator[None]:
    """Turn what a sampler or pruner raises in the block into a refusal. Raises: ConfigError."""
    try:
        with reading(f"{setting}: {name} {wrong}", f"Choose another {setting}, or change its arguments."):
            yield
    except ConfigError as error:
        if isinstance(error.__cause__, ImportError):
            needed = (error.__cause__.name or first_line(error.__cause__)).partition(".")[0]
            raise ConfigError(
                f"{setting}: {name} needs {needed}, which is not installed. Install it, or choose another {setting}."
            ) from error
        raise
