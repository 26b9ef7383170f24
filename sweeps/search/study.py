"""The Optuna study of a sweep: opening, resuming, and counting its trials.

A trial is finished when it is COMPLETE, PRUNED, or FAIL with a reason of its own. One that was interrupted is FAIL
without a reason: it does not count, and a copy of it waits in the study, with its parameters, MLflow runs and reports,
until a worker resumes it.
"""

import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import optuna
import sqlalchemy.exc
import yaml
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from lightrail.project.basics.errors import ConfigError, first_line, shown, without_password
from lightrail.project.basics.private_names import end_trial
from lightrail.project.basics.reading import quoted_path, reading
from lightrail.project.basics.renamed import with_current_paths
from lightrail.project.configuration import completed
from lightrail.project.tracking.database import check_database, sqlite_address, sqlite_file
from lightrail.project.tracking.processes import Owner, owner_of
from lightrail.sweeps.search.definition import Sweep
from lightrail.sweeps.trials.process import SECONDS_TO_STOP, end_group

log = logging.getLogger(__name__)

IDENTITY = "identity"
"""Attribute of a study: the settings that may not change when it is resumed."""
RUN = "run"
"""Attribute of a study: its MLflow run."""
DRIVER, PROCESS, RUNS, REPORTS, FAILURE = "driver", "process", "runs", "reports", "failure"
"""Attributes of a trial: the process that drives it, the one that trains it, its MLflow run by seed, its validations by
seed, and why it failed."""
HALVED, KILLS = "halved", "kills"
"""Attributes of a trial: whether it trains with half the batch size of its settings; how often it was killed."""
WARM_START = "warm_start"
"""Attribute of a trial that was added for the sampler and not trained here: its source. It does not count."""
MISSED = 3
"""Number of missed heartbeats after which a process of another machine counts as dead."""
MOST_CHANGES = 3
"""Maximum number of changed settings in a message."""
TYPED = ("space.", "overrides.")
"""Settings of which 1, 1.0 and true are different values, as in a file."""
_MISSING = object()
_TRIES = 10
_SECONDS_BETWEEN_TRIES = 0.5

with warnings.catch_warnings():
    warnings.simplefilter("ignore", ExperimentalWarning)
    requeue = RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)
"""Adds a copy of a trial to the study, which waits to be resumed."""


def open_storage(sweep: Sweep) -> RDBStorage:
    """Open Optuna's database. Raises: ConfigError when it cannot be opened."""
    seconds = sweep.config.heartbeat_seconds
    address = sqlite_address(sweep.config.storage, "storage")
    file = sqlite_file(address)
    if file is not None and file.exists() and "experiments" in check_database(address, "storage"):
        raise ConfigError(f"storage: {quoted_path(file)} is a database of MLflow. Name another file.")
    warnings.filterwarnings("ignore", category=ExperimentalWarning)  # heartbeats have been experimental for five years
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # the ends of trials are logged by `Progress`
    is_waiting = file is not None and "?" not in address
    arguments = {"connect_args": {"timeout": 60}} if is_waiting else {"pool_pre_ping": True}  # a server may restart
    if "{SCHEMA_VERSION}" not in address:
        address = address.replace("{", "{{").replace("}", "}}")  # the only name that Optuna fills in
    for tries_left in reversed(range(_TRIES)):
        try:
            return RDBStorage(
                address, engine_kwargs=arguments, heartbeat_interval=seconds, grace_period=MISSED * seconds
            )
        except Exception as error:  # of SQLAlchemy, Alembic, Optuna, or the database's driver
            # two processes that find the database empty both create its tables, and one of them fails
            if tries_left and (isinstance(error, sqlalchemy.exc.IntegrityError) or "already exists" in str(error)):
                time.sleep(_SECONDS_BETWEEN_TRIES)
                continue
            where = f"storage: {without_password(sweep.config.storage)} cannot be opened"
            raise ConfigError(f"{where}: {first_line(error)}") from error
    raise AssertionError("the last try returns or raises")


def open_study(sweep: Sweep, storage: RDBStorage) -> optuna.Study:
    """Create the study, or load the one that the storage holds under its name.

    Raises: ConfigError when that one was created with other settings.
    """
    where = f"the study {sweep.name!r} in {without_password(sweep.config.storage)}"
    with reading(where, "Restore a copy of the database, or give another name: --study NAME."):
        study = optuna.create_study(
            study_name=sweep.name, storage=storage, directions=list(sweep.config.directions), load_if_exists=True
        )
        identity = study.user_attrs.get(IDENTITY)
        if identity is None and study.get_trials(deepcopy=False):
            raise ConfigError(f"{where} was not made by `lightrail sweep`. Give another name: --study NAME.")
        before = with_current_paths(yaml.safe_load(identity or ""))
    if identity is None:
        study.set_user_attr(IDENTITY, sweep.identity())
        return study
    now = yaml.safe_load(sweep.identity())
    if isinstance(before, dict) and isinstance(before.get("base"), dict):
        before["base"] = completed(before["base"], now["base"])
    changes = list(_changes(before, now))
    if changes:
        raise ConfigError(
            f"{where} was created with other settings: {'; '.join(changes[:MOST_CHANGES])}"
            f"{' ...' if len(changes) > MOST_CHANGES else ''}. Restore them, or give another name: --study NAME."
        )
    return study


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that count towards `n_trials`, by number."""
    return [trial for trial in study.get_trials(deepcopy=False) if is_finished(trial)]


def running(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials in progress, by number."""
    return study.get_trials(deepcopy=False, states=[TrialState.RUNNING])


def num_taken(study: optuna.Study) -> int:
    """Count the trials that need no new one: finished, in progress, or interrupted and not yet restored."""
    trials = study.get_trials(deepcopy=False)  # once for all three counts: others end trials without the lock
    in_progress = sum(trial.state == TrialState.RUNNING for trial in trials)
    return sum(map(is_finished, trials)) + in_progress + len(_interrupted(trials))


def is_finished(trial: FrozenTrial) -> bool:
    """Whether a trial counts towards `n_trials`: complete, pruned, or failed for a reason of its own."""
    if WARM_START in trial.user_attrs:
        return False
    if trial.state == TrialState.FAIL:
        return FAILURE in trial.user_attrs
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED)


def origin(trial: FrozenTrial) -> int:
    """Return the number under which a trial first started; an interrupted one is resumed under another."""
    history = requeue.retry_history(trial)
    return history[0] if history else trial.number


def end_orphans(study: optuna.Study) -> None:
    """Wait for the trials' processes on this machine whose driver has died, and end those that do not stop."""
    for trial in running(study):
        process = owner_of(trial.user_attrs.get(PROCESS, ""))
        if _has_lost_its_driver(trial) and process is not None and process.lives:
            log.info("trial %d: waiting for %s, whose driver has died", origin(trial), process)
            end_group(process, SECONDS_TO_STOP)


def restore_interrupted(study: optuna.Study) -> None:
    """Add a waiting copy of every interrupted trial, once. Call it with the study's lock held.

    Trials of other machines are found by their heartbeat.
    """
    # A driver records itself in its trial before it releases the lock: a trial without one has lost its driver
    for trial in running(study):
        if (DRIVER not in trial.user_attrs or _has_lost_its_driver(trial)) and not _lives(trial):
            _set_failed(study, trial)
    optuna.storages.fail_stale_trials(study)
    for trial in _interrupted(study.get_trials(deepcopy=False)):
        log.info("trial %d was interrupted and will be resumed", origin(trial))
        requeue(study, trial)


def _interrupted(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The interrupted trials of which there is no copy to resume."""
    resumed = {number for trial in trials for number in requeue.retry_history(trial)}
    failed = [trial for trial in trials if trial.state == TrialState.FAIL and not is_finished(trial)]
    return [trial for trial in failed if trial.number not in resumed]


def _set_failed(study: optuna.Study, trial: FrozenTrial) -> None:
    try:
        end_trial(study, trial, TrialState.FAIL)
    except UpdateFinishedTrialError:
        log.debug("trial %d has ended meanwhile", trial.number)


def _has_lost_its_driver(trial: FrozenTrial) -> bool:
    driver = owner_of(trial.user_attrs.get(DRIVER, ""))
    return driver is not None and driver.is_here and not driver.lives


def _lives(trial: FrozenTrial) -> bool:
    process: Owner | None = owner_of(trial.user_attrs.get(PROCESS, ""))
    return process is not None and process.lives


def _changes(before: Any, now: Any, name: str = "") -> Iterator[str]:
    """Describe each setting that differs, by its dotted name."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in before | now:
            inner = f"{name}.{key}".lstrip(".").replace(".init_args", "")
            yield from _changes(before.get(key, _MISSING), now.get(key, _MISSING), inner)
    elif before != now or (name.startswith(TYPED) and repr(before) != repr(now)):
        had, has = ("no value" if own is _MISSING else shown(own) for own in (before, now))
        yield f"{name} had {had} and has {has} now"
