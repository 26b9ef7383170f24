"""Runs jobs in processes of their own, and shows how far they are."""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, get_context, parent_process
from typing import Any, TypeVar

from lightrail.datamodules.tokens.numbering import LanguageTokenizer
from lightrail.project.basics.errors import ConfigError

log = logging.getLogger(__name__)

Job = TypeVar("Job")
Result = TypeVar("Result")

SECONDS_BETWEEN_LINES = 15.0
_tokenizer: LanguageTokenizer | None = None
"""In a worker: made once, not for every job."""


def run_jobs(
    function: Callable[..., Result],
    jobs: Sequence[Job],
    tokenizer: LanguageTokenizer | None,
    *,
    num_processes: int | None,
    sizes: Sequence[int],
    title: str,
) -> Iterator[Result]:
    """Give each job's result, in the order in which they end.

    Args:
        function: of a job, and of the tokenizer where there is one; importable by its name.
        num_processes: at most; None: one for each core it may use. One runs here.
        sizes: how much there is to do in each job, for the display.
        title: what is done, as in "encoding".

    Raises: ConfigError when a process is killed; and what `function` raises.
    """
    from lightrail.project.basics.hardware import (
        usable_cores,  # here: PyTorch comes with it, and each worker imports this file
    )

    count = min(num_processes or usable_cores(), len(jobs))
    with _Progress(title, sum(sizes)) as progress:
        here = ((number, _call(function, job, tokenizer)) for number, job in enumerate(jobs))
        for number, result in here if count <= 1 else _in_processes(function, jobs, tokenizer, count):
            progress.advance(sizes[number])
            yield result


def _in_processes(
    function: Callable[..., Result], jobs: Sequence[Job], tokenizer: LanguageTokenizer | None, count: int
) -> Iterator[tuple[int, Result]]:
    facts = tokenizer.facts() if tokenizer else None
    # Spawned, not forked: this process may have threads, and holds what they need not.
    pool = ProcessPoolExecutor(count, get_context("spawn"), _start, (facts,))
    try:
        futures = {pool.submit(_call_here, function, job): number for number, job in enumerate(jobs)}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise ConfigError(
            "a process that encoded texts was killed, most likely for want of memory. Set data.encoding_processes to "
            "fewer; what is encoded is kept."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start(facts: dict[str, Any] | None) -> None:
    global _tokenizer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the parent ends us
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _tokenizer = LanguageTokenizer.from_facts(facts) if facts else None


def _end_with_parent() -> None:
    """A worker waits for jobs for ever when its parent is killed."""
    parent = parent_process()
    assert parent is not None, "runs in a process that was started by another"
    connection.wait([parent.sentinel])
    os._exit(1)


def _call_here(function: Callable[..., Result], job: Job) -> Result:
    return _call(function, job, _tokenizer)


def _call(function: Callable[..., Result], job: Job, tokenizer: LanguageTokenizer | None) -> Result:
    return function(job) if tokenizer is None else function(job, tokenizer)


class _Progress:
    """A bar on a terminal, a line now and then elsewhere; nothing for what is soon over."""

    def __init__(self, title: str, total: int) -> None:
        self.title, self.total = title, total
        self.done = 0
        self._started = self._last_shown = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> "_Progress":
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True, refresh_per_second=4)
            self._task = self._bar.add_task(self.title, total=self.total)
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self, size: int) -> None:
        self.done += size
        if self._bar:
            self._bar.update(self._task, completed=self.done)
            return
        now = time.monotonic()
        if now - self._last_shown >= SECONDS_BETWEEN_LINES:
            self._last_shown = now
            left = (now - self._started) * (self.total / self.done - 1)
            log.info("%s: %.0f of %.0f MB, %.0f s to go", self.title, self.done / 1e6, self.total / 1e6, left)
