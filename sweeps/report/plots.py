"""Interactive figures of a study's trials, as plotly draws them; `still.py` draws the same ones as images.

Every colour can be seen on white and on black paper, and states differ in their symbols too: a dot is a complete trial,
a cross a pruned or failed one at the last value that it reported, a star the best.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from matplotlib.colors import LinearSegmentedColormap, to_hex
from numpy.typing import NDArray
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState
from plotly.subplots import make_subplots

from lightrail.project.figures.drawing import BLUE, MUTED, ORANGE
from lightrail.sweeps.report.tables import short_value

GRAY, MAGENTA, LINES = "#8d99a6", "#d6336c", "rgba(128, 138, 150, 0.28)"
COLORS = {"failed": GRAY, "pruned": ORANGE, "complete": BLUE, "best": MAGENTA}
"""Colours of the trials by state, in drawing order: the last is on top."""
SYMBOLS = {"failed": "x", "pruned": "x", "complete": "circle", "best": "star"}
WORST_TO_BEST = LinearSegmentedColormap.from_list("worst to best", [ORANGE, "#a79fa8", BLUE])
MOST_TICKS = 12
"""Maximum number of values written at an axis of the parallel coordinates."""


@dataclass(frozen=True)
class Objective:
    """One of a study's metrics."""

    place: int
    metric: str
    is_maximized: bool

    def value(self, trial: FrozenTrial) -> float | None:
        """Return a trial's value; of one that was pruned the last that it reported, which only the first metric has."""
        if trial.state == TrialState.COMPLETE:
            return float(trial.values[self.place])
        reported = trial.intermediate_values
        return float(reported[max(reported)]) if reported and self.place == 0 else None


def kind_of(trial: FrozenTrial, best: int | None) -> str:
    """Return `best`, `complete`, `pruned` or `failed`, the keys of `COLORS`."""
    ended = {TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
    return "best" if trial.number == best else ended.get(trial.state, "complete")


def history(trials: Sequence[FrozenTrial], best: int | None, objective: Objective) -> go.Figure:
    """Draw each trial's value by its number, and the best value so far."""
    figure = _blank(f"Value of each trial: {objective.metric}", "trial", objective.metric)
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    values = np.array([objective.value(trial) for trial in complete], np.float64)
    so_far = np.maximum.accumulate(values) if objective.is_maximized else np.minimum.accumulate(values)
    numbers = [trial.number for trial in complete]
    line = {"color": MUTED, "width": 1.5, "shape": "hv"}
    figure.add_scatter(x=numbers, y=so_far, mode="lines", line=line, name="best so far", hoverinfo="skip")
    _add_points(figure, trials, best, objective, lambda trial: trial.number)
    return figure


def slices(trials: Sequence[FrozenTrial], best: int | None, objective: Objective, names: Sequence[str]) -> go.Figure:
    """Draw each trial's value by each of its settings, one panel for a setting."""
    figure = make_subplots(1, len(names), shared_yaxes=True, horizontal_spacing=min(0.04, 0.5 / len(names)))
    _style(figure, f"Value by setting: {objective.metric}")
    figure.update_yaxes(title_text=objective.metric, row=1, col=1)
    for column, name in enumerate(names, start=1):
        having = [trial for trial in trials if name in trial.params]
        is_number, is_log = _scale(having, name)
        places = {} if is_number else {text: place for place, text in enumerate(_choices(having, name))}
        figure.update_xaxes(title_text=name, type="log" if is_log else "linear", col=column)
        if not is_number:
            figure.update_xaxes(tickvals=[*places.values()], ticktext=[*places], col=column)
            figure.update_xaxes(range=[-0.5, len(places) - 0.5], col=column)

        def x(trial: FrozenTrial, name: str = name, places: Mapping[str, int] = places) -> float:
            value = trial.params[name]
            return places[short_value(value)] if places else float(value)

        _add_points(figure, having, best, objective, x, column)
    return figure


def parallel(trials: Sequence[FrozenTrial], objective: Objective, names: Sequence[str]) -> go.Figure:
    """Draw each complete trial as a line over its settings and its value, from orange (worst) to blue (best)."""
    figure = _blank(f"Settings and value: {objective.metric}", "", "")
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    values = np.array([objective.value(trial) for trial in complete], np.float64)
    ranks = _unit(values if objective.is_maximized else -values)
    axes = [_axis_of(complete, name) for name in names] + [
        _Axis.of_numbers(objective.metric, values.tolist(), is_log=False)
    ]
    figure.update_xaxes(tickvals=[*range(len(axes))], ticktext=[axis.name for axis in axes], showgrid=False)
    figure.update_xaxes(range=[-0.3, len(axes) - 0.6])
    figure.update_yaxes(visible=False, range=[-0.08, 1.08])
    for place, axis in enumerate(axes):
        figure.add_scatter(x=[place, place], y=[0, 1], mode="lines", line={"color": GRAY, "width": 1}, hoverinfo="skip")
        for height, text in axis.ticks:
            figure.add_annotation(x=place, y=height, text=text, showarrow=False, xanchor="left", xshift=4, font_size=10)
    for number in np.argsort(ranks, kind="stable"):  # the best on top
        hidden = [place for place, axis in enumerate(axes) if axis.heights[number] is None]
        figure.add_scatter(
            x=[place for place in range(len(axes)) if place not in hidden],
            y=[axis.heights[number] for place, axis in enumerate(axes) if place not in hidden],
            mode="lines",
            line={"color": to_hex(WORST_TO_BEST(ranks[number])), "width": 1.6},
            hovertemplate=f"trial {complete[number].number}: {values[number]:.4f}<extra></extra>",
        )
    return figure.update_layout(showlegend=False, hovermode="closest")


def importances(shares: Mapping[str, float], metric: str) -> go.Figure:
    """Draw the settings' importances, which add up to 1, as bars."""
    figure = _blank(f"Importance of the settings: {metric}", "fraction of the variance explained", "")
    ordered = sorted(shares.items(), key=lambda item: item[1])
    texts = [f"{share:.2f}" for _, share in ordered]
    bars = {"x": [share for _, share in ordered], "y": [name for name, _ in ordered], "text": texts}
    return figure.add_bar(**bars, orientation="h", marker_color=BLUE, textposition="outside", cliponaxis=False)


def pareto_front(trials: Sequence[FrozenTrial], front: Collection[int], objectives: Sequence[Objective]) -> go.Figure:
    """Draw the first metric against each other one, in a panel each; stars are the trials that no other dominates."""
    first, *others = objectives
    figure = make_subplots(1, len(others), horizontal_spacing=0.12)
    _style(figure, "Pareto front")
    for column, other in enumerate(others, start=1):
        figure.update_xaxes(title_text=other.metric, col=column).update_yaxes(title_text=first.metric, col=column)
        for kind, name in (("complete", "other trials"), ("best", "Pareto front")):
            own = [trial for trial in trials if (trial.number in front) == (kind == "best")]
            figure.add_trace(_points(own, kind, name, other.value, first, in_legend=column == 1), row=1, col=column)
    return figure


def curves(trials: Sequence[FrozenTrial], best: int | None, metric: str, unit: str) -> go.Figure:
    """Draw the reported values of the trials by `unit`; a cross ends the curve of a pruned or failed trial."""
    figure = _blank("Reports of the trials", unit, metric)
    reported = [(kind_of(trial, best), trial) for trial in trials if trial.intermediate_values]
    shown = set()
    for kind, trial in sorted(reported, key=lambda pair: (list(COLORS).index(pair[0]), pair[1].number)):
        label = f"trial {trial.number}" if kind == "complete" else f"trial {trial.number} ({kind})"
        steps, values = zip(*sorted(trial.intermediate_values.items()), strict=True)
        figure.add_scatter(
            x=steps,
            y=values,
            mode="lines+markers",
            name=label if kind == "best" else f"{kind} trials",
            legendgroup=kind,
            showlegend=kind not in shown,
            line={"color": COLORS[kind], "width": 3.3 if kind == "best" else 1.5},
            marker={"symbol": [*["circle"] * (len(steps) - 1), "x" if kind in ("pruned", "failed") else "circle"]},
            hovertemplate=f"{label}<br>{unit} %{{x}}: %{{y:.4f}}<extra></extra>",
        )
        shown.add(kind)
    return figure.update_traces(marker_size=6)


def _add_points(
    figure: go.Figure, trials: Sequence[FrozenTrial], best: int | None, objective: Objective, x: Any, column: int = 1
) -> None:
    for kind in COLORS:
        own = [trial for trial in trials if kind_of(trial, best) == kind and objective.value(trial) is not None]
        name = f"trial {best}, the best" if kind == "best" else f"{kind} trials"
        if own:
            is_new = all(trace.legendgroup != kind for trace in figure.data)
            figure.add_trace(_points(own, kind, name, x, objective, in_legend=is_new), row=1, col=column)


def _points(
    trials: Sequence[FrozenTrial],
    kind: str,
    name: str,
    x: Callable[[FrozenTrial], Any],
    y: Objective,
    *,
    in_legend: bool,
) -> go.Scatter:
    return go.Scatter(
        x=[x(trial) for trial in trials],
        y=[y.value(trial) for trial in trials],
        mode="markers",
        name=name,
        legendgroup=kind,
        showlegend=in_legend,
        marker={"color": COLORS[kind], "symbol": SYMBOLS[kind], "size": 13 if kind == "best" else 8},
        text=[f"trial {trial.number}" for trial in trials],
        hovertemplate="%{text}<br>%{x}: %{y:.4f}<extra></extra>",
    )


def _blank(title: str, x: str, y: str) -> go.Figure:
    figure = make_subplots(1, 1)
    _style(figure, title)
    return figure.update_xaxes(title_text=x).update_yaxes(title_text=y)


def _style(figure: go.Figure, title: str) -> None:
    # Transparent, with grays in between: the page below is white or black as its reader prefers.
    clear = "rgba(0, 0, 0, 0)"
    figure.update_layout(title_text=title, template="none", paper_bgcolor=clear, plot_bgcolor=clear)
    figure.update_layout(font={"color": MUTED, "family": "system-ui, sans-serif"})
    figure.update_layout(title={"x": 0.01, "y": 0.97, "yanchor": "top"}, margin={"t": 110, "r": 30})
    figure.update_layout(legend={"orientation": "h", "x": 0, "y": 1.01, "yanchor": "bottom"})
    figure.update_xaxes(gridcolor=LINES, zeroline=False, automargin=True, exponentformat="power")
    figure.update_yaxes(gridcolor=LINES, zeroline=False, automargin=True)


@dataclass(frozen=True)
class _Axis:
    """One upright axis of the parallel coordinates."""

    name: str
    heights: Sequence[float | None]
    """Place of each trial between 0 and 1; None for one without the setting."""
    ticks: Sequence[tuple[float, str]]
    """Heights at which a value is written."""

    @staticmethod
    def of_numbers(name: str, values: Sequence[float | None], *, is_log: bool) -> "_Axis":
        known = np.array([value for value in values if value is not None], np.float64)
        heights = iter(_unit(np.log(known) if is_log else known).tolist())
        ends = ((0.0, known.min()), (1.0, known.max())) if known.min() < known.max() else ((0.5, known.min()),)
        ticks = [(height, short_value(float(value))) for height, value in ends]
        return _Axis(name, [None if value is None else next(heights) for value in values], ticks)


def _axis_of(trials: Sequence[FrozenTrial], name: str) -> _Axis:
    values: list[Any] = [trial.params.get(name, _ABSENT) for trial in trials]
    is_number, is_log = _scale([trial for trial in trials if name in trial.params], name)
    if is_number:
        return _Axis.of_numbers(name, [None if value is _ABSENT else float(value) for value in values], is_log=is_log)
    texts = [None if value is _ABSENT else short_value(value) for value in values]
    choices = _choices([trial for trial in trials if name in trial.params], name)
    places = dict(zip(choices, _unit(np.arange(len(choices), dtype=np.float64)).tolist(), strict=True))
    ticks = [(height, text) for text, height in places.items()]
    return _Axis(name, [None if text is None else places[text] for text in texts], ticks[:MOST_TICKS])


_ABSENT: Any = object()


def _choices(trials: Sequence[FrozenTrial], name: str) -> list[str]:
    """Return the values of a setting as texts, numbers before texts and each in their order."""
    values = {short_value(trial.params[name]): trial.params[name] for trial in trials}
    numbers = [text for text, value in values.items() if isinstance(value, int | float)]
    return [*sorted(numbers, key=lambda text: float(values[text])), *sorted(values.keys() - set(numbers))]


def _scale(trials: Sequence[FrozenTrial], name: str) -> tuple[bool, bool]:
    """Return whether a setting's values are numbers of a range, and whether that is logarithmic."""
    distributions = [trial.distributions.get(name) for trial in trials]
    ranges = [own for own in distributions if isinstance(own, FloatDistribution | IntDistribution)]
    is_number = bool(ranges) and len(ranges) == len(distributions)
    return is_number, is_number and all(own.log for own in ranges)


def _unit(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale values to between 0 and 1; equal ones, and those that are not finite, to 0.5."""
    finite = values[np.isfinite(values)]
    if not finite.size or finite.min() == finite.max():
        return np.full(len(values), 0.5)
    scaled = (values - finite.min()) / (finite.max() - finite.min())
    return np.clip(np.where(np.isnan(scaled), 0.5, scaled), 0, 1)
