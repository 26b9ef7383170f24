"""The runs to compare, found in MLflow by id or name, with their test predictions and the examples that differ most.

Language models are compared on common texts: tokenizers split the same documents into different rows and tokens, but
each row has its numbers of characters and bytes, from which common ends of rows follow.

Shapes: N rows, G common texts.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lightrail.lightning_modules.metrics.language_scores import Perplexity
from lightrail.lightning_modules.metrics.scores import Columns, StoredScore
from lightrail.project.basics.errors import ConfigError, first_line
from lightrail.project.basics.reading import reading
from lightrail.project.models.predictions import read_predictions, stored_scores
from lightrail.project.tracking.database import where_files_were
from lightrail.project.tracking.lookup import PREDICTIONS, RESULTS_TAG, SHORT_ID, children_of, run_artifact, short_name
from lightrail.project.tracking.naming import find_run

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


EXAMPLE_COLUMNS = ("id", "target", "num_characters", "num_bytes")
"""Columns that identify the example of a row, independent of the model."""
"""Number of characters of a shortened run id."""


@dataclass(frozen=True)
class ScoredRun:
    """A run with its predictions for the test examples."""

    run_id: str
    name: str
    test_digest: str
    table: pa.Table
    scores: Mapping[str, StoredScore]
    main_metric: str

    @property
    def columns(self) -> Columns:
        """The columns of the predictions as arrays, [N] each."""
        return {name: self.table[name].to_numpy() for name in self.table.column_names}

    def __str__(self) -> str:
        return f"{self.run_id[:SHORT_ID]} ({self.name})"


@dataclass(frozen=True)
class Entry:
    """One side of a comparison: a run, or the runs of `lightrail fit --seeds` under their parent."""

    run_id: str
    name: str
    experiment_id: str
    params: Mapping[str, str]
    runs: Sequence[ScoredRun]
    is_group: bool
    notes: Sequence[str] = ()
    """Notes for the reader of the report."""


def find_entry(client: "MlflowClient", named: str) -> Entry:
    """Read the run that a text names, see `find_run`.

    Raises:
        ConfigError: there is no such run or several, or it has no predictions that can be compared.
    """
    run = find_run(client, named)
    is_group = run.data.tags.get("lightrail.kind") == "seeds"
    runs, notes = _seeds(client, run) if is_group else ([_tested(client, run)], _unfinished(run))
    return Entry(run.info.run_id, short_name(run), run.info.experiment_id, dict(run.data.params), runs, is_group, notes)


def _seeds(client: "MlflowClient", group: "Run") -> tuple[list[ScoredRun], list[str]]:
    children = [child for child in children_of(client, group) if child.data.tags.get("lightrail.kind") == "fit"]
    finished = [child for child in children if child.info.status == "FINISHED"]
    left_out = [f"{child.info.run_id[:SHORT_ID]} ({child.info.status})" for child in children if child not in finished]
    about = f"{group.info.run_id[:SHORT_ID]} ({short_name(group)})"
    if not finished:
        raise ConfigError(
            f"run {about} holds several seeds, and none is finished. Resume it: lightrail resume {group.info.run_id}"
        )
    notes = [f"{about}: left out, as they are not finished: {', '.join(left_out)}."] if left_out else []
    return [_tested(client, child) for child in finished], notes


def _unfinished(run: "Run") -> list[str]:
    if run.info.status == "FINISHED":
        return []
    return [f"{run.info.run_id[:SHORT_ID]} ({short_name(run)}) is {run.info.status}, not FINISHED."]


def _tested(client: "MlflowClient", run: "Run") -> ScoredRun:
    about = f"run {run.info.run_id} ({short_name(run)}, {run.info.status})"
    digest = run.data.tags.get("lightrail.test_digest")
    if RESULTS_TAG in run.data.tags:
        raise ConfigError(
            f"{about} is of a plain LightningModule, which stores no predictions. Compare it with other runs of such."
        )
    path = run_artifact(client, run, PREDICTIONS) if digest else None
    if digest is None or path is None:
        raise ConfigError(
            f"{about} has no {PREDICTIONS}: it was not tested, its files are missing, or lightrail did not make it. "
            "Compare runs that `lightrail fit` or `lightrail test` has finished."
            f"{where_files_were(run.info.artifact_uri)}"
        )
    table = read_predictions(path)
    again = f"Test it again: lightrail test --ckpt_path runs:/{run.info.run_id}"
    with reading(f"{about}: its stored scores", again):
        stored = stored_scores(table)
    if stored is None or not table.num_rows:
        raise ConfigError(f"{about}: its predictions were written by an earlier version, without their scores. {again}")
    found = ScoredRun(run.info.run_id, short_name(run), digest, table, *stored)
    try:
        with np.errstate(all="ignore"):
            for score in found.scores.values():
                score.of(found.columns)
    except Exception as error:  # of any metric, also a user's own
        wrong = f"{about}: its scores cannot be computed from its predictions"
        raise ConfigError(f"{wrong}: {first_line(error).rstrip('.')}. {again}") from error
    return found


def check_comparable(entries: Sequence[Entry]) -> None:
    """Refuse runs that cannot be compared. Raises: ConfigError for a repeated run, or different test data."""
    seen: dict[str, Entry] = {}
    for entry in entries:
        for run_id in {entry.run_id, *(run.run_id for run in entry.runs)}:
            if run_id in seen:
                raise ConfigError(f"run {run_id} ({entry.name}) is named twice. Name different runs.")
            seen[run_id] = entry
    one, *others = [run for entry in entries for run in entry.runs]
    for other in others:
        if one.test_digest != other.test_digest:
            raise ConfigError(
                f"runs {one} and {other} were tested on different data (digests {one.test_digest} and "
                f"{other.test_digest}), on which metrics are not comparable. Test one of the models on the other's "
                f"data: `lightrail test --ckpt_path runs:/RUN_ID --data.test_path FILE`."
            )


def check_same_examples(entries: Sequence[Entry]) -> None:
    """Refuse runs with predictions for different examples. Raises: ConfigError."""
    one, *others = [run for entry in entries for run in entry.runs]
    for other in others:
        if one.table.num_rows != other.table.num_rows:
            raise ConfigError(
                f"runs {one} and {other} have predictions for {one.table.num_rows} and {other.table.num_rows} examples "
                f"of the same test set. Test both again without trainer.limit_test_batches."
            )
        both = set(one.table.column_names) & set(other.table.column_names)
        for column in (name for name in EXAMPLE_COLUMNS if name in both):
            if one.table[column].to_pylist() != other.table[column].to_pylist():
                raise ConfigError(f"runs {one} and {other} differ in the column {column!r} of their test examples.")


ANSWER_COLUMNS = ("prediction", "target")


@dataclass(frozen=True)
class Answer:
    """The prediction of an entry: that of its run, or of a group the most frequent one of its runs."""

    text: str
    """The predicted text; empty for a language model, which only has a loss."""
    score: float
    """Confidence in [0, 1], the mean over the runs with this prediction."""
    loss: float
    """Mean over all runs of the entry; for language models in bits per character, independent of the tokenizer."""
    num_agreeing: int
    num_runs: int
    is_right: bool


@dataclass(frozen=True)
class Example:
    """A test example with one prediction of each entry."""

    id: int
    input: str | None
    """The first text column besides prediction and target, such as `text` or `pinyin`."""
    target: str | None
    """The target; None for language models."""
    answers: Sequence[Answer]


def most_different(entries: Sequence[Entry], number: int) -> list[Example]:
    """Return the examples with different predictions, those with the largest differences in loss first.

    For language models these are the texts with the largest differences in bits per character.

    Args:
        number: maximum number of examples.
    """
    has_answers = "prediction" in entries[0].runs[0].table.column_names
    losses = np.stack([_mean_loss(entry) for entry in entries])  # [entries, N]
    spread = np.nan_to_num(losses.max(0) - losses.min(0), nan=np.inf)
    found: list[Example] = []
    for row in np.argsort(-spread, kind="stable").tolist():
        if len(found) >= number:
            break
        if has_answers and len({run.table["prediction"][row].as_py() for entry in entries for run in entry.runs}) == 1:
            continue
        answers = [_answer(entry, row, float(losses[place, row])) for place, entry in enumerate(entries)]
        if not has_answers or len({answer.text for answer in answers}) > 1:
            found.append(_example(entries[0].runs[0], row, answers))
    return found


def _mean_loss(entry: Entry) -> Any:
    return np.mean([_losses(run.table) for run in entry.runs], axis=0, dtype=np.float64)


def _losses(table: pa.Table) -> Any:
    losses = table["loss"].to_numpy()
    if "prediction" in table.column_names:
        return losses
    bits = losses * table["num_targets"].to_numpy() / math.log(2)
    return bits / np.maximum(table["num_characters"].to_numpy(), 1)


def _answer(entry: Entry, row: int, loss: float) -> Answer:
    if "prediction" not in entry.runs[0].table.column_names:
        score = float(np.mean([run.table["score"][row].as_py() for run in entry.runs]))
        return Answer("", score, loss, len(entry.runs), len(entry.runs), is_right=False)
    given = [(str(run.table["prediction"][row].as_py()), float(run.table["score"][row].as_py())) for run in entry.runs]
    text, num_agreeing = Counter(text for text, _ in given).most_common(1)[0]
    score = float(np.mean([score for own, score in given if own == text]))
    is_right = text == str(entry.runs[0].table["target"][row].as_py())
    return Answer(text, score, loss, num_agreeing, len(given), is_right)


def _example(run: ScoredRun, row: int, answers: Sequence[Answer]) -> Example:
    table = run.table
    texts = [field.name for field in table.schema if field.type == pa.string() and field.name not in ANSWER_COLUMNS]
    return Example(
        id=int(table["id"][row].as_py()),
        input=str(table[texts[0]][row].as_py()) if texts else None,
        target=str(table["target"][row].as_py()) if "target" in table.column_names else None,
        answers=answers,
    )


UNITS = ("num_characters", "num_bytes")
TARGETS = "num_targets"
SUMS = (TARGETS, "num_correct", *UNITS)
"""Columns that are summed when rows are joined."""
Integers: TypeAlias = NDArray[np.int64]


def with_common_texts(entries: Sequence[Entry]) -> tuple[list[Entry], list[str]]:
    """Join the rows of each language model up to ends that all runs share, so that each row is the same text for all.

    Where the runs have different numbers of tokens, scores per token are left out, with a note. Runs of other tasks,
    and runs with different numbers of characters, are unchanged.

    Returns: the entries, and the notes.
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
    """Return the position in all documents at which each row ends, [N]: characters and, within one, bytes."""
    characters, num_bytes = (table[name].to_numpy().astype(np.int64).cumsum() for name in UNITS)
    return np.asarray(characters * (num_bytes[-1] + 1) + num_bytes, np.int64)


def _joined(table: pa.Table, common: Integers) -> pa.Table:
    """Join rows so that they end at `common`, [G], numbered from 0."""
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
    """Return the names of the scores that divide by the number of tokens."""
    return [
        name for name, score in run.scores.items() if TARGETS in asdict(score).values() or isinstance(score, Perplexity)
    ]
