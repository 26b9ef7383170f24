"""One at a time, among all workers of a study on all machines: who sees that a trial is wanted begins it at once."""

import fcntl
import hashlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import sqlalchemy
from optuna.storages import RDBStorage

from lightrail.project.basics.errors import ConfigError

LOCKS = {
    "postgresql": ("SELECT pg_advisory_lock({})", "SELECT pg_advisory_unlock({})"),
    "mysql": ("SELECT GET_LOCK('{}', -1)", "SELECT RELEASE_LOCK('{}')"),
}
"""What takes and frees a lock that ends with the connection, by the kind of database."""


class Turn:
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
    def taken(self) -> Iterator[Callable[[], None]]:
        """Wait for the turn; give what ends it before the block does."""
        with ExitStack() as held:
            self._within_process.acquire()
            held.callback(self._within_process.release)  # also when the database went away meanwhile
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
        """The database, as every worker names it; a server's has locks of its own."""
        file = self.engine.url.database or ""
        return str(Path(file).absolute()) if self.engine.dialect.name == "sqlite" else ""
