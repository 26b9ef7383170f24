"""How a run ended, told from what ended it; and SIGTERM as an exception, in step with Lightning."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightrail.project.tracking.sender import first_line


class GivenUp(Exception):  # noqa: N818 - it ended as somebody wanted
    """Training was ended because it is not worth going on with.

    Args:
        step: optimizer step at which it was.
    """

    def __init__(self, step: int) -> None:
        super().__init__(f"given up at step {step}")
        self.step = step


class Terminated(SystemExit):
    """SIGTERM was received. Exit status 143, as a shell reports a process that the signal ended."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


def verdict(error: BaseException) -> tuple[str, str | None, BaseException]:
    """Return the MLflow status for a run that `error` ended, the text of its error tag, and what to raise.

    Lightning turns Ctrl-C into SystemExit(1) and SIGTERM into a SystemExit without a status: callers get back what
    happened.
    """
    if isinstance(error, SIGTERMException | Terminated):
        return "KILLED", None, Terminated()
    if isinstance(error, KeyboardInterrupt | GivenUp):
        return "KILLED", None, error
    if isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt):
        return "KILLED", None, KeyboardInterrupt()
    return "FAILED", f"{type(error).__name__}: {first_line(error)}", error


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """Have SIGTERM raise Terminated.

    Inside fit, test and the like Lightning puts its own handler in front of ours, notes the signal and raises at the
    end of the batch, on all processes at once; ours then keeps still.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_signal: int, _frame: FrameType | None) -> None:
        if signal.getsignal(signal.SIGTERM) is stop:
            raise Terminated

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def sigterm_waits() -> Iterator[None]:
    """Ignore SIGTERM while the end of a run is written, which takes a bounded time."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
