"""The picture of a comparison: for each metric the differences to the first run, with their intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from lightrail.project.comparing.comparison import Comparison
from lightrail.project.comparing.measuring import Difference
from lightrail.project.comparing.words import number, probability
from lightrail.project.figures.drawing import drawable, page

MAX_NAME_CHARACTERS = 28
WIDTH_INCHES = 8.6
ROW_INCHES, PANEL_INCHES = 0.34, 0.78
"""Height of a run, and of what a metric's panel needs besides its runs."""


@dataclass(frozen=True)
class Palette:
    """Colours of one picture. Better and worse can be told apart by people who see no red or no green."""

    paper: str
    ink: str
    muted: str
    line: str
    better: str
    worse: str
    unclear: str


LIGHT = Palette("#ffffff", "#1f2933", "#6b7785", "#dfe4ea", "#2f6fdb", "#d9660a", "#8d99a6")
DARK = Palette("#161b22", "#e6edf3", "#9aa7b4", "#30363d", "#6ea8fe", "#ff9d4d", "#8b949e")


def forest_plot(comparison: Comparison, palette: Palette, path: Path) -> None:
    """Draw a panel for each metric and in it a line for each run, coloured where a difference is shown."""
    by_metric: dict[str, list[Difference]] = {}
    for difference in comparison.measured.differences:
        by_metric.setdefault(difference.metric, []).append(difference)
    height = sum(PANEL_INCHES + ROW_INCHES * len(own) for own in by_metric.values())
    with page(path, WIDTH_INCHES, height) as figure:
        figure.set_facecolor(palette.paper)
        figure.set_layout_engine("constrained", hspace=0.12)
        ratios = [PANEL_INCHES + ROW_INCHES * len(own) for own in by_metric.values()]
        panels = figure.subplots(len(by_metric), 1, squeeze=False, height_ratios=ratios)[:, 0]
        for axes, (metric, differences) in zip(panels, by_metric.items(), strict=True):
            _draw_panel(axes, metric, differences, comparison, palette)


def _draw_panel(
    axes: Axes, metric: str, differences: Sequence[Difference], comparison: Comparison, palette: Palette
) -> None:
    _draw_ground(axes, palette)
    names = [drawable(comparison.label(own.side), MAX_NAME_CHARACTERS) for own in differences]
    for row, own in enumerate(differences):
        _draw_difference(axes, row, own, palette)
    axes.set_yticks(range(len(names)), names)
    axes.set(ylim=(len(names) - 0.4, -0.6), xlim=_limits(differences))
    axes.set_title(metric, loc="left", fontsize=10, color=palette.ink, fontweight="bold", pad=6)
    axes.annotate(
        "better →" if comparison.higher_is_better[metric] else "← better",
        (1, 1),
        (0, 7),
        xycoords="axes fraction",
        textcoords="offset points",
        ha="right",
        color=palette.better,
        fontsize=8,
    )


def _draw_ground(axes: Axes, palette: Palette) -> None:
    axes.set_facecolor(palette.paper)
    axes.grid(visible=True, axis="x", color=palette.line, linewidth=0.8)
    axes.grid(visible=False, axis="y")
    axes.axvline(0, color=palette.ink, linewidth=1.1, zorder=2)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.tick_params(axis="x", colors=palette.muted, length=0, labelsize=8)
    axes.tick_params(axis="y", colors=palette.ink, length=0, labelsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: "0" if abs(value) < 1e-12 else f"{value:+g}"))


def _draw_difference(axes: Axes, row: int, own: Difference, palette: Palette) -> None:
    color = palette.unclear
    if own.is_shown:
        color = palette.better if own.is_better else palette.worse
    if np.isfinite([own.value, own.low, own.high]).all():
        axes.plot([own.low, own.high], [row, row], color=color, linewidth=2.4, solid_capstyle="round", zorder=3)
        marker = color if own.is_shown else palette.paper
        axes.plot(
            [own.value], [row], "o", markersize=7.5, color=color, markerfacecolor=marker, markeredgewidth=1.8, zorder=4
        )
    axes.annotate(
        f"{number(own.value, is_signed=True)}   p {probability(own.corrected_p)}",
        (1, row),
        (8, 0),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        va="center",
        color=color if own.is_shown else palette.muted,
        fontsize=8.5,
        annotation_clip=False,
    )


def _limits(differences: Sequence[Difference]) -> tuple[float, float]:
    """Zero and all intervals, with some air; equal runs get an axis too."""
    ends = [end for own in differences for end in (own.low, own.high, own.value) if np.isfinite(end)]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    air = 0.08 * (high - low) or 1.0
    return low - air, high + air
