"""Encodes a shard into a cache of its own. Runs in processes that import neither torch nor Lightning.

Shapes: T tokens of a document, start and end included.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightrail.datamodules.cache import CacheWriter, build_once
from lightrail.datamodules.cache.splitting import split_of, text_digest
from lightrail.datamodules.corpus.documents import Document, last_line_before, read_documents
from lightrail.datamodules.corpus.shards import CorpusReading, Shard
from lightrail.datamodules.reading import ReadingNotes
from lightrail.datamodules.tokens.learning import count_characters
from lightrail.datamodules.tokens.numbering import LanguageTokenizer

NOTES = "notes.json"
"""What was noticed in reading a shard, in its folder."""
_TOKENS_PER_FLUSH = 2**19
_NOTHING = np.zeros(1, np.uint8)
"""What the start and the end of a document spell."""


@dataclass(frozen=True, kw_only=True)
class Division:
    """How the documents of a source are divided; `SplitConfig` says what each means. Both 0: not at all."""

    split: str
    """Of the source; what the fractions leave of it."""
    seed: int
    validation_fraction: float
    test_fraction: float

    def of(self, key: str) -> str:
        """Give the split of a document."""
        if not self.validation_fraction and not self.test_fraction:
            return self.split
        return split_of(key, self.seed, self.validation_fraction, self.test_fraction)


@dataclass(frozen=True, kw_only=True)
class ShardJob:
    """All that a process must know to encode one shard."""

    shard: Shard
    reading: CorpusReading
    division: Division
    folder: Path


def encode_shard(job: ShardJob, tokenizer: LanguageTokenizer) -> None:
    """Make the cache `job.folder` unless it is there.

    The columns of a row are those of `encode_document`, and `line`, `text_digest` and `content`, the last two being 8
    bytes that stand for the text: whatever its white space, and exactly.
    """
    build_once(job.folder, lambda writer: _encode(job, tokenizer, writer))


def count_shard(job: ShardJob) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count the characters of a shard's training documents: code points, and how often each occurs."""
    counts = count_characters(
        document.text
        for document in read_documents(job.shard, job.reading, ReadingNotes())
        if job.division.of(document.key) == "train"
    )
    points = np.flatnonzero(counts)
    return points, counts[points]


def encode_document(tokenizer: LanguageTokenizer, text: str, *, is_counted: bool) -> dict[str, NDArray[Any]]:
    """Give `input_ids`, from start to end, [T]; and, counted, the `num_characters` and `num_bytes` each spells."""
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
    border: NDArray[Any] | None = None  # the token that a piece shares with the one before it
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
    """Begin with the token before a piece, which spells nothing here, and end with its own last one."""
    own = {name: values if document.is_end else values[:-1] for name, values in columns.items()}
    if not document.is_start and border is not None:
        own["input_ids"] = np.concatenate([border, own["input_ids"][1:]])
    return own


class _Held:
    """Rows of one split that wait to be written together."""

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
    """Give 64 bits as the number with a sign that they are, which is what a cache holds."""
    return digest - 2**64 if digest >= 2**63 else digest


def _content(text: str) -> int:
    plain = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(plain, digest_size=8).digest(), "little", signed=True)
