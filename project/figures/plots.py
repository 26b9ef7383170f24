"""Pictures of a run that people would rather look at than numbers. Each function writes one PNG and knows no run.

Text is drawn in a Chinese font where the machine has one; where it has none, characters that cannot be drawn appear as
their code (`\\u4e2d`), which keeps labels apart.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from lightrail.lightning_modules.metrics.label_scores import CalibrationError
from lightrail.project.figures.drawing import BLUE, BLUES, FAINT, GRAY, INK, MUTED, ORANGE, drawable, page, title

Series = Mapping[str, Sequence[tuple[int, float]]]
"""Metric name -> (step, value) pairs in the order of their steps."""

MAX_LABEL_CHARACTERS = 16
FEW_POINTS = 30
OTHER = "(other)"
LOWER_IS_BETTER = ("loss", "perplexity", "error", "cer", "ece", "bits")


def learning_curves(series: Series, path: Path) -> None:
    """Draw the losses in one panel and every other `val/` metric in one of its own, against the optimizer step.

    The best validation point of each panel is marked. Series other than `train/loss` and `val/` are left out; without
    any of those nothing is written.
    """
    losses = {name: series[name] for name in ("train/loss", "val/loss") if series.get(name)}
    scores = [name for name in sorted(series) if name.startswith("val/") and name != "val/loss" and series[name]]
    panels = ([("loss", losses)] if losses else []) + [(name, {name: series[name]}) for name in scores]
    if not panels:
        return
    num_columns = min(len(panels), 2 if len(panels) == 4 else 3)
    num_rows = -(-len(panels) // num_columns)
    width, height = (6.4, 3.8) if len(panels) == 1 else (4.2 * num_columns, 3.2 * num_rows)
    with page(path, width, height) as figure:
        places = list(figure.subplots(num_rows, num_columns, squeeze=False).flat)
        for axes, (name, lines) in zip(places, panels, strict=False):
            _draw_lines(axes, name, lines)
        for axes in places[len(panels) :]:
            axes.remove()


def confusion_matrix(targets: Sequence[str], predictions: Sequence[str], path: Path, max_labels: int = 15) -> None:
    """Draw how often each label was taken for which: colour is the share of the row, the number a count.

    With more than `max_labels` labels the most frequent targets are shown; the rest share one row and one column.
    """
    labels, counts = count_confusions(targets, predictions, max_labels)
    if not labels:
        return
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    accuracy = sum(a == b for a, b in zip(targets, predictions, strict=True)) / len(targets)
    size = max(3.6, 0.48 * len(labels) + 2)
    with page(path, size + 0.4, size) as figure:
        axes = figure.subplots()
        axes.imshow(shares, cmap=BLUES, vmin=0, vmax=1)
        for row, column in zip(*np.nonzero(counts), strict=True):
            share = shares[row, column]
            ink = "white" if share > 0.55 else INK if share > 0.05 else FAINT
            text = _short(int(counts[row, column]))
            axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=8)
        title(axes, "Confusion matrix", f"{len(targets):,} examples, {accuracy:.1%} right; colour: share of the row")
        axes.set(xlabel="predicted", ylabel="target")
        _label_cells(axes, [drawable(label, MAX_LABEL_CHARACTERS) for label in labels])


def reliability_diagram(scores: Sequence[float], is_correct: Sequence[bool], path: Path, num_bins: int = 10) -> float:
    """Draw the share of right predictions against the confidence they were made with; return the calibration error."""
    error = expected_calibration_error(scores, is_correct, num_bins)
    confidence, accuracy, count = _confidence_bins(scores, is_correct, num_bins)
    some = count > 0
    left, width = np.linspace(0, 1, num_bins + 1)[:-1], 1 / num_bins
    with page(path, 4.8, 5.4) as figure:
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
        top.bar(left[some], accuracy[some], width, align="edge", color=BLUE, alpha=0.8, edgecolor="white")
        top.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        top.plot(confidence[some], accuracy[some], "o", color=INK, markersize=3.5)
        top.set(ylabel="share that is right", xlim=(0, 1), ylim=(0, 1.02))
        title(top, "Reliability", f"expected calibration error {error:.3f}, {len(scores):,} predictions")
        bottom.bar(left, count / max(count.sum(), 1), width, align="edge", color=GRAY, edgecolor="white")
        bottom.set(xlabel="confidence", ylabel="share of all")
        bottom.yaxis.set_major_locator(MaxNLocator(2))
        bottom.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return error


def expected_calibration_error(scores: Sequence[float], is_correct: Sequence[bool], num_bins: int = 10) -> float:
    """Return the mean distance between confidence and accuracy over equal bins of confidence, weighted by their size.

    Source: Naeini, Cooper and Hauskrecht (2015), "Obtaining Well Calibrated Probabilities Using Bayesian Binning".

    >>> round(expected_calibration_error([0.9, 0.9, 0.6, 0.6], [True, True, True, False]), 3)
    0.1
    """
    if not len(scores):
        return 0.0
    error = CalibrationError(num_bins=num_bins)
    return float(error.value(error.rows(np.asarray(scores, np.float64), np.asarray(is_correct)).sum(0)))


def seed_scores(scores: Mapping[str, Sequence[float]], seeds: Sequence[int], path: Path) -> None:
    """Draw each metric of several seeds as dots, with their mean and a band of one standard deviation around it.

    Args:
        scores: metric name to a value for each of at least two seeds.
    """
    with page(path, 2.6 * len(scores) + 0.6, 3.6) as figure:
        for axes, (name, values) in zip(
            figure.subplots(1, len(scores), squeeze=False).flat, scores.items(), strict=True
        ):
            mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
            places = np.arange(len(seeds))
            axes.axhspan(mean - deviation, mean + deviation, color=BLUE, alpha=0.12, linewidth=0)
            axes.axhline(mean, color=INK, linewidth=1)
            axes.plot(places, values, "o", color=BLUE, markersize=6)
            axes.set_xticks(places, [str(seed) for seed in seeds])
            axes.set(xlabel="seed", xlim=(-0.6, len(seeds) - 0.4))
            title(axes, name, f"{mean:.4f} ± {deviation:.4f}")


def length_histogram(lengths: Sequence[int], path: Path, unit: str = "tokens") -> None:
    """Draw how long the examples are, on an axis that ends where all but 0.5% do, so that one giant hides nothing."""
    values = np.asarray(lengths)
    if not values.size:
        return
    end = float(np.quantile(values, 0.995))
    step = max(1, round((end - values.min()) / 40))
    facts = f"{values.size:,} examples, median {np.median(values):g}, longest {values.max():,} {unit}"
    with page(path, 6.4, 3.6) as figure:
        axes = figure.subplots()
        bins = np.arange(values.min(), end + 2 * step, step) - 0.5
        axes.hist(values, bins=bins.tolist(), color=BLUE, alpha=0.85, edgecolor="white", linewidth=0.4)
        title(axes, "Length of the examples", facts)
        axes.set(xlabel=unit, ylabel="examples", xlim=(bins[0], bins[-1]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))


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


def _draw_lines(axes: Axes, name: str, lines: Series) -> None:
    for line, points in lines.items():
        steps, values = zip(*points, strict=True)
        is_train = line.startswith("train/")
        dots = "o" if len(points) <= FEW_POINTS and not is_train else ""
        color = GRAY if is_train else (ORANGE if name == "loss" else BLUE)
        axes.plot(steps, values, color=color, marker=dots, markersize=3, label=line)
    title(axes, name, _mark_best(axes, lines))
    axes.set_xlabel("optimizer step")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    if len(lines) > 1:
        axes.legend(loc="upper right")


def _mark_best(axes: Axes, lines: Series) -> str:
    """Ring the best finite validation point and return it in words."""
    points = [point for line, all_points in lines.items() if line.startswith("val/") for point in all_points]
    points = [(step, value) for step, value in points if np.isfinite(value)]
    if not points:
        return ""
    name = next(line for line in lines if line.startswith("val/"))
    sign = -1 if any(word in name for word in LOWER_IS_BETTER) else 1
    step, value = max(points, key=lambda point: sign * point[1])
    axes.plot([step], [value], "o", markersize=9, markerfacecolor="none", markeredgecolor=INK, markeredgewidth=1)
    return f"best {name} {value:.4g} at step {step:,}"


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
    scores: Sequence[float], is_correct: Sequence[bool], num_bins: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return mean confidence, accuracy and size of each bin; the means of an empty bin are 0."""
    rows = CalibrationError(num_bins=num_bins).rows(np.asarray(scores, np.float64), np.asarray(is_correct))
    count, confidence, accuracy = rows.sum(0).reshape(3, num_bins)
    return confidence / np.maximum(count, 1), accuracy / np.maximum(count, 1), count


def _short(count: int) -> str:
    if count < 10_000:
        return str(count)
    return f"{count / 1000:.0f}k" if count < 10_000_000 else f"{count / 1_000_000:.0f}M"


def draw_loss_by_position(ranges: NDArray[np.float64], path: Path) -> None:
    """Draw the mean nats of test targets against how many tokens the model had seen.

    Args:
        ranges: for each range of positions its mean position, from 1, the mean nats and the number of targets, [P, 3].
    """
    if not len(ranges):
        return
    positions, nats, counts = ranges.T
    facts = f"{counts.sum():,.0f} targets, {np.average(nats, weights=counts):.3f} nats per target on average"
    with page(path, 6.4, 3.8) as figure:
        axes = figure.subplots()
        axes.plot(positions, nats, color=BLUE, marker="o", markersize=3.5)
        title(axes, "Loss by position", facts)
        axes.set(xlabel="tokens seen", ylabel="nats per target", xscale="log")
        axes.set_ylim(0, 1.05 * np.max(nats, where=np.isfinite(nats), initial=0.01))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda position, _: f"{position:,.0f}"))
        axes.xaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))
