"""Signals that end a run: Ctrl-C, SIGTERM, and SIGHUP of a terminal that is closed."""

import os
import signal
import stat
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Terminated(SystemExit):
    """SIGTERM or SIGHUP was received. Exit status 143 or 129, as shells report for a process ended by it."""

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__(128 + number)


def exception_for(number: int) -> BaseException:
    """Return the exception to raise for a signal: KeyboardInterrupt for SIGINT, else Terminated."""
    if number == signal.SIGINT:
        return KeyboardInterrupt()
    return Terminated(signal.SIGHUP) if number == signal.SIGHUP else Terminated()


def not_ignored(numbers: Iterable[int]) -> list[int]:
    """Return the signals without SIGHUP where this process was started to ignore it, by `nohup`."""
    return [own for own in numbers if own != signal.SIGHUP or signal.getsignal(own) is not signal.SIG_IGN]


def leave_terminal() -> None:
    """Have this process write nowhere instead of to a closed terminal, where each line would raise an error."""
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for descriptor in (1, 2):
            if stat.S_ISCHR(os.fstat(descriptor).st_mode):
                os.dup2(nowhere, descriptor)
        os.close(nowhere)


@contextmanager
def handling(numbers: Iterable[int], handler: Any) -> Iterator[None]:
    """Install a handler for signals within the block; does nothing outside of the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, handler) for number in not_ignored(numbers)}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, signal.SIG_DFL if before is None else before)  # None: not installed from Python


class SignalNote:
    """Notes a signal and raises its exception, which C code (of matplotlib, for one) may swallow: the note stays."""

    def __init__(self) -> None:
        self.number = 0
        """Number of the first signal, 0 for none."""
        self._process = os.getpid()

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """Raise, unless another handler is installed over this one."""
        if number == signal.SIGHUP:
            if os.getpid() != self._process:
                return  # a data loader's worker, which ends with this process: its batches are needed for the step
            leave_terminal()
        self.number = self.number or number
        # Inside fit, test etc. Lightning installs its own handler in front of this one, which raises at the end of the
        # batch on all processes at once.
        if signal.getsignal(number) == self.handle:
            raise exception_for(number)

    def raise_again(self) -> None:
        """Raise the exception of a signal whose first one was swallowed."""
        if self.number:
            raise exception_for(self.number)
