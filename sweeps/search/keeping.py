"""Which driver keeps a study's MLflow run: the one that began it or, when that one is gone, another."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import optuna
import sqlalchemy.exc
from optuna.exceptions import StorageInternalError

from lightrail.project.tracking.processes import PROCESS_TAG, owner_of, process_tag
from lightrail.sweeps.search.study import MISSED

log = logging.getLogger(__name__)

KEEPER = "keeper"
"""Attribute of a study: the process that keeps its run, and when it last said so, in seconds since 1970."""
NOBODY = ("", 0.0)


@contextmanager
def keeping(study: optuna.Study, heartbeat_seconds: float) -> Iterator[None]:
    """Say at every heartbeat that this process keeps the study's run, and at the end that nobody does."""
    is_over = threading.Event()

    def say() -> None:
        while not is_over.wait(heartbeat_seconds):
            become_keeper(study)

    thread = threading.Thread(target=say, name="keeper of the sweep", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        _say(study, *NOBODY)


def become_keeper(study: optuna.Study) -> None:
    """Say that this process keeps the study's run."""
    _say(study, process_tag()[PROCESS_TAG], time.time())


def has_lost_its_keeper(study: optuna.Study, heartbeat_seconds: float) -> bool:
    """Whether the process that kept the study's run has left it or died, or is not heard of from another machine."""
    if KEEPER not in study.user_attrs:
        return False
    tag, seen = study.user_attrs[KEEPER]
    keeper = owner_of(tag)
    if keeper is not None and keeper.is_here:
        return not keeper.lives
    return time.time() - float(seen) > MISSED * heartbeat_seconds


def _say(study: optuna.Study, tag: str, seen: float) -> None:
    try:
        study.set_user_attr(KEEPER, (tag, seen))
    except (StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:  # the next heartbeat may do better
        log.debug("the study was not told who keeps its run: %s", error)
