"""`lightrail sweep` from its arguments to its last line."""

import logging
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import optuna
from optuna.storages import RDBStorage

from project.errors import ConfigError
from project.tracking.run import TrackedRun, continue_run, start_run
from sweeps.choosing import build_pruner, build_sampler
from sweeps.confirming import confirm
from sweeps.definition import Sweep, load
from sweeps.devices import shares, usable_gpus
from sweeps.launching import launch
from sweeps.learning import enqueue, warm_start
from sweeps.processes import warm_up
from sweeps.progress import Progress
from sweeps.rehearsing import rehearse
from sweeps.report import conclude, status_table
from sweeps.study import RUN, finished, open_storage, open_study
from sweeps.sweep import Driver
from sweeps.turn import Turn

log = logging.getLogger(__name__)


def run_sweep(arguments: Sequence[str]) -> str:
    """Train until the study holds as many trials as were asked for; give the command's last line.

    A study that exists is gone on with. One that another process works on is joined, and left to it at the end.

    Raises:
        ConfigError, DataError: before the first trial.
        KeyboardInterrupt, Terminated: a signal stopped it; the same command goes on.
    """
    warm_up()
    sweep = load(arguments)
    build_sampler(sweep.config.sampler, 0)
    build_pruner(sweep.config.pruner)
    rehearse(sweep)
    if sweep.config.launcher != "local":
        return launch(sweep, arguments)
    devices, threads = shares(sweep.config.resources, usable_gpus())
    storage = open_storage(sweep)
    study, run_id, parent = _open(sweep, storage)
    with TemporaryDirectory(prefix="lightrail-sweep-", ignore_cleanup_errors=True) as folder:
        driver = Driver(sweep, storage, run_id, devices, threads, Path(folder), Progress(sweep, parent))
        return _train(study, driver, run_id, parent)


def _train(study: optuna.Study, driver: Driver, run_id: str, parent: TrackedRun | None) -> str:
    sweep = driver.sweep
    if parent is None:
        driver.run()
        done = len(finished(study))
        return f"sweep {run_id} goes on: {done} of {sweep.config.n_trials} trials; who began it will conclude it"
    with parent.status():
        driver.run()
        with driver.stopping_on_signals():
            trainers = [worker.train_again for worker in driver.workers]
            confirm(study, sweep, run_id, trainers, driver.is_stopping)
        return conclude(study, sweep, parent)


def show_status(arguments: Sequence[str]) -> str:
    """Give a table of the study as it is.

    Raises: ConfigError when there is no such study.
    """
    sweep = load(arguments)
    storage = open_storage(sweep)
    if sweep.name not in optuna.get_all_study_names(storage):
        raise ConfigError(f"{sweep.config.storage} holds no study {sweep.name!r}. Begin it: the same without --status.")
    return status_table(optuna.load_study(study_name=sweep.name, storage=storage), sweep)


def _open(sweep: Sweep, storage: RDBStorage) -> tuple[optuna.Study, str, TrackedRun | None]:
    """Open study and MLflow run, or begin them. The run is None where another process has it."""
    with Turn(storage, sweep.name).taken():
        study = open_study(sweep, storage)
        enqueue(study, sweep)
        warm_start(study, storage, sweep)
        run_id = study.user_attrs.get(RUN)
        if run_id is None:
            parent = _begin(sweep)
            study.set_user_attr(RUN, parent.run_id)
            log.info("run %s is that of the study %s", parent.run_id, sweep.name)
            return study, parent.run_id, parent
        return study, run_id, _go_on(sweep, run_id)


def _begin(sweep: Sweep) -> TrackedRun:
    configuration = sweep.configuration({}).named(sweep.name)
    tags = {"lightrail.kind": "sweep", "lightrail.study": sweep.name}
    return start_run(configuration.tracking(), configuration.values, tags)


def _go_on(sweep: Sweep, run_id: str) -> TrackedRun | None:
    try:
        parent = continue_run(run_id, sweep.configuration({}).tracking(), reopen=True)
    except ConfigError as error:
        log.info("the study %s is joined: %s", sweep.name, error)
        return None
    log.info("the study %s goes on; run %s", sweep.name, run_id)
    return parent
