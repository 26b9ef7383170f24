"""How well each label is told, as rows of numbers and as a picture."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from lightrail.lightning_modules.metrics.scores import MacroF1
from lightrail.project.figures.drawing import BLUE, FAINT, INK, ORANGE, drawable, page, title

MAX_LABELS = 30
MAX_LABEL_CHARACTERS = 24


@dataclass(frozen=True)
class LabelRow:
    """One label on all test examples."""

    label: str
    precision: float
    """Share of the examples given this label that have it; 0 if none is given it."""
    recall: float
    """Share of the examples with this label that are given it; 0 if none has it."""
    f1: float
    support: int
    """Examples that have it."""


def label_rows(predictions: pa.Table, labels: Sequence[str], separator: str | None) -> list[LabelRow]:
    """Count each label, in the order of the labels.

    Args:
        predictions: with the columns `prediction` and `target`.
        separator: what stands between the labels of an example that may have several; None: each has one.
    """
    counter = MacroF1(labels=tuple(labels), separator=separator)
    columns = {name: predictions[name].to_numpy() for name in ("prediction", "target")}
    true_positives, predicted, expected = counter.counts(counter.statistics(columns).sum(0))
    parts = zip(
        labels,
        true_positives / np.maximum(predicted, 1),
        true_positives / np.maximum(expected, 1),
        2 * true_positives / np.maximum(predicted + expected, 1),
        expected,
        strict=True,
    )
    return [LabelRow(name, float(p), float(r), float(f1), int(support)) for name, p, r, f1, support in parts]


def write_label_rows(rows: Sequence[LabelRow], more: Mapping[str, Sequence[float]], path: Path) -> None:
    """Write a CSV with a line for each label.

    Args:
        more: further columns by name, in the order of the rows.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["label", "precision", "recall", "f1", "support", *more])
        for place, row in enumerate(rows):
            numbers = [row.precision, row.recall, row.f1]
            own = [f"{value:.4f}" for value in numbers], [f"{values[place]:.4f}" for values in more.values()]
            writer.writerow([row.label, *own[0], row.support, *own[1]])


def draw_label_rows(rows: Sequence[LabelRow], path: Path, heading: str = "Labels") -> None:
    """Draw F1 of each label as a bar, the best first, with precision and recall; of many labels the most frequent."""
    shown = sorted(rows, key=lambda row: row.support, reverse=True)[:MAX_LABELS]
    shown.sort(key=lambda row: (row.f1, row.support))
    left_out = f", the {len(shown)} most frequent of {len(rows)} labels" if len(shown) < len(rows) else ""
    places = np.arange(len(shown))
    with page(path, 6.4, 1.5 + 0.3 * len(shown)) as figure:
        axes = figure.subplots()
        axes.barh(places, [row.f1 for row in shown], color=BLUE, alpha=0.8, height=0.62, label="F1")
        for name, color, marker in (("precision", INK, "|"), ("recall", ORANGE, "D")):
            values = [getattr(row, name) for row in shown]
            axes.plot(
                values, places, marker, color=color, markersize=9 if marker == "|" else 4, label=name, clip_on=False
            )
        names = [drawable(row.label, MAX_LABEL_CHARACTERS) for row in shown]
        axes.set_yticks(places, names, color=INK)
        for place, row in zip(places, shown, strict=True):
            axes.annotate(
                f"{row.f1:.3f}  of {row.support:,}",
                (1.02, place),
                va="center",
                color=FAINT,
                fontsize=8,
                annotation_clip=False,
            )
        axes.set(xlim=(0, 1), ylim=(-0.6, len(shown) - 0.4))
        axes.grid(visible=False, axis="y")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12 if len(shown) > 4 else -0.25), ncols=3)
        title(axes, heading, f"F1, precision and recall on the test split{left_out}")
