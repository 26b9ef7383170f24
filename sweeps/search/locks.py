"""A lock among the workers of a study on all machines, and the heartbeat of the process that owns the study's run."""

import fcntl
import hashlib
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import optuna
import sqlalchemy
import sqlalchemy.exc
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage

from lightrail.project.basics.errors import ConfigError
from lightrail.project.tracking.processes import PROCESS_TAG, owner_of, process_tag
from lightrail.sweeps.search.study import MISSED

LOCKS = {
    "postgresql": ("SELECT pg_advisory_lock({})", "SELECT pg_advisory_unlock({})"),
    "mysql": ("SELECT GET_LOCK('{}', -1)", "SELECT RELEASE_LOCK('{}')"),
}
"""Statements that acquire and release a lock which ends with the connection, by type of database."""


log = logging.getLogger(__name__)

OWNER = "keeper"
"""Attribute of a study: the process that owns its run, and the time of its last heartbeat, in seconds since 1970."""
NOBODY = ("", 0.0)


class StudyLock:
    """A lock that the workers of a study share; the kernel or the database frees it when its holder dies.

    Args:
        name: of the study.

    Raises: ConfigError when the database knows no such locks.
    """

    def __init__(self, storage: RDBStorage, name: str) -> None:
        self.engine = storage.engine
        kind = self.engine.dialect.name
        if kind not in (*LOCKS, "sqlite"):
            raise ConfigError(f"storage: {kind} is not supported. Choose sqlite, postgresql or mysql.")
        key = hashlib.sha256(f"{self._place()} {name}".encode()).digest()
        self._number = int.from_bytes(key[:7], "big")
        self._within_process = threading.Lock()

    @contextmanager
    def held(self) -> Iterator[Callable[[], None]]:
        """Wait for the lock and hold it in a block; the target releases it before the end of the block."""
        with ExitStack() as held:
            self._within_process.acquire()
            held.callback(self._within_process.release)  # also if the database is lost while the lock is held
            held.callback(self._take())
            yield held.close

    def _take(self) -> Callable[[], None]:
        kind = self.engine.dialect.name
        if kind == "sqlite":
            return self._take_file()
        take, free = (sqlalchemy.text(command.format(self._number)) for command in LOCKS[kind])
        connection = self.engine.connect()
        connection.execute(take)

        def end() -> None:
            connection.execute(free)
            connection.close()

        return end

    def _take_file(self) -> Callable[[], None]:
        file = Path(tempfile.gettempdir()) / f"lightrail-sweep-{os.getuid()}-{self._number}.lock"
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return lambda: os.close(descriptor)

    def _place(self) -> str:
        """The path of an SQLite database, the same for every worker; "" for a server, which has locks of its own."""
        file = self.engine.url.database or ""
        return str(Path(file).absolute()) if self.engine.dialect.name == "sqlite" else ""


@contextmanager
def heartbeat(study: optuna.Study, heartbeat_seconds: float) -> Iterator[None]:
    """Record at every heartbeat that this process owns the study's run, and at the end that nobody does."""
    is_over = threading.Event()

    def beat() -> None:
        while not is_over.wait(heartbeat_seconds):
            become_owner(study)

    thread = threading.Thread(target=beat, name="heartbeat of the sweep", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        _record(study, *NOBODY)


def become_owner(study: optuna.Study) -> None:
    """Record this process as the owner of the study's run."""
    _record(study, process_tag()[PROCESS_TAG], time.time())


def has_lost_its_owner(study: optuna.Study, heartbeat_seconds: float) -> bool:
    """Whether the owner of the study's run has left it or died, or its heartbeats from another machine are missing."""
    if OWNER not in study.user_attrs:
        return False
    tag, seen = study.user_attrs[OWNER]
    owner = owner_of(tag)
    if owner is not None and owner.is_here:
        return not owner.lives
    return time.time() - float(seen) > MISSED * heartbeat_seconds


def _record(study: optuna.Study, tag: str, seen: float) -> None:
    try:
        study.set_user_attr(OWNER, (tag, seen))
    except (StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:  # the next heartbeat may succeed
        log.debug("the heartbeat of the study's run was not stored: %s", error)
