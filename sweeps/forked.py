"""What a forked process begins with; imports nothing heavy, since the driver has to name it."""

import os
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

from sweeps.messages import Assignment


def lead(environment: Mapping[str, str], assignment: Assignment, connection: Connection, lifeline: Connection) -> None:
    """Train a trial, as `sweeps.trial.lead`.

    Args:
        environment: the driver's; that of the process which forked this one may be older.
    """
    os.environ.clear()
    os.environ.update(environment)
    import sweeps.trial  # in the process that forked this one it is imported already

    sweeps.trial.lead(assignment, connection, lifeline)


def answer(
    environment: Mapping[str, str], connection: Connection, function: Callable[..., str], arguments: tuple[Any, ...]
) -> None:
    """Send what a function returns."""
    os.environ.clear()
    os.environ.update(environment)
    connection.send(function(*arguments))
