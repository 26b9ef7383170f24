"""Draws the figures of a run."""

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from lightrail.datamodules.base import DataModule
from lightrail.lightning_modules.base import TaskModule
from lightrail.project.basics.errors import first_line
from lightrail.project.figures.draw import draw
from lightrail.project.figures.drawing import BLUE, GRAY, INK, ORANGE, page, title

Series = Mapping[str, Sequence[tuple[int, float]]]
"""Metric name -> (step, value) pairs in the order of their steps."""

FEW_POINTS = 30


def learning_curves(series: Series, path: Path, lower_is_better: Collection[str] = ("val/loss",)) -> None:
    """Draw the losses in one panel and every other `val/` metric in one of its own, against the optimizer step.

    The best validation point of each panel is marked. Series other than `train/loss` and `val/` are left out; without
    any of those nothing is written.

    Args:
        lower_is_better: series of which the lowest point is the best, and not the highest.
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
            _draw_lines(axes, name, lines, lower_is_better)
        for axes in places[len(panels) :]:
            axes.remove()


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


def _draw_lines(axes: Axes, name: str, lines: Series, lower_is_better: Collection[str]) -> None:
    for line, points in lines.items():
        steps, values = zip(*points, strict=True)
        is_train = line.startswith("train/")
        dots = "o" if len(points) <= FEW_POINTS and not is_train else ""
        color = GRAY if is_train else (ORANGE if name == "loss" else BLUE)
        axes.plot(steps, values, color=color, marker=dots, markersize=3, label=line)
    title(axes, name, _mark_best(axes, lines, lower_is_better))
    axes.set_xlabel("optimizer step")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    if len(lines) > 1:
        axes.legend(loc="upper right")


def _mark_best(axes: Axes, lines: Series, lower_is_better: Collection[str]) -> str:
    """Ring the best finite validation point and return it in words."""
    points = [point for line, all_points in lines.items() if line.startswith("val/") for point in all_points]
    points = [(step, value) for step, value in points if np.isfinite(value)]
    if not points:
        return ""
    name = next(line for line in lines if line.startswith("val/"))
    sign = -1 if name in lower_is_better else 1
    step, value = max(points, key=lambda point: sign * point[1])
    axes.plot([step], [value], "o", markersize=9, markerfacecolor="none", markeredgecolor=INK, markeredgewidth=1)
    return f"best {name} {value:.4g} at step {step:,}"


log = logging.getLogger(__name__)


def write_figures(data: DataModule, model: TaskModule, predictions: pa.Table, series: Series, directory: Path) -> None:
    """Draw learning curves, lengths of the training examples, and the figures of the task's test.

    Args:
        series: (step, value) pairs of each metric of the run.
    """
    folder = directory / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    columns = {name: predictions[name].to_numpy() for name in predictions.column_names}
    for figure in model.figures(columns, data.rows("test").row):
        try:
            draw(figure, directory)
        except Exception as error:  # of a type or value from a user's task: the run is trained and tested, stays valid
            reason = f"{type(error).__name__}: {first_line(error)}"
            log.warning("the figure %s is left out: it cannot be drawn (%s)", figure.name, reason)
    lengths = data.lengths(data.rows("train"))
    lengths = lengths if lengths.ndim == 1 else lengths.sum(1)
    if len(np.unique(lengths)) > 1:  # of equal lengths, as of images, a histogram shows nothing
        length_histogram(lengths.tolist(), folder / "lengths.png", unit=data.length_unit)
    lower = {f"val/{name}" for name, score in model.scores().items() if not score.higher_is_better}
    learning_curves(series, folder / "learning_curves.png", {"val/loss", *lower})
