"""The test examples that the compared runs disagree on most."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from lightrail.project.comparing.entries import Entry, ScoredRun

ANSWER_COLUMNS = ("prediction", "target")


@dataclass(frozen=True)
class Answer:
    """What an entry answered: a run its prediction, a group the one that most of its runs gave."""

    text: str
    """Empty of a language model, which only has a loss."""
    score: float
    """Confidence in [0, 1], the mean over the runs that gave the answer."""
    loss: float
    """Mean over all runs of the entry; of a language model in bits per character, which compares between tokenizers."""
    num_agreeing: int
    num_runs: int
    is_right: bool


@dataclass(frozen=True)
class Example:
    """A test example and one answer of each entry."""

    id: int
    input: str | None
    """The first column of text that is neither answer nor target, such as `text` or `pinyin`."""
    target: str | None
    """None of language models."""
    answers: Sequence[Answer]


def most_different(entries: Sequence[Entry], number: int) -> list[Example]:
    """Examples to which the entries give different answers, those first whose losses are farthest apart.

    Language models give no answers: the texts, then, whose bits per character are farthest apart.
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
