"""The command `lightrail sweep`, from its arguments to its last line."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Any

import optuna
from optuna.storages import RDBStorage

from lightrail.project.basics.did_you_mean import did_you_mean
from lightrail.project.basics.errors import ConfigError, Refusal, shown, without_password
from lightrail.project.basics.reading import reading
from lightrail.project.basics.tables import as_json
from lightrail.project.configuration import Configuration
from lightrail.project.tracking.database import sqlite_address, sqlite_file
from lightrail.project.tracking.run import TrackedRun, continue_run, start_run
from lightrail.sweeps.launching import launch
from lightrail.sweeps.report.concluding import chosen, conclude
from lightrail.sweeps.report.description import status_table
from lightrail.sweeps.report.tables import plain_trials
from lightrail.sweeps.search.confirming import Train, announcement, confirm, confirmation_of
from lightrail.sweeps.search.definition import Sweep, load
from lightrail.sweeps.search.driver import Driver, shares, try_out, usable_gpus
from lightrail.sweeps.search.locks import StudyLock, become_owner, has_lost_its_owner, heartbeat
from lightrail.sweeps.search.outcomes import Progress, configuration_of, outcomes_of
from lightrail.sweeps.search.space import Settings
from lightrail.sweeps.search.study import RUN, finished, open_storage, open_study
from lightrail.sweeps.search.warm_start import enqueue, warm_start
from lightrail.sweeps.search.worker import Interrupted, TrialFailed
from lightrail.sweeps.trials.process import call_forked, warm_up

log = logging.getLogger(__name__)

DEFINITION, BASE = "sweep.yaml", "config.yaml"
"""Files of the study's run: the sweep, and the configuration that its trials start from."""
CONCLUDED = "concluded"
"""Attribute of a study: the number of finished trials that the report in its run covers."""


def run_sweep(arguments: Sequence[str]) -> str:
    """Train trials until the study holds `n_trials` of them; return the command's last line.

    An existing study is resumed. One that another process works on is joined; that process writes the report, unless
    it has died.

    Raises:
        ConfigError, DataError: before the first trial.
        KeyboardInterrupt, Terminated: a signal stopped the sweep; the same command resumes it.
    """
    with _log_each_message_once("lightrail.project.configuration.checking"):  # a configuration is made for every trial
        return _run(arguments)


def _run(arguments: Sequence[str]) -> str:
    warm_up()
    sweep = load(arguments)
    try_out(sweep)
    dry_run(sweep)
    if sweep.config.launcher != "local":
        return launch(sweep, arguments)
    devices, threads = shares(sweep.config.resources, usable_gpus())
    storage = open_storage(sweep)
    study, run_id, parent = _open(sweep, storage)
    with TemporaryDirectory(prefix="lightrail-sweep-", ignore_cleanup_errors=True) as folder:
        driver = Driver(sweep, storage, run_id, devices, threads, Path(folder), Progress(sweep, parent))
        return _train(study, driver, run_id, parent)


@contextmanager
def _log_each_message_once(logger: str) -> Iterator[None]:
    said: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        is_known = record.getMessage() in said
        said.add(record.getMessage())
        return not is_known

    logging.getLogger(logger).addFilter(is_new)
    try:
        yield
    finally:
        logging.getLogger(logger).removeFilter(is_new)


def _train(study: optuna.Study, driver: Driver, run_id: str, parent: TrackedRun | None) -> str:
    sweep = driver.sweep
    if parent is None:
        driver.run()
        parent = _take_over(study, driver.storage, sweep)
    if parent is None:
        done = len(finished(study))
        n_trials = sweep.config.n_trials
        return f"sweep {run_id} is still running: {done} of {n_trials} trials; its owner will write the report"
    if said := announcement(sweep):
        log.info("%s", said)
    with parent.status(), heartbeat(study, sweep.config.heartbeat_seconds):
        driver.run()
        with driver.stopping_on_signals():
            trainers = [worker.train_again for worker in driver.workers]
            confirm(study, sweep, trainers, driver.is_stopping)
            _test_best(study, sweep, trainers[0], driver.is_stopping)
        last_line = conclude(study, sweep, parent)
        study.set_user_attr(CONCLUDED, len(finished(study)))
        return last_line


def _test_best(study: optuna.Study, sweep: Sweep, train: Train, is_stopping: Event) -> None:
    """Test the best trial, or those of the Pareto front: trials themselves are only validated."""
    for outcome in chosen(outcomes_of(study, sweep), sweep, confirmation_of(study, sweep)):
        for seed, run_id in outcome.runs.items():
            configuration = configuration_of(outcome, sweep, int(seed))
            name = f"trial {outcome.number} test seed {seed}"
            try:
                train(configuration, name=name, tags={}, run_id=run_id, began=lambda _: None)
            except (TrialFailed, Interrupted) as error:
                if is_stopping.is_set():
                    raise
                log.warning("%s: %s", name, error)


def show_status(arguments: Sequence[str], *, is_json: bool = False) -> str:
    """Return a table of the study's trials so far, or the same as JSON.

    Raises: ConfigError when the storage holds no such study.
    """
    sweep = load(arguments)
    file = sqlite_file(sqlite_address(sweep.config.storage, "storage"))
    storage = open_storage(sweep) if file is None or file.exists() else None  # which would create it
    with _reading(sweep):
        if storage is not None and sweep.name in optuna.get_all_study_names(storage):
            study = optuna.load_study(study_name=sweep.name, storage=storage)
            if not is_json:
                return status_table(study, sweep)
            about = {"study": sweep.name, "run_id": study.user_attrs.get(RUN), "n_trials": sweep.config.n_trials}
            return as_json({**about, "trials": plain_trials(outcomes_of(study, sweep), sweep)})
    where = without_password(sweep.config.storage)
    raise ConfigError(f"{where} holds no study {sweep.name!r}. Omit --status to start it.")


def _reading(sweep: Sweep) -> AbstractContextManager[None]:
    """Turn what damaged records of a study raise into a refusal."""
    where = f"the study {sweep.name!r} in {without_password(sweep.config.storage)} cannot be read"
    return reading(where, "Restore a copy of the database, or give another name: --study NAME.")


def _open(sweep: Sweep, storage: RDBStorage) -> tuple[optuna.Study, str, TrackedRun | None]:
    """Open the study and its MLflow run, or create them. The run is None when another process owns it."""
    with StudyLock(storage, sweep.name).held():
        study = open_study(sweep, storage)
        with _reading(sweep):
            status_table(study, sweep)
        enqueue(study, sweep)
        warm_start(study, storage, sweep)
        if RUN not in study.user_attrs:
            parent: TrackedRun | None = _start(study, sweep)
        else:
            parent = _resume(study, sweep, force=has_lost_its_owner(study, sweep.config.heartbeat_seconds))
    return study, study.user_attrs[RUN], parent


def _start(study: optuna.Study, sweep: Sweep) -> TrackedRun:
    configuration = sweep.configuration({}).named(sweep.name)
    tags = {"lightrail.kind": "sweep", "lightrail.study": sweep.name}
    parent = start_run(configuration.tracking(), configuration.values, tags)
    study.set_user_attr(RUN, parent.run_id)
    log.info("run %s tracks the study %s", parent.run_id, sweep.name)
    return _owned(study, sweep, parent)


def _resume(study: optuna.Study, sweep: Sweep, *, force: bool) -> TrackedRun | None:
    run_id = study.user_attrs[RUN]
    try:
        parent = continue_run(run_id, sweep.configuration({}).tracking(), force=force, reopen=True)
    except ConfigError as error:
        log.info("joining the study %s: %s", sweep.name, error)
        return None
    log.info("resuming the study %s; run %s", sweep.name, run_id)
    return _owned(study, sweep, parent)


def _owned(study: optuna.Study, sweep: Sweep, parent: TrackedRun) -> TrackedRun:
    """Make this process the owner of the study's run, and store the definition there."""
    become_owner(study)
    (parent.directory / DEFINITION).write_text(sweep.dump(BASE), encoding="utf-8")
    parent.upload_soon(DEFINITION)
    return parent


def _take_over(study: optuna.Study, storage: RDBStorage, sweep: Sweep) -> TrackedRun | None:
    """Resume the study's run if its owner has left it or died, else return None."""
    with StudyLock(storage, sweep.name).held():
        is_concluded = study.user_attrs.get(CONCLUDED) == len(finished(study))
        if is_concluded or not has_lost_its_owner(study, sweep.config.heartbeat_seconds):
            return None
        return _resume(study, sweep, force=True)


MOST_BUILT = 16
"""Number of corners that are built, spread over all; of the others only the settings are checked."""


def dry_run(sweep: Sweep) -> None:
    """Check settings at the corners of the space and build some of them, so that no trial fails for its settings.

    Raises: ConfigError naming the setting, and the corner of the space where it was found.
    """
    corners = _configurations(sweep)
    step = -(-len(corners) // MOST_BUILT)
    chosen = [(_named(corner), configuration.values) for corner, configuration in corners[::step]]
    refusal = call_forked(build_corners, chosen, sweep.config.metrics)
    if refusal:
        raise ConfigError(refusal)
    log.info("%d corners of the space have valid settings, %d of them were built", len(corners), len(chosen))


def _configurations(sweep: Sweep) -> list[tuple[Settings, Configuration]]:
    found = []
    for corner in sweep.space.corners():
        try:
            found.append((corner, sweep.configuration(corner)))
        except ConfigError as error:
            raise ConfigError(f"space: {error} Found with {_named(corner)}.") from error
    return found


def build_corners(corners: list[tuple[str, dict[str, Any]]], metrics: list[str]) -> str:
    """Build each configuration; return the first problem, "" if there is none.

    Runs in a process of its own, which frees the memory of the networks when it ends.
    """
    from lightrail.project.running.build import build_any

    for name, values in corners:
        try:
            experiment = build_any(Configuration(values), "fit")
        except Refusal as refusal:
            return f"space: a trial with {name} cannot be built: {refusal}"
        for metric in metrics:
            if not experiment.can_log(metric):
                name, known = type(experiment.module).__name__, experiment.known_metrics()
                return f"metric: {name} does not log {metric}.{did_you_mean(metric, known)}"
    return ""


def _named(corner: Settings) -> str:
    return ", ".join(
        f"{name}={value if isinstance(value, int | float) else shown(value)}" for name, value in corner.items()
    )
