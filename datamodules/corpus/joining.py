"""Joins encoded shards into one cache, a shard at a time.

Shapes: N documents of a shard.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightrail.datamodules.cache import CacheWriter, TokenisedSplit
from lightrail.datamodules.cache.splits import split_names
from lightrail.datamodules.corpus.encoding import NOTES
from lightrail.datamodules.reading import ReadingNotes


class Encoded(NamedTuple):
    """A shard whose cache is made."""

    folder: Path
    split: str
    """Of its source."""
    file: int
    """Number of its file."""
    source: int
    """Number of its source, among several of the same split."""


class Joined(NamedTuple):
    """What is known of the splits of a corpus."""

    counts: dict[str, int]
    digests: dict[str, str]
    """Of the content and the order of all texts, however they are tokenised."""
    num_repeats: int
    """Documents left out because they repeat another one."""


def join_shards(
    shards: Sequence[Encoded], names: Sequence[str], writer: CacheWriter, *, drop_repeats: bool, has_sources: bool
) -> Joined:
    """Write the rows of all shards, those of a split in the order of the shards.

    Args:
        names: splits, in the order in which repeats are looked for reversed: the last keeps all its texts.
        has_sources: whether rows say which source they are of.
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
    """Add what was noticed in reading the shards of each split."""
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
    """Say of each split of each shard which texts stand nowhere before, the last split first.

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
