"""Building a corpus's cache from its sources: dividing, learning a vocabulary, encoding in parallel, joining.

Shapes: N documents of a shard.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from lightrail.datamodules.cache import CacheWriter, TokenisedSplit
from lightrail.datamodules.cache.building import text_digest
from lightrail.datamodules.cache.splits import split_names, writing_to
from lightrail.datamodules.corpus.encoding import NOTES, Division, ShardJob, count_shard, encode_shard, run_jobs
from lightrail.datamodules.corpus.files import source_files
from lightrail.datamodules.corpus.shards import CorpusReading, read_documents, shards_of
from lightrail.datamodules.reading import ReadingNotes, Row
from lightrail.project.basics.errors import DataError
from lightrail.project.basics.tokens.numbering import NUM_CHARACTERS, LanguageTokenizer

Result = TypeVar("Result")

SAMPLE_CHARACTERS = 2**25
"""Maximum number of characters that subwords are learned from, taken evenly from all shards."""
_CHARACTERS_PER_TEXT = 2**14
"""Length of the pieces of text that are passed to the library that learns subwords."""


class Encoded(NamedTuple):
    """A shard whose cache is built."""

    folder: Path
    split: str
    """Split of its source."""
    file: int
    """Index of its file."""
    source: int
    """Index of its source among those of the same split."""


class Joined(NamedTuple):
    """Counts and digests of the splits of a corpus."""

    counts: dict[str, int]
    digests: dict[str, str]
    """Digest of the content and the order of all texts, independent of the tokenizer."""
    num_repeats: int
    """Number of documents that were dropped because they repeat another one."""


def join_shards(
    shards: Sequence[Encoded], names: Sequence[str], writer: CacheWriter, *, drop_repeats: bool, has_sources: bool
) -> Joined:
    """Write the rows of all shards into one cache, those of a split in the order of the shards.

    Args:
        names: splits; repeats are dropped from the earlier ones, so that the last keeps all its texts.
        has_sources: write the index of its source into each training row.
    """
    kept = _first_ones(shards, names) if drop_repeats else {}
    joined = Joined(dict.fromkeys(names, 0), {}, sum(int((~own).sum()) for own in kept.values()))
    for name in names:
        content = hashlib.blake2b(digest_size=16)
        for number, shard in enumerate(shards):
            if name in split_names(shard.folder):
                rows = TokenisedSplit(shard.folder, name)
                columns = _columns(rows, kept.get((name, number)))
                exact, _ = columns.pop("content")
                content.update(exact.astype("<i8").tobytes())
                joined.counts[name] += len(exact)
                if len(exact):
                    columns["file"] = np.full(len(exact), shard.file), None
                    if has_sources and name == "train":
                        columns["source"] = np.full(len(exact), shard.source), None
                    writer.extend(name, columns)
        joined.digests[name] = content.hexdigest()
    return joined


def add_notes(shards: Sequence[Encoded], totals: Mapping[str, ReadingNotes]) -> None:
    """Add the reading notes of the shards to the totals of their splits."""
    for shard in shards:
        own = json.loads((shard.folder / NOTES).read_text(encoding="utf-8"))
        total = totals[shard.split]
        total.num_rows += own["num_rows"]
        total.num_empty_skipped += own["num_empty_skipped"]
        total.first_empty_line = total.first_empty_line or own["first_empty_line"]


def _columns(rows: TokenisedSplit, kept: NDArray[np.bool_] | None) -> dict[str, tuple[Any, Any]]:
    columns: dict[str, tuple[Any, Any]] = {}
    for name in rows.columns:
        values = rows.values(name)
        lengths = rows.lengths(name) if name in ("input_ids", "num_characters", "num_bytes") else None
        if kept is not None and not kept.all():
            values = values[kept if lengths is None else np.repeat(kept, lengths)]
            lengths = None if lengths is None else lengths[kept]
        columns[name] = values, lengths
    return columns


def _first_ones(shards: Sequence[Encoded], names: Sequence[str]) -> dict[tuple[str, int], NDArray[np.bool_]]:
    """Mark the first occurrence of each text, by split and index of the shard, the last split first.

    Takes about 30 bytes of memory for each document.
    """
    places = [
        (name, number)
        for name in reversed(names)
        for number, shard in enumerate(shards)
        if name in split_names(shard.folder)
    ]
    digests = [
        TokenisedSplit(shards[number].folder, name).values("text_digest").astype("<i8") for name, number in places
    ]
    all_digests = np.concatenate([np.empty(0, np.int64), *digests])
    is_first = np.zeros(len(all_digests), np.bool_)
    is_first[np.unique(all_digests, return_index=True)[1]] = True
    bounds = np.cumsum([len(own) for own in digests])
    return dict(zip(places, np.split(is_first, bounds[:-1]), strict=True))


@dataclass(frozen=True, kw_only=True)
class CorpusPlan:
    """Sources of a corpus, and settings of its building."""

    sources: Mapping[str, Sequence[str]]
    """Sources of each split, the training split first; empty for a split that is taken from the training split."""
    reading: CorpusReading
    divisions: Mapping[str, Division]
    """Division of the documents of each split's sources."""
    drop_repeats: bool
    num_processes: int | None
    """Maximum number of processes; None: one for each core."""


@dataclass(frozen=True)
class _Planned:
    """A shard to encode, with its split and indices for joining."""

    job: ShardJob
    split: str
    file: int
    source: int


class CorpusBuilder:
    """Builds the cache of a corpus in steps; encoded shards are kept in a neighbouring folder for a later start.

    Args:
        writer: writer of the cache, in an unfinished folder.
    """

    def __init__(self, plan: CorpusPlan, writer: CacheWriter) -> None:
        self.plan, self.writer = plan, writer
        self.files: list[str] = []
        self.notes = {name: ReadingNotes() for name in plan.sources}
        self.folder = writer.folder.with_suffix(".shards")

    def __enter__(self) -> "CorpusBuilder":
        with writing_to(self.folder):
            self.folder.mkdir(exist_ok=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Delete the shards after joining, or after a DataError: corrected texts need other shards."""
        if kind is None or issubclass(kind, DataError):
            shutil.rmtree(self.folder)

    def count_characters(self) -> NDArray[np.int64]:
        """Count the characters of the training split, by code point."""
        counts = np.zeros(NUM_CHARACTERS, np.int64)
        jobs = [planned.job for planned in self._planned if planned.split == "train"]
        for points, own in self._run(count_shard, jobs, None, "counting characters"):
            counts[points] += own
        return counts

    def sample(self) -> Iterator[Row]:
        """Yield texts of the training split, all or a part of every shard, in pieces of bounded length."""
        jobs = [planned.job for planned in self._planned if planned.split == "train"]
        for job in jobs:
            left = SAMPLE_CHARACTERS // len(jobs)
            for document in read_documents(job.shard, job.reading, ReadingNotes()):
                if left <= 0:
                    break
                if job.division.of(document.key) == "train":
                    text = document.text[:left]
                    left -= len(text)
                    for start in range(0, len(text), _CHARACTERS_PER_TEXT):
                        piece = text[start : start + _CHARACTERS_PER_TEXT]
                        yield Row({"text": piece}, job.shard.file, document.line)

    def inputs(self, most: int) -> dict[int, str]:
        """Return the beginnings of the first distinct documents of the training sources, by digest: `most` and one."""
        found: dict[int, str] = {}
        for job in (planned.job for planned in self._planned if planned.split == "train"):
            for document in read_documents(job.shard, job.reading, ReadingNotes()):
                found.setdefault(text_digest(document.key), document.text[:100])
                if len(found) > most:
                    return found
        return found

    def encode(self, tokenizer: LanguageTokenizer) -> Joined:
        """Encode the shards that are not encoded yet, and write all of them into the cache."""
        folder = self.folder / tokenizer.digest
        with writing_to(self.folder):
            folder.mkdir(exist_ok=True)
        jobs = [replace(planned.job, folder=folder / f"{number:06d}") for number, planned in enumerate(self._planned)]
        for _ in self._run(encode_shard, jobs, tokenizer, "encoding"):
            pass  # the result is in the shard's folder
        encoded = [
            Encoded(job.folder, planned.split, planned.file, planned.source)
            for job, planned in zip(jobs, self._planned, strict=True)
        ]
        joined = join_shards(
            encoded,
            list(self.plan.sources),
            self.writer,
            drop_repeats=self.plan.drop_repeats,
            has_sources=len(self.plan.sources["train"]) > 1,
        )
        add_notes(encoded, self.notes)
        return joined

    @cached_property
    def _planned(self) -> list[_Planned]:
        with writing_to(self.folder):
            return list(self._divided())

    def _divided(self) -> Iterator[_Planned]:
        for split, sources in self.plan.sources.items():
            for number, source in enumerate(sources):
                for file in source_files(source):
                    spool = self.folder / f"lines-{len(self.files):06d}"
                    for shard in shards_of(file, self.plan.reading, self.notes[split], spool):
                        division = self.plan.divisions[split]
                        job = ShardJob(shard=shard, reading=self.plan.reading, division=division, folder=self.folder)
                        yield _Planned(job, split, len(self.files), number)
                    self.files.append(file)

    def _run(
        self,
        function: Callable[..., Result],
        jobs: Sequence[ShardJob],
        tokenizer: LanguageTokenizer | None,
        title: str,
    ) -> Iterator[Result]:
        sizes = [job.shard.num_bytes for job in jobs]
        num_processes = self.plan.num_processes
        return run_jobs(function, jobs, tokenizer, num_processes=num_processes, sizes=sizes, title=title)
