"""Figures of a test of entities, as data. Needs no torch."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lightrail.lightning_modules.figures.figure import Bars, Figure, Mark, MarkedLine, MarkedText, Reliability
from lightrail.lightning_modules.metrics.entity_scores import counts_by_type, f1, outcomes, precision, read, recall
from lightrail.lightning_modules.metrics.scores import Columns

OUTCOMES = {
    "correct": ("right", "✓", "#d9f2e0", "#17402a"),
    "boundary": ("wrong boundary", "↔", "#dbe8fd", "#1b3a6b"),
    "type": ("wrong type", "≠", "#ecdffa", "#452a66"),
    "boundary_and_type": ("wrong boundary and type", "↔≠", "#fbd9ee", "#5e2148"),
    "missing": ("missing", "−", "#fbd9d3", "#5c2320"),
    "spurious": ("spurious", "+", "#fde6bf", "#5a3d0c"),
}
"""Outcomes of an entity: a short text, a sign, and the colours on a light and on a dark background."""
NUM_SHOWN = 100
"""Sentences with mistakes."""


def entity_figures(columns: Columns, types: Sequence[str]) -> Iterator[Figure]:
    """Yield precision, recall and F1 of each type, the reliability of entities' probabilities, and the worst mistakes.

    Args:
        columns: `id`, `text`, `entities`, `prediction`, `target` and `loss` of the test, [N] each.
        types: names of all types.
    """
    yield _type_bars(columns, types)
    scores, are_right = [], []
    for entities, target in zip(columns["entities"], columns["target"], strict=True):
        expected = set(read(target))
        scores += [own["score"] for own in entities]
        are_right += [(own["start"], own["end"], own["type"]) in expected for own in entities]
    if scores:
        yield Reliability(name="entity_reliability", confidences=scores, are_correct=are_right)
    yield _mistakes(columns)


def _type_bars(columns: Columns, types: Sequence[str]) -> Bars:
    counts = np.zeros((3, len(types)))
    for predicted, expected in zip(columns["prediction"], columns["target"], strict=True):
        counts += counts_by_type(read(predicted), read(expected), types)
    return Bars(
        name="entities",
        title="Entities by type",
        labels=types,
        values={"precision": precision(counts), "recall": recall(counts), "f1": f1(counts)},
        counts=counts[2].astype(int),
        table="per_type",
    )


def _mistakes(columns: Columns) -> MarkedText:
    counts: Counter[str] = Counter()
    wrong: list[tuple[int, float, int, MarkedLine]] = []
    names = ("id", "text", "entities", "target", "loss")
    for row in zip(*(columns[name] for name in names), strict=True):
        line, num_errors = marked_line(dict(zip(names, row, strict=True)), counts)
        if num_errors:
            wrong.append((-num_errors, -row[-1], row[0], line))
    wrong.sort(key=lambda own: own[:3])
    shown = [line for *_, line in wrong[:NUM_SHOWN]]
    return MarkedText(
        name="worst_mistakes",
        title="Worst mistakes",
        note=f"{len(shown):,} of {len(wrong):,} sentences with an error, those with most errors first.",
        lines=shown,
        outcomes=OUTCOMES,
        counts=counts,
    )


def marked_line(row: Mapping[str, Any], counts: Counter[str]) -> tuple[MarkedLine, int]:
    """Return a sentence with its entities marked, and its number of errors; add the outcomes to `counts`.

    Errors are wrong predictions, and expected entities that no wrong prediction is paired with.
    """
    scores = {(own["start"], own["end"], own["type"]): own["score"] for own in row["entities"]}
    found = outcomes(scores, read(row["target"]))
    counts.update(outcome for outcome, _, _ in found)
    num_errors = sum(outcome != "correct" for outcome, _, _ in found)
    errors = f"{num_errors} error{'s' * (num_errors != 1)}"
    line = MarkedLine(
        heading=f"example {row['id']}: {errors}, loss {row['loss']:.3f} nats per word",
        text=row["text"],
        layers={
            "expected": [Mark(*own, outcome) for outcome, _, own in found if own],
            "predicted": [Mark(*own, outcome, scores[own]) for outcome, own, _ in found if own],
        },
    )
    return line, num_errors
