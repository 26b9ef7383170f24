"""Encoding of a shard into a cache of its own, in processes that import neither torch nor Lightning.

Shapes: T tokens of a document, start and end included.
"""

import hashlib
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from lightrail.datamodules.cache import CacheWriter, build_once
from lightrail.datamodules.cache.building import split_of, text_digest
from lightrail.datamodules.corpus.shards import CorpusReading, Document, Shard, last_line_before, read_documents
from lightrail.datamodules.reading import ReadingNotes
from lightrail.project.basics.errors import ConfigError
from lightrail.project.basics.tokens.learning import count_characters
from lightrail.project.basics.tokens.numbering import LanguageTokenizer

NOTES = "notes.json"
"""File of the reading notes of a shard, in its folder."""
_TOKENS_PER_FLUSH = 2**19
_NOTHING = np.zeros(1, np.uint8)
"""Number of characters and bytes that the start and the end of a document cover."""


@dataclass(frozen=True, kw_only=True)
class Division:
    """Division of the documents of a source, as in `SplitConfig`. Both fractions 0: not divided."""

    split: str
    """Split of the source, which gets the documents that the fractions leave."""
    seed: int
    validation_fraction: float
    test_fraction: float

    def of(self, key: str) -> str:
        """Return the split of a document."""
        if not self.validation_fraction and not self.test_fraction:
            return self.split
        return split_of(key, self.seed, self.validation_fraction, self.test_fraction)


@dataclass(frozen=True, kw_only=True)
class ShardJob:
    """Everything that a process needs to encode one shard."""

    shard: Shard
    reading: CorpusReading
    division: Division
    folder: Path


def encode_shard(job: ShardJob, tokenizer: LanguageTokenizer) -> None:
    """Build the cache `job.folder` unless it exists.

    The columns of a row are those of `encode_document`, and `line`, `text_digest` and `content`; the last two are
    8-byte digests of the text, without regard to white space and exact.
    """
    build_once(job.folder, lambda writer: _encode(job, tokenizer, writer))


def count_shard(job: ShardJob) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count the characters of a shard's training documents; return code points and their counts."""
    counts = count_characters(
        document.text
        for document in read_documents(job.shard, job.reading, ReadingNotes())
        if job.division.of(document.key) == "train"
    )
    points = np.flatnonzero(counts)
    return points, counts[points]


def encode_document(tokenizer: LanguageTokenizer, text: str, *, is_counted: bool) -> dict[str, NDArray[Any]]:
    """Encode a document as `input_ids`, [T]; if counted, with the `num_characters` and `num_bytes` of each token."""
    start, end = np.array([tokenizer.start_id]), np.array([tokenizer.end_id])
    if not is_counted:
        return {"input_ids": np.concatenate([start, tokenizer.encode(text), end])}
    ids, num_characters, num_bytes = tokenizer.encode_counted(text)
    return {
        "input_ids": np.concatenate([start, ids, end]),
        "num_characters": np.concatenate([_NOTHING, num_characters, _NOTHING]),
        "num_bytes": np.concatenate([_NOTHING, num_bytes, _NOTHING]),
    }


def _encode(job: ShardJob, tokenizer: LanguageTokenizer, writer: CacheWriter) -> None:
    notes = ReadingNotes()
    held: dict[str, _Held] = {}
    border: NDArray[Any] | None = None  # the token that a piece shares with the piece before it
    for document in read_documents(job.shard, job.reading, notes):
        split = job.division.of(document.key)
        columns = encode_document(tokenizer, document.text, is_counted=split != "train")
        if not (document.is_start and document.is_end):
            if border is None and not document.is_start:
                border = tokenizer.encode(last_line_before(job.shard))[-1:]
            columns = _piece(columns, document, border)
            border = columns["input_ids"][-1:]
        own = held.setdefault(split, _Held())
        own.add(document, columns)
        if own.num_tokens >= _TOKENS_PER_FLUSH:
            own.write(writer, split)
    for split, own in held.items():
        own.write(writer, split)
    (writer.folder / NOTES).write_text(json.dumps(asdict(notes)), encoding="utf-8")


def _piece(
    columns: Mapping[str, NDArray[Any]], document: Document, border: NDArray[Any] | None
) -> dict[str, NDArray[Any]]:
    """Start a piece with the token before it, which covers no text here, and end it with its own last token."""
    own = {name: values if document.is_end else values[:-1] for name, values in columns.items()}
    if not document.is_start and border is not None:
        own["input_ids"] = np.concatenate([border, own["input_ids"][1:]])
    return own


class _Held:
    """Buffered rows of one split, to be written together."""

    def __init__(self) -> None:
        self.num_tokens = 0
        self._columns: dict[str, list[NDArray[Any]]] = {}
        self._integers: dict[str, list[int]] = {"line": [], "text_digest": [], "content": []}

    def add(self, document: Document, columns: Mapping[str, NDArray[Any]]) -> None:
        for name, values in columns.items():
            self._columns.setdefault(name, []).append(values)
        self._integers["line"].append(document.line)
        self._integers["text_digest"].append(signed(text_digest(document.text)))
        self._integers["content"].append(_content(document.text))
        self.num_tokens += len(columns["input_ids"])

    def write(self, writer: CacheWriter, split: str) -> None:
        if not self._columns:
            return
        lengths = np.array([len(values) for values in self._columns["input_ids"]])
        rows = {name: (np.concatenate(values), lengths) for name, values in self._columns.items()}
        writer.extend(split, {**rows, **{name: (np.array(own), None) for name, own in self._integers.items()}})
        self.num_tokens, self._columns = 0, {}
        self._integers = {name: [] for name in self._integers}


def signed(digest: int) -> int:
    """Reinterpret an unsigned 64-bit integer as a signed one, as caches store them."""
    return digest - 2**64 if digest >= 2**63 else digest


def _content(text: str) -> int:
    plain = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(plain, digest_size=8).digest(), "little", signed=True)


log = logging.getLogger(__name__)

Job = TypeVar("Job")
Result = TypeVar("Result")

SECONDS_BETWEEN_LINES = 15.0
_tokenizer: LanguageTokenizer | None = None
"""The tokenizer of a worker process: made once, not for every job."""


def run_jobs(
    function: Callable[..., Result],
    jobs: Sequence[Job],
    tokenizer: LanguageTokenizer | None,
    *,
    num_processes: int | None,
    sizes: Sequence[int],
    title: str,
) -> Iterator[Result]:
    """Run jobs in processes; yield each job's result as it ends.

    Args:
        function: function of a job, and of the tokenizer if there is one; importable by its name.
        num_processes: maximum number; None: one for each usable core. A single one is this process.
        sizes: amount of work of each job, for the display.
        title: title of the display, such as "encoding".

    Raises: ConfigError when a process is killed; and any exception of `function`.
    """
    from lightrail.project.basics.hardware import (
        usable_cores,  # here: it imports PyTorch, and each worker imports this file
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
    # Spawned, not forked: this process may have threads, and memory that workers do not need.
    pool = ProcessPoolExecutor(count, get_context("spawn"), _start, (facts,))
    try:
        futures = {pool.submit(_call_here, function, job): number for number, job in enumerate(jobs)}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise ConfigError(
            "a process that encoded texts was killed, most likely for lack of memory. Reduce "
            "data.encoding_processes; encoded shards are kept."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start(facts: dict[str, Any] | None) -> None:
    global _tokenizer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the parent ends this worker
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _tokenizer = LanguageTokenizer.from_facts(facts) if facts else None


def _end_with_parent() -> None:
    """End this worker when its parent is killed: it would wait for jobs forever."""
    parent = parent_process()
    assert parent is not None, "runs in a process that was started by another"
    connection.wait([parent.sentinel])
    os._exit(1)


def _call_here(function: Callable[..., Result], job: Job) -> Result:
    return _call(function, job, _tokenizer)


def _call(function: Callable[..., Result], job: Job, tokenizer: LanguageTokenizer | None) -> Result:
    return function(job) if tokenizer is None else function(job, tokenizer)


class _Progress:
    """A progress bar on a terminal; elsewhere a line in the log every 15 seconds."""

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
