"""Entry points of forked processes; imports nothing heavy, since the driver imports this module too."""

import multiprocessing
import os
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

from lightrail.sweeps.trials.messages import Assignment


def lead(environment: Mapping[str, str], assignment: Assignment, connection: Connection, liveness: Connection) -> None:
    """Train a trial in a forked process, by `lightrail.sweeps.trials.trial.lead`.

    Args:
        environment: the driver's; that of the process which forked this one may be older.
    """
    begin_as_any_process(environment)
    import lightrail.sweeps.trials.trial  # in the process that forked this one it is imported already

    lightrail.sweeps.trials.trial.lead(assignment, connection, liveness)


def answer(
    environment: Mapping[str, str], connection: Connection, function: Callable[..., str], arguments: tuple[Any, ...]
) -> None:
    """Call a function in a forked process, and send its result."""
    begin_as_any_process(environment)
    connection.send(function(*arguments))


def begin_as_any_process(environment: Mapping[str, str]) -> None:
    """Replace a forked process's inherited environment and its method of starting processes by the usual ones."""
    os.environ.clear()
    os.environ.update(environment)
    # A process of multiprocessing's fork server would start its own by that server, which pickles the target: loader
    # workers of a task that cannot be pickled would fail. None is the platform's default.
    multiprocessing.set_start_method(None, force=True)
