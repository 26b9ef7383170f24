"""How well each type of entity is found, and the sentences with most mistakes."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from lightrail.lightning_modules.metrics.entity_scores import (
    Outcome,
    counts_by_type,
    f1,
    outcomes,
    precision,
    read,
    recall,
)
from lightrail.project.figures.label_table import LabelRow, draw_label_rows, write_label_rows
from lightrail.project.figures.marked_text import MarkedSentence, as_page, as_text, marked_sentence
from lightrail.project.figures.plots import reliability_diagram

NUM_SHOWN = 100
"""Sentences in the samples."""


def write_entities(predictions: pa.Table, types: Sequence[str], directory: Path) -> None:
    """Write the table and the picture of types, and the worst mistakes with their entities marked.

    Args:
        predictions: with the columns of an entity task: `id`, `text`, `entities`, `prediction`, `target`, `loss`.
    """
    rows = type_rows(predictions, types)
    write_label_rows(rows, {}, directory / "samples" / "per_type.csv")
    draw_label_rows(rows, directory / "figures" / "entities.png", heading="Entities by type")
    scores, are_right = entity_confidences(predictions)
    if scores:
        reliability_diagram(scores, are_right, directory / "figures" / "entity_reliability.png")
    wrong = [sentence for sentence in marked_sentences(predictions) if sentence.num_errors]
    wrong.sort(key=lambda sentence: (-sentence.num_errors, -sentence.loss, sentence.id))
    page = as_page(wrong[:NUM_SHOWN], count_outcomes(predictions), len(wrong))
    (directory / "samples" / "worst_mistakes.html").write_text(page, encoding="utf-8", errors="replace")
    text = as_text(wrong[:NUM_SHOWN])
    (directory / "samples" / "worst_mistakes.txt").write_text(text, encoding="utf-8", errors="replace")


def type_rows(predictions: pa.Table, types: Sequence[str]) -> list[LabelRow]:
    """Precision, recall and F1 of each type, in the order of the types."""
    counts = np.zeros((3, len(types)))
    for predicted, expected in _pairs(predictions):
        counts += counts_by_type(read(predicted), read(expected), types)
    figures = zip(types, precision(counts), recall(counts), f1(counts), counts[2], strict=True)
    return [LabelRow(kind, float(p), float(r), float(both), int(support)) for kind, p, r, both, support in figures]


def entity_confidences(predictions: pa.Table) -> tuple[list[float], list[bool]]:
    """The probability of each predicted entity, and whether it is right."""
    scores, are_right = [], []
    for entities, target in zip(predictions["entities"].to_pylist(), predictions["target"].to_pylist(), strict=True):
        expected = set(read(target))
        scores += [own["score"] for own in entities]
        are_right += [(own["start"], own["end"], own["type"]) in expected for own in entities]
    return scores, are_right


def count_outcomes(predictions: pa.Table) -> Counter[Outcome]:
    """How many entities are right, missing, ... in all sentences."""
    return Counter(
        outcome
        for predicted, expected in _pairs(predictions)
        for outcome, _, _ in outcomes(read(predicted), read(expected))
    )


def marked_sentences(predictions: pa.Table) -> list[MarkedSentence]:
    columns = ("id", "text", "entities", "target", "loss")
    return [
        marked_sentence(
            number=row["id"],
            text=row["text"],
            predicted={(own["start"], own["end"], own["type"]): own["score"] for own in row["entities"]},
            expected=read(row["target"]),
            loss=row["loss"],
        )
        for row in predictions.select(columns).to_pylist()
    ]


def _pairs(predictions: pa.Table) -> list[tuple[str, str]]:
    return list(zip(predictions["prediction"].to_pylist(), predictions["target"].to_pylist(), strict=True))
