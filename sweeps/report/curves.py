"""What trials reported while they were trained, with those that were given up: as a page and as a PNG."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import optuna
import plotly.graph_objects as go
from optuna.trial import FrozenTrial, TrialState

from lightrail.project.figures.drawing import BLUE, GRAY, INK, ORANGE, page, title

Kind = Literal["best", "complete", "pruned", "failed"]
COLORS: dict[Kind, str] = {"failed": GRAY, "pruned": ORANGE, "complete": BLUE, "best": INK}
"""In the order in which they are drawn, the last on top."""
WIDTHS: dict[Kind, float] = {"failed": 1.0, "pruned": 1.0, "complete": 1.0, "best": 2.2}


@dataclass(frozen=True)
class Curve:
    """One trial's reports."""

    number: int
    kind: Kind
    steps: Sequence[int]
    values: Sequence[float]

    @property
    def label(self) -> str:
        return f"trial {self.number}" if self.kind == "complete" else f"trial {self.number} ({self.kind})"


def curves_of(study: optuna.Study, best: int | None) -> list[Curve]:
    """Give the trials that reported anything, in the order in which they are drawn.

    Args:
        best: number of the best trial.
    """
    curves = [_curve(trial, best) for trial in study.get_trials(deepcopy=False) if trial.intermediate_values]
    return sorted(curves, key=lambda curve: (list(COLORS).index(curve.kind), curve.number))


def curves_page(curves: Sequence[Curve], metric: str, unit: str) -> go.Figure:
    """Draw them to be read with the mouse."""
    figure = go.Figure(layout={"title": "Reports of the trials", "xaxis_title": unit, "yaxis_title": metric})
    shown: set[Kind] = set()
    for curve in curves:
        symbols = ["circle"] * (len(curve.steps) - 1) + ["x" if curve.kind in ("pruned", "failed") else "circle"]
        figure.add_scatter(
            x=list(curve.steps),
            y=list(curve.values),
            mode="lines+markers",
            name=f"{curve.kind} trials" if curve.kind != "best" else curve.label,
            legendgroup=curve.kind,
            showlegend=curve.kind not in shown,
            line={"color": COLORS[curve.kind], "width": 1.5 * WIDTHS[curve.kind]},
            marker={"symbol": symbols, "size": 6},
            hovertemplate=f"{curve.label}<br>{unit} %{{x}}: %{{y:.4f}}<extra></extra>",
        )
        shown.add(curve.kind)
    return figure


def draw_curves(curves: Sequence[Curve], metric: str, unit: str, path: Path) -> None:
    """Draw them as a PNG."""
    kinds = [curve.kind for curve in curves]
    facts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in reversed(COLORS) if kind in kinds)
    shown: set[Kind] = set()
    with page(path, 7.2, 4.4) as figure:
        axes = figure.subplots()
        for curve in curves:
            label = curve.label if curve.kind == "best" else f"{curve.kind} trials"
            axes.plot(
                curve.steps,
                curve.values,
                marker=".",
                markersize=4,
                color=COLORS[curve.kind],
                linewidth=WIDTHS[curve.kind],
                label="_nolegend_" if curve.kind in shown else label,
            )
            if curve.kind in ("pruned", "failed"):
                axes.plot(curve.steps[-1:], curve.values[-1:], "x", color=COLORS[curve.kind], markersize=7)
            shown.add(curve.kind)
        title(axes, "Reports of the trials", f"{facts}; a cross where a trial was ended")
        axes.set(xlabel=unit, ylabel=metric)
        axes.legend(loc="best")


def _curve(trial: FrozenTrial, best: int | None) -> Curve:
    states: dict[TrialState, Kind] = {TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
    kind: Kind = "best" if trial.number == best else states.get(trial.state, "complete")
    steps, values = zip(*sorted(trial.intermediate_values.items()), strict=True)
    return Curve(trial.number, kind, steps, values)
