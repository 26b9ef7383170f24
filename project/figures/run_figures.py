"""Draws the figures of a run."""

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from lightrail.datamodules.base import DataModule
from lightrail.lightning_modules.base import TaskModule
from lightrail.project.basics.errors import first_line
from lightrail.project.figures.draw import draw
from lightrail.project.figures.drawing import BLUE, INK, MUTED, ORANGE, page, title

Series = Mapping[str, Sequence[tuple[int, float]]]
"""Metric name -> (step, value) pairs in the order of their steps."""

FEW_POINTS = 30


def learning_curves(
    series: Series, path: Path, monitor: str = "val/loss", lower_is_better: Collection[str] = ("val/loss",)
) -> None:
    """Draw the losses and the monitored metric in large panels, and every other `val/` metric in a small one.

    A line marks the step whose weights are kept: the first that is best by the monitored metric. Series other than
    `train/loss` and `val/` are left out; without any of those nothing is written.

    Args:
        lower_is_better: series of which the lowest point is the best, and not the highest.
    """
    losses = {name: series[name] for name in ("train/loss", "val/loss") if series.get(name)}
    scores = [name for name in sorted(series) if name.startswith("val/") and name != "val/loss" and series[name]]
    large = [Panel("loss", losses)] if losses else []
    large += [Panel(name, {name: series[name]}) for name in scores if name == monitor]
    small = [Panel(name, {name: series[name]}) for name in scores if name != monitor]
    if not large:
        large, small = small, []
    if not large:
        return
    kept = _best(series.get(monitor, ()), monitor in lower_is_better)
    for panel, axes in _laid_out(path, large, small):
        _draw_lines(axes, panel, kept, lower_is_better)


def plain_curves(series: Series, directory: Path, monitor: str) -> None:
    """Draw the learning curves of a plain module, whose metrics are named `val_loss` instead of `val/loss`, or so."""
    folder = directory / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    own = {as_of_a_task(name): points for name, points in series.items()}
    learning_curves(own, folder / "learning_curves.png", as_of_a_task(monitor))


def as_of_a_task(name: str) -> str:
    """Return the name that a series of a plain module would have as one of a task.

    >>> as_of_a_task("val_loss"), as_of_a_task("train_loss_step")
    ('val/loss', 'train/loss')
    """
    stage, _, rest = name.replace("/", "_").partition("_")
    return f"{stage}/{rest.removesuffix('_step')}"


@dataclass(frozen=True)
class Panel:
    """Series that share axes; the last one is of the validation, where there is one."""

    name: str
    lines: Series


def _laid_out(path: Path, large: Sequence[Panel], small: Sequence[Panel]) -> Iterator[tuple[Panel, Axes]]:
    """Yield each panel with its axes: at most three large ones a row, and below them at most four small ones."""
    bands = [(large, min(len(large), 3), 3.6), (small, 4, 1.9)]
    bands = [(panels, in_row, inches * -(-len(panels) // in_row)) for panels, in_row, inches in bands if panels]
    heights = [height for *_, height in bands]
    width = 6.4 if len(large) == 1 and not small else 10.0
    with page(path, width, sum(heights)) as figure:
        parts = figure.subfigures(len(bands), 1, squeeze=False, height_ratios=heights).flat
        for part, (panels, in_row, _) in zip(parts, bands, strict=True):
            places = list(part.subplots(-(-len(panels) // in_row), in_row, squeeze=False).flat)
            for axes in places[len(panels) :]:
                axes.remove()
            yield from zip(panels, places, strict=False)


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


def _draw_lines(axes: Axes, panel: Panel, kept: tuple[int, float] | None, lower_is_better: Collection[str]) -> None:
    for line, points in panel.lines.items():
        steps, values = zip(*points, strict=True)
        is_train = line.startswith("train/")
        color = MUTED if is_train else (ORANGE if panel.name == "loss" else BLUE)
        dots = "o" if len(points) <= FEW_POINTS else ""
        axes.plot(steps, values, color=color, marker=dots, markersize=3, linewidth=1 if is_train else 1.6, label=line)
    title(axes, panel.name, _facts(axes, panel.lines, kept, lower_is_better))
    axes.set_xlabel("optimizer step")
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    if len(panel.lines) > 1:
        axes.legend(loc="upper right")


def _facts(axes: Axes, lines: Series, kept: tuple[int, float] | None, lower_is_better: Collection[str]) -> str:
    """Mark the kept step, ring the best finite validation point, and return both in words."""
    name = next((line for line in lines if line.startswith("val/")), "")
    best = _best(lines.get(name, ()), name in lower_is_better)
    if best is not None:
        axes.plot(
            *best, "o", markersize=9, markerfacecolor="none", markeredgecolor=INK, markeredgewidth=1, clip_on=False
        )
    if kept is None:
        return ""
    axes.axvline(kept[0], color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    value = dict(lines.get(name, ())).get(kept[0])
    if value is None:
        return f"kept: step {kept[0]:,}"
    if best is None or best[0] == kept[0]:
        return f"{value:.4g} at the kept step {kept[0]:,}"
    return f"{value:.4g} kept, best {best[1]:.4g}"


def _best(points: Sequence[tuple[int, float]], is_lower_better: bool) -> tuple[int, float] | None:
    """Return the first of the best points, as checkpoints are kept; None without a finite one."""
    finite = [(step, value) for step, value in points if np.isfinite(value)]
    return (min if is_lower_better else max)(finite, key=lambda point: point[1], default=None)


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
    learning_curves(series, folder / "learning_curves.png", model.monitor, {"val/loss", *lower})
