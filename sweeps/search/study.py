"""The Optuna study of a sweep: opened or gone on with, and how far it is.

A trial is finished when it is COMPLETE, PRUNED, or FAIL with a reason of its own. One that was interrupted is FAIL
without a reason: it does not count, and a copy of it waits in the study, with its parameters, its MLflow runs and what
it has reported, until a worker goes on with it.
"""

import logging
import time
import warnings
from collections.abc import Sequence

import optuna
import sqlalchemy.exc
import yaml
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from lightrail.project.basics.errors import ConfigError, without_password
from lightrail.project.basics.private_names import end_trial
from lightrail.project.basics.renamed import with_current_paths
from lightrail.project.tracking.processes import Owner, owner_of
from lightrail.sweeps.search.definition import Sweep
from lightrail.sweeps.trials.process import SECONDS_TO_STOP, end_group

log = logging.getLogger(__name__)

IDENTITY = "identity"
"""Attribute of a study: what may not change while it goes on."""
RUN = "run"
"""Attribute of a study: its MLflow run."""
DRIVER, PROCESS, RUNS, REPORTS, FAILURE = "driver", "process", "runs", "reports", "failure"
"""Attributes of a trial: the process that drives it, the one that trains it, its MLflow run by seed, its validations by
seed, and why it failed."""
HALVED, KILLS = "halved", "kills"
"""Attributes of a trial: that its batches are half as large as its settings say; how often its process was killed."""
WARM_START = "warm_start"
"""Attribute of a trial that the study was given and did not train: where it comes from. It does not count."""
MISSED = 3
"""Heartbeats after which what another machine does is taken for dead."""
_TRIES = 10
"""At opening a database: of two that find it without tables both make them, and one of them fails."""
_SECONDS_BETWEEN_TRIES = 0.5

with warnings.catch_warnings():
    warnings.simplefilter("ignore", ExperimentalWarning)
    requeue = RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)
"""Has a copy of a trial wait to be gone on with."""


def open_storage(sweep: Sweep) -> RDBStorage:
    """Raises: ConfigError when the database cannot be reached."""
    seconds = sweep.config.heartbeat_seconds
    address = sweep.config.storage
    warnings.filterwarnings("ignore", category=ExperimentalWarning)  # heartbeats are, for five years
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # what becomes of a trial is told by `progress`
    is_file = address.startswith("sqlite")
    arguments = {"connect_args": {"timeout": 60}} if is_file else {"pool_pre_ping": True}  # servers are begun anew
    for tries_left in reversed(range(_TRIES)):
        try:
            return RDBStorage(
                address, engine_kwargs=arguments, heartbeat_interval=seconds, grace_period=MISSED * seconds
            )
        except (sqlalchemy.exc.SQLAlchemyError, ImportError, RuntimeError) as error:
            if tries_left and (isinstance(error, sqlalchemy.exc.IntegrityError) or "already exists" in str(error)):
                time.sleep(_SECONDS_BETWEEN_TRIES)
                continue
            words = str(error).strip().partition("\n")[0]
            raise ConfigError(f"storage: {without_password(address)} cannot be opened: {words}") from error
    raise AssertionError("the last try returns or raises")


def open_study(sweep: Sweep, storage: RDBStorage) -> optuna.Study:
    """Create the study, or give the one that the storage holds under its name.

    Raises: ConfigError when that one searches over something else.
    """
    study = optuna.create_study(
        study_name=sweep.name, storage=storage, directions=list(sweep.config.directions), load_if_exists=True
    )
    before, now = study.user_attrs.get(IDENTITY), sweep.identity()
    if before is None:
        study.set_user_attr(IDENTITY, now)
    elif with_current_paths(yaml.safe_load(before)) != yaml.safe_load(now):
        raise ConfigError(
            f"the study {sweep.name!r} in {without_password(sweep.config.storage)} was begun with other settings "
            f"({_first_difference(before, now)}). Restore them, or give another name: --study NAME."
        )
    return study


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Give the trials that count towards the target, by number."""
    return [trial for trial in study.get_trials(deepcopy=False) if is_finished(trial)]


def running(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=[TrialState.RUNNING])


def num_taken(study: optuna.Study) -> int:
    """Count the trials that nobody has to begin: finished, in progress, or interrupted and not yet restored.

    Others end theirs without the turn, so all three are counted at one moment.
    """
    trials = study.get_trials(deepcopy=False)
    in_progress = sum(trial.state == TrialState.RUNNING for trial in trials)
    return sum(map(is_finished, trials)) + in_progress + len(_interrupted(trials))


def is_finished(trial: FrozenTrial) -> bool:
    if WARM_START in trial.user_attrs:
        return False
    if trial.state == TrialState.FAIL:
        return FAILURE in trial.user_attrs
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED)


def origin(trial: FrozenTrial) -> int:
    """Give the number under which a trial began; one that was interrupted goes on under another."""
    history = requeue.retry_history(trial)
    return history[0] if history else trial.number


def end_orphans(study: optuna.Study) -> None:
    """Wait for the trials' processes on this machine whose driver has died, and end those that do not stop."""
    for trial in running(study):
        process = owner_of(trial.user_attrs.get(PROCESS, ""))
        if _has_lost_its_driver(trial) and process is not None and process.lives:
            log.info("trial %d: %s has lost its driver, and is waited for", origin(trial), process)
            end_group(process, SECONDS_TO_STOP)


def restore_interrupted(study: optuna.Study) -> None:
    """Have every trial that was interrupted wait to be gone on with, once.

    Call it with the turn: whoever has it has said which its trial is before it ends, so that a trial of nobody is one
    whose driver died. Trials of other machines are found by their heartbeat.
    """
    for trial in running(study):
        if (DRIVER not in trial.user_attrs or _has_lost_its_driver(trial)) and not _lives(trial):
            _set_failed(study, trial)
    optuna.storages.fail_stale_trials(study)
    for trial in _interrupted(study.get_trials(deepcopy=False)):
        log.info("trial %d was interrupted, and will go on", origin(trial))
        requeue(study, trial)


def _interrupted(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Those that nobody went on with."""
    gone_on_with = {number for trial in trials for number in requeue.retry_history(trial)}
    failed = [trial for trial in trials if trial.state == TrialState.FAIL and not is_finished(trial)]
    return [trial for trial in failed if trial.number not in gone_on_with]


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


def _first_difference(before: str, now: str) -> str:
    pairs = zip(before.splitlines(), now.splitlines(), strict=False)
    was, is_now = next(((one, other) for one, other in pairs if one != other), ("less", "more"))
    return f"{was.strip()!r} was {is_now.strip()!r}"[:200]
