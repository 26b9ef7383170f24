"""Leaves out syncs to disk in every process that imports it: they matter in a power cut alone, and take long.

What a killed process has written is there without them. `tests/project/test_durable.py` tests that they are asked for.
"""

import os
import sqlite3
from contextlib import suppress
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine


def _without_sync(fd: Any) -> None:
    """Stand in the place of `os.fsync`."""


os.fsync = _without_sync


@event.listens_for(Engine, "connect")
def _set_unsynced(connection: Any, _: Any) -> None:
    if isinstance(connection, sqlite3.Connection):
        with suppress(sqlite3.Error):  # of a damaged or locked database, which the test is about
            connection.execute("PRAGMA synchronous = OFF")
