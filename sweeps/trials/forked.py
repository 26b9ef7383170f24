"""What a forked process begins with; imports nothing heavy, since the driver has to name it."""

import multiprocessing
import os
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

from lightrail.sweeps.trials.messages import Assignment


def lead(environment: Mapping[str, str], assignment: Assignment, connection: Connection, lifeline: Connection) -> None:
    """Train a trial, as `lightrail.sweeps.trials.trial.lead`.

    Args:
        environment: the driver's; that of the process which forked this one may be older.
    """
    begin_as_any_process(environment)
    import lightrail.sweeps.trials.trial  # in the process that forked this one it is imported already

    lightrail.sweeps.trials.trial.lead(assignment, connection, lifeline)


def answer(
    environment: Mapping[str, str], connection: Connection, function: Callable[..., str], arguments: tuple[Any, ...]
) -> None:
    """Send what a function returns."""
    begin_as_any_process(environment)
    connection.send(function(*arguments))


def begin_as_any_process(environment: Mapping[str, str]) -> None:
    """Undo what a process has from the way it was started: another one's environment, and how it starts its own.

    multiprocessing has a process that was forked by its server start others in that way too, which loader workers,
    whose task cannot be pickled, do not survive.
    """
    os.environ.clear()
    os.environ.update(environment)
    multiprocessing.set_start_method(None, force=True)  # None: the platform's
