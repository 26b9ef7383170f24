"""What every call from Python shares: bad input is a `ConfigError`, and the process is left as it was."""

import logging
import os
import random
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch

from lightrail.project.basics.errors import ConfigError, Refusal, foreseen
from lightrail.project.basics.logs import LIGHTNING_LOGGERS, ignore_known_warnings, lines_shown
from lightrail.project.tracking.processes import ENDING

_ONE_AT_A_TIME = threading.RLock()
"""Random numbers and threads are those of the process: two trainings at a time would draw each other's."""


@contextmanager
def refusing() -> Iterator[None]:
    """Raise ConfigError for whatever a command refuses with status 2, and KeyboardInterrupt for an interrupt.

    Raises: ConfigError, DataError, KeyboardInterrupt, and whatever else was raised.
    """
    try:
        yield
    except SystemExit as error:  # which Lightning makes of an interrupt
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        raise
    except Refusal:
        raise
    except Exception as error:
        found = foreseen(error)
        if found is None or found.status != 2:
            raise
        raise ConfigError(found.message) from error


@contextmanager
def calling(*, shows_lines: bool = True) -> Iterator[None]:
    """Train or predict within the block: one call of the process at a time, which restores what it changes.

    Restored are environment variables, random states, PyTorch's threads, signal handlers, warning filters and
    Lightning's log handlers.

    Args:
        shows_lines: show log lines, unless the program has set up logging.
    """
    with _ONE_AT_A_TIME, refusing(), ExitStack() as after, warnings.catch_warnings():
        if shows_lines:
            after.enter_context(lines_shown())
        ignore_known_warnings()
        after.callback(_restore_environment, dict(os.environ))
        after.callback(torch.set_num_threads, torch.get_num_threads())
        after.callback(random.setstate, random.getstate())
        after.callback(np.random.set_state, np.random.get_state())
        after.callback(torch.set_rng_state, torch.get_rng_state())
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            after.callback(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all())
        for own in map(logging.getLogger, LIGHTNING_LOGGERS):
            after.callback(setattr, own, "handlers", list(own.handlers))
        if threading.current_thread() is threading.main_thread():
            for number in ENDING:
                if (handler := signal.getsignal(number)) is not None:  # None: not installed from Python
                    after.callback(signal.signal, number, handler)
        yield


def _restore_environment(before: dict[str, str]) -> None:
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)
