"""Language models on common texts: tokenizers cut the same documents into different rows, and into different tokens.

Both count the characters and bytes that a row spells, which tell where rows of one end with rows of the other.

Shapes: N rows, G common texts.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import reduce
from typing import TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lightrail.lightning_modules.metrics.language_scores import Perplexity
from lightrail.project.comparing.entries import Entry, ScoredRun

UNITS = ("num_characters", "num_bytes")
TARGETS = "num_targets"
SUMS = (TARGETS, "num_correct", *UNITS)
"""Columns of which a longer text has the sum."""
Integers: TypeAlias = NDArray[np.int64]


def with_common_texts(entries: Sequence[Entry]) -> tuple[list[Entry], list[str]]:
    """Join the rows of each run up to the ends that all runs share, so that every row is the same text for all.

    Where the runs count different numbers of tokens, scores per token are left out, which a note says. Runs of other
    tasks, and such as did not read the same number of characters, stay as they are.
    """
    runs = [run for entry in entries for run in entry.runs]
    if any("target" in run.table.column_names or TARGETS not in run.table.column_names for run in runs):
        return list(entries), []
    ends = [_ends(run.table) for run in runs]
    if len({own[-1] for own in ends}) == 1 and not all(np.array_equal(ends[0], own) for own in ends):
        common = reduce(np.intersect1d, ends)
        entries = [
            replace(entry, runs=[replace(run, table=_joined(run.table, common)) for run in entry.runs])
            for entry in entries
        ]
    return _per_same_token(entries)


def _ends(table: pa.Table) -> Integers:
    """How far into all documents each row goes, [N]: characters, and bytes where a row ends inside a character."""
    characters, num_bytes = (table[name].to_numpy().astype(np.int64).cumsum() for name in UNITS)
    return np.asarray(characters * (num_bytes[-1] + 1) + num_bytes, np.int64)


def _joined(table: pa.Table, common: Integers) -> pa.Table:
    """Rows joined so that they end at `common`, [G], numbered from 0."""
    groups = np.searchsorted(common, _ends(table))  # [N]
    texts = [""] * len(common)
    for group, text in zip(groups.tolist(), table["text"].to_pylist(), strict=True):
        texts[group] += text
    sums = {name: np.bincount(groups, table[name].to_numpy(), len(common)) for name in SUMS}
    nats = np.bincount(groups, table["loss"].to_numpy() * table[TARGETS].to_numpy(), len(common))
    losses = nats / np.maximum(sums[TARGETS], 1)
    counts = {name: own.astype(np.int64) for name, own in sums.items()}
    columns = {"id": range(len(common)), "text": texts, "loss": losses, **counts, "score": np.exp(-losses)}
    return pa.table(columns).replace_schema_metadata(table.schema.metadata)


def _per_same_token(entries: Sequence[Entry]) -> tuple[list[Entry], list[str]]:
    runs = [run for entry in entries for run in entry.runs]
    counts = [run.table[TARGETS].to_pylist() for run in runs]
    left_out = _per_token(runs[0])
    if all(own == counts[0] for own in counts) or not left_out:
        return list(entries), []
    kept = [
        replace(
            entry,
            runs=[
                replace(run, scores={name: own for name, own in run.scores.items() if name not in _per_token(run)})
                for run in entry.runs
            ],
        )
        for entry in entries
    ]
    return kept, [f"{', '.join(left_out)}: left out, as the runs divide the texts into different tokens."]


def _per_token(run: ScoredRun) -> list[str]:
    """Scores that divide by the number of tokens."""
    return [
        name for name, score in run.scores.items() if TARGETS in asdict(score).values() or isinstance(score, Perplexity)
    ]
