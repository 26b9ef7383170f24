"""Draws the figures that tasks return as data, one function for each type.

A figure with Chinese labels becomes an SVG in place of a PNG, whose text any browser shows. `draw.register` adds the
function that draws a type of your own.
"""

import csv
import math
from collections import Counter
from collections.abc import Sequence
from functools import singledispatch
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from lightrail.lightning_modules.figures.figure import (
    Bars,
    ConfusionMatrix,
    Curve,
    Figure,
    Images,
    MarkedText,
    Reliability,
    Scatter,
    Values,
)
from lightrail.lightning_modules.metrics.label_scores import CalibrationError
from lightrail.project.figures.drawing import BLUE, BLUES, FAINT, GRAY, INK, MUTED, ORANGE, drawable, page, title
from lightrail.project.figures.marked_text import as_page, as_text

MAX_BARS = 30
MAX_BAR_CHARACTERS = 24
MAX_CELLS = 15
MAX_CELL_CHARACTERS = 16
NUM_BINS = 10
OTHER = "(other)"
IMAGES_PER_ROW = 6
MARKS = ((INK, "|", 9), (ORANGE, "D", 4), (MUTED, "o", 4))
"""Colour, marker and its size for each value of a bar that is marked on it."""


@singledispatch
def draw(figure: Figure, directory: Path) -> None:
    """Draw a figure into `figures/` of a run's directory; pages and tables go to `samples/`."""
    raise NotImplementedError(
        f"no function draws a figure of the type {type(figure).__name__}: register one, `draw.register`."
    )


def image_path(figure: Figure, directory: Path) -> Path:
    """Return the file that a figure is drawn into, unless its texts make it an SVG."""
    return directory / "figures" / f"{figure.name}.png"


@draw.register
def _(figure: Reliability, directory: Path) -> None:
    error = expected_calibration_error(figure.confidences, figure.are_correct)
    confidence, accuracy, count = _confidence_bins(figure.confidences, figure.are_correct)
    some = count > 0
    left, width = np.linspace(0, 1, NUM_BINS + 1)[:-1], 1 / NUM_BINS
    with page(image_path(figure, directory), 4.8, 5.4) as drawn:
        top, bottom = drawn.subplots(2, 1, sharex=True, height_ratios=[4, 1])
        top.bar(left[some], accuracy[some], width, align="edge", color=BLUE, alpha=0.8, edgecolor="white")
        top.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        top.plot(confidence[some], accuracy[some], "o", color=INK, markersize=3.5)
        top.set(ylabel="fraction correct", xlim=(0, 1), ylim=(0, 1.02))
        numbers = f"expected calibration error {error:.3f}, {len(figure.confidences):,} predictions"
        title(top, figure.title, figure.note or numbers)
        bottom.bar(left, count / max(count.sum(), 1), width, align="edge", color=GRAY, edgecolor="white")
        bottom.set(xlabel="confidence", ylabel="fraction of all")
        bottom.yaxis.set_major_locator(MaxNLocator(2))
        bottom.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))


@draw.register
def _(figure: Bars, directory: Path) -> None:
    _write_table(figure, directory / "samples" / f"{figure.table}.csv")
    *marked, bar = (name for name in figure.values)
    heights = np.asarray(figure.values[bar], np.float64)
    shown = sorted(np.argsort(-np.asarray(figure.counts), kind="stable")[:MAX_BARS].tolist())
    # By value: barh draws the first, the weakest label, at the bottom.
    shown.sort(key=lambda number: (heights[number], figure.counts[number]))
    left_out = f", the {len(shown)} most frequent of {len(heights)} labels" if len(shown) < len(heights) else ""
    places = np.arange(len(shown))
    with page(image_path(figure, directory), 6.4, 1.5 + 0.3 * len(shown)) as drawn:
        axes = drawn.subplots()
        axes.barh(places, heights[shown], color=BLUE, alpha=0.8, height=0.62, label=_named(bar))
        for name, (color, marker, size) in zip(marked, MARKS, strict=False):
            values = [figure.values[name][number] for number in shown]
            axes.plot(values, places, marker, color=color, markersize=size, label=_named(name), clip_on=False)
        axes.set_yticks(places, [drawable(figure.labels[number], MAX_BAR_CHARACTERS) for number in shown], color=INK)
        for place, number in zip(places, shown, strict=True):
            text = f"{heights[number]:.3f}  of {figure.counts[number]:,}"
            axes.annotate(text, (1.02, place), va="center", color=FAINT, fontsize=8, annotation_clip=False)
        axes.set(xlim=(0, 1), ylim=(-0.6, len(shown) - 0.4))
        axes.grid(visible=False, axis="y")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12 if len(shown) > 4 else -0.25), ncols=3)
        names = ", ".join(map(_named, [bar, *marked[:-1]])) + (f" and {_named(marked[-1])}" if marked else "")
        title(axes, figure.title, figure.note or f"{names} on the test split{left_out}")


def _named(value: str) -> str:
    return "F1" if value == "f1" else value


def _write_table(figure: Bars, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["label", *figure.values, "support", *figure.more])
        for place, label in enumerate(figure.labels):
            numbers, more = ([f"{own[place]:.4f}" for own in part.values()] for part in (figure.values, figure.more))
            writer.writerow([label, *numbers, figure.counts[place], *more])


@draw.register
def _(figure: ConfusionMatrix, directory: Path) -> None:
    """Draw counts, coloured by the fraction of the row; labels left out share one row and one column."""
    targets, predictions = list(figure.targets), list(figure.predictions)
    labels, counts = count_confusions(targets, predictions, MAX_CELLS)
    if not labels:
        return
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    accuracy = sum(a == b for a, b in zip(targets, predictions, strict=True)) / len(targets)
    size = max(3.6, 0.48 * len(labels) + 2)
    with page(image_path(figure, directory), size + 0.4, size) as drawn:
        axes = drawn.subplots()
        axes.imshow(shares, cmap=BLUES, vmin=0, vmax=1)
        for row, column in zip(*np.nonzero(counts), strict=True):
            share = shares[row, column]
            ink = "white" if share > 0.55 else INK if share > 0.05 else FAINT
            text = _short(int(counts[row, column]))
            axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=8)
        numbers = f"{len(targets):,} examples, {accuracy:.1%} correct; colour: fraction of the row"
        title(axes, figure.title, figure.note or numbers)
        axes.set(xlabel="predicted", ylabel="target")
        _label_cells(axes, [drawable(label, MAX_CELL_CHARACTERS) for label in labels])


@draw.register
def _(figure: Curve, directory: Path) -> None:
    with page(image_path(figure, directory), 6.4, 3.8) as drawn:
        axes = drawn.subplots()
        axes.plot(figure.x, figure.y, color=BLUE, marker="o", markersize=3.5)
        title(axes, figure.title, figure.note)
        axes.set(xlabel=figure.x_label, ylabel=figure.y_label, xscale="log" if figure.is_logarithmic else "linear")
        axes.set_ylim(0, 1.05 * np.max(figure.y, where=np.isfinite(figure.y), initial=0.01))
        if figure.is_logarithmic:
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
            axes.xaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))


@draw.register
def _(figure: Scatter, directory: Path) -> None:
    with page(image_path(figure, directory), 4.8, 5.0) as drawn:
        axes = drawn.subplots()
        axes.plot(figure.x, figure.y, "o", color=BLUE, markersize=3, alpha=0.5)
        both = np.concatenate([np.asarray(figure.x, np.float64), np.asarray(figure.y, np.float64)])
        if (finite := both[np.isfinite(both)]).size:
            ends = [finite.min(), finite.max()]
            axes.plot(ends, ends, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        axes.set(xlabel=figure.x_label, ylabel=figure.y_label)
        title(axes, figure.title, figure.note or f"{len(figure.x):,} examples; dashed: equal")


@draw.register
def _(figure: Images, directory: Path) -> None:
    if not len(figure.images):
        return
    num_rows = math.ceil(len(figure.images) / IMAGES_PER_ROW)
    with page(image_path(figure, directory), 1.35 * IMAGES_PER_ROW, 1.7 * num_rows + 0.4) as drawn:
        note = f" ({figure.note})" if figure.note else ""
        drawn.suptitle(f"{figure.title}{note}", fontsize=9, color=MUTED)
        places = list(drawn.subplots(num_rows, IMAGES_PER_ROW, squeeze=False).flat)
        for axes, image, caption in zip(places, figure.images, figure.captions, strict=False):
            axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axes.set_axis_off()
            lines = [drawable(line, MAX_CELL_CHARACTERS + 5) for line in caption.splitlines()]
            axes.set_title("\n".join(lines), fontsize=8, color=INK)
        for axes in places[len(figure.images) :]:
            axes.remove()


@draw.register
def _(figure: MarkedText, directory: Path) -> None:
    folder = directory / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    for ending, text in (("html", as_page(figure)), ("txt", as_text(figure))):
        (folder / f"{figure.name}.{ending}").write_text(text, encoding="utf-8", errors="replace")


def expected_calibration_error(scores: Values, is_correct: Values, num_bins: int = NUM_BINS) -> float:
    """Return the mean distance between confidence and accuracy over equal bins of confidence, weighted by their size.

    Source: Naeini, Cooper and Hauskrecht (2015), "Obtaining Well Calibrated Probabilities Using Bayesian Binning".

    >>> round(expected_calibration_error([0.9, 0.9, 0.6, 0.6], [True, True, True, False]), 3)
    0.1
    """
    if not len(scores):
        return 0.0
    error = CalibrationError(num_bins=num_bins)
    return float(error.value(error.rows(np.asarray(scores, np.float64), np.asarray(is_correct)).sum(0)))


def count_confusions(
    targets: Sequence[str], predictions: Sequence[str], max_labels: int
) -> tuple[list[str], NDArray[np.int64]]:
    """Return the labels shown and the counts, [target, predicted]; a last label `(other)` stands for those left out."""
    frequency = Counter(targets)
    only_predicted = Counter(label for label in predictions if label not in frequency)
    labels = [label for label, _ in frequency.most_common() + only_predicted.most_common()]
    if len(labels) > max_labels:
        labels = [*labels[: max_labels - 1], OTHER]
    index = {label: number for number, label in enumerate(labels)}
    other = len(labels) - 1
    counts = np.zeros((len(labels), len(labels)), dtype=np.int64)
    for target, prediction in zip(targets, predictions, strict=True):
        counts[index.get(target, other), index.get(prediction, other)] += 1
    return labels, counts


def _label_cells(axes: Axes, names: list[str]) -> None:
    is_long = max(map(len, names)) > 3
    axes.set_xticks(range(len(names)), names)
    if is_long:
        axes.tick_params(axis="x", labelrotation=45)
        for label in axes.get_xticklabels():
            label.set(horizontalalignment="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.grid(visible=False)
    axes.set_xticks(np.arange(len(names) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(names) + 1) - 0.5, minor=True)
    axes.grid(visible=True, which="minor", color="#eef1f4", linewidth=1)
    axes.tick_params(which="both", length=0, colors=INK)


def _confidence_bins(
    scores: Values, is_correct: Values, num_bins: int = NUM_BINS
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return mean confidence, accuracy and size of each bin; the means of an empty bin are 0."""
    rows = CalibrationError(num_bins=num_bins).rows(np.asarray(scores, np.float64), np.asarray(is_correct))
    count, confidence, accuracy = rows.sum(0).reshape(3, num_bins)
    return confidence / np.maximum(count, 1), accuracy / np.maximum(count, 1), count


def _short(count: int) -> str:
    if count < 10_000:
        return str(count)
    return f"{count / 1000:.0f}k" if count < 10_000_000 else f"{count / 1_000_000:.0f}M"
