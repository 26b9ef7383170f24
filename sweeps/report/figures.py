"""Figures of a study: each as a PNG, made without a browser, and as an interactive figure for the report.

A figure that cannot be drawn yet, such as importances from a single trial, is omitted and named in the log.
"""

import copy
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import optuna
import plotly.graph_objects as go
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from lightrail.project.figures.drawing import BLUE, GRAY, GRID, INK, ORANGE, page, title
from lightrail.sweeps.report.tables import short_names
from lightrail.sweeps.search.definition import Sweep
from lightrail.sweeps.search.outcomes import Outcome
from lightrail.sweeps.search.study import REPORTS, is_finished

log = logging.getLogger(__name__)

FEWEST_FOR_IMPORTANCE = 4
"""Minimum number of complete trials. With fewer, importances depend on which trial happens to be the best."""
DOTS_PER_INCH = 130
NARROWEST_INCHES, INCHES_FOR_SETTING = 8.0, 2.2
MOST_OBJECTIVES_SHOWN = 3
"""Maximum number of axes in a figure of a Pareto front."""
COLORS = {"failed": GRAY, "pruned": ORANGE, "complete": BLUE, "best": INK}
"""Colors of the trials' curves by state, in drawing order: the last is on top."""


def redrawn(outcomes: Sequence[Outcome], sweep: Sweep) -> optuna.Study:
    """Return a study of the finished trials, with short names of settings, for Optuna to draw.

    Intermediate values are a trial's validations by optimizer step; with several seeds one value for each seed, by its
    index.
    """
    names = short_names({name for own in outcomes for name in own.settings})
    ended = {own.number: own for own in outcomes if is_finished(own.trial)}
    study = optuna.create_study(study_name=sweep.name, directions=list(sweep.config.directions))
    study.set_metric_names(sweep.config.metrics)
    # Optuna numbers trials by their position: without this, those after an unfinished trial would change numbers.
    gap = create_trial(state=TrialState.FAIL)
    for number in range(max(ended, default=-1) + 1):
        study.add_trial(_trial(ended[number], names, sweep) if number in ended else gap)
    return study


def _trial(outcome: Outcome, names: dict[str, str], sweep: Sweep) -> FrozenTrial:
    trial = copy.copy(outcome.trial)
    distributions: dict[str, BaseDistribution] = dict(trial.distributions)
    trial.params = {names[name]: value for name, value in outcome.settings.items()}
    trial.distributions = {names[name]: own for name, own in distributions.items()}
    trial.intermediate_values = _reported(outcome, sweep)
    trial.user_attrs = {"run": " ".join(outcome.runs.values())}
    return trial


def _reported(outcome: Outcome, sweep: Sweep) -> dict[int, float]:
    if sweep.compares_seeds:
        return dict(outcome.trial.intermediate_values)
    reports = outcome.trial.user_attrs.get(REPORTS, {})
    first = sweep.config.metrics[0]
    return {int(step): values[first] for own in reports.values() for step, values in own.items()}


@dataclass(frozen=True)
class StudyFigure:
    """A figure of a study, with a function for its interactive form and one for its PNG."""

    name: str
    """Name of its file, without the ending."""
    interactive: Callable[[], go.Figure]
    draw: Callable[[Path], None]


def write_figures(outcomes: Sequence[Outcome], sweep: Sweep, best: int | None, folder: Path) -> list[go.Figure]:
    """Write each figure of a study as a PNG, and return the interactive figures of those that could be drawn.

    Args:
        best: number of the best trial.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = []
    with _quietly():
        for figure in _figures(redrawn(outcomes, sweep), sweep, best):
            try:
                interactive = figure.interactive()
                with mpl.rc_context():  # Optuna sets a style of its own and does not restore the old one
                    figure.draw(folder / f"{figure.name}.png")
            except Exception as error:  # a missing figure is no reason for a sweep to fail
                log.warning("the figure %s is omitted: %s: %s", figure.name, type(error).__name__, error)
            else:
                done.append(interactive)
    return done


def _figures(study: optuna.Study, sweep: Sweep, best: int | None) -> Iterator[StudyFigure]:
    """Yield the figures that can be drawn of a study."""
    trials = study.get_trials(deepcopy=False)
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    varied = varied_settings(complete)
    if complete:
        yield from _for_each_metric("optimization_history", study, sweep)
    else:
        log.info("no complete trial: drawing reported values only")
    if varied:
        metrics = sweep.config.metrics
        yield from _for_each_metric("slice", study, sweep, params=varied)
        named = {"target_name": metrics[0]} if len(metrics) == 1 else {}
        yield _by_optuna("parallel_coordinate", study, params=varied, **named)
    elif complete:
        log.info("no setting varies among the complete trials: slice and parallel coordinates are omitted")
    if varied and len(complete) >= FEWEST_FOR_IMPORTANCE and len({tuple(trial.values) for trial in complete}) > 1:
        yield from _for_each_metric("param_importances", study, sweep, params=varied)
    elif complete:
        log.info("importances need %d complete trials that differ: omitted", FEWEST_FOR_IMPORTANCE)
    if complete and 1 < len(sweep.config.metrics) <= MOST_OBJECTIVES_SHOWN:
        yield _by_optuna("pareto_front", study, target_names=sweep.config.metrics)
    if any(trial.intermediate_values for trial in trials):
        curves = _curves(trials, best, sweep)
        yield StudyFigure("intermediate_values", lambda: curves, lambda path: _draw_curves(curves, path))


def varied_settings(trials: Sequence[FrozenTrial]) -> list[str]:
    """Return the names of the settings that have more than one value among these trials."""
    names = {name for trial in trials for name in trial.params}
    return sorted(name for name in names if len({repr(trial.params.get(name)) for trial in trials}) > 1)


def _for_each_metric(kind: str, study: optuna.Study, sweep: Sweep, **arguments: Any) -> Iterator[StudyFigure]:
    metrics, directions = sweep.config.metrics, sweep.config.directions
    for place, (metric, direction) in enumerate(zip(metrics, directions, strict=True)):
        name, target, is_of_importances = kind, {}, kind == "param_importances"
        if len(metrics) > 1:
            name += f"_{metric.removeprefix('val/').replace('/', '_')}"
        if len(metrics) > 1 or is_of_importances:
            # Optuna's importances explain low values: a metric to be maximized is negated
            target = {"target": _value_at(place, -1 if is_of_importances and direction == "maximize" else 1)}
        yield _by_optuna(kind, study, name, target_name=metric, **target, **arguments)


def _value_at(place: int, sign: int) -> Callable[[FrozenTrial], float]:
    return lambda trial: sign * float(trial.values[place])


def _by_optuna(kind: str, study: optuna.Study, name: str = "", **arguments: Any) -> StudyFigure:
    """A figure of Optuna's, interactive by plotly and as a PNG by matplotlib."""
    metric = arguments.get("target_name", "")

    def interactive() -> go.Figure:
        from optuna import visualization

        own = getattr(visualization, f"plot_{kind}")(study, **arguments)
        return own.update_layout(title_text=f"{kind.replace('_', ' ').capitalize()}{metric and f': {metric}'}")

    def draw(path: Path) -> None:
        import optuna.visualization.matplotlib as stills
        from matplotlib import pyplot

        try:
            getattr(stills, f"plot_{kind}")(study, **arguments)
            figure = pyplot.gcf()
            figure.set_size_inches(max(NARROWEST_INCHES, INCHES_FOR_SETTING * len(arguments.get("params", ()))), 4.8)
            for axes in figure.axes:
                axes.set_facecolor("white")
                if kind == "slice":
                    axes.tick_params(axis="x", labelrotation=45)
                axes.grid(visible=False) if kind == "parallel_coordinate" else axes.grid(color=GRID)
            figure.savefig(path, dpi=DOTS_PER_INCH, bbox_inches="tight")
        finally:
            pyplot.close("all")

    return StudyFigure(name or kind, interactive, draw)


def _curves(trials: Sequence[FrozenTrial], best: int | None, sweep: Sweep) -> go.Figure:
    """Reported values of the trials, interactive; a cross ends the curve of a pruned or failed trial."""
    unit, metric = "seed" if sweep.compares_seeds else "optimizer step", sweep.config.metrics[0]
    figure = go.Figure(layout={"title": "Reports of the trials", "xaxis_title": unit, "yaxis_title": metric})
    reported = [(_kind(trial, best), trial) for trial in trials if trial.intermediate_values]
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


def _kind(trial: FrozenTrial, best: int | None) -> str:
    ended = {TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
    return "best" if trial.number == best else ended.get(trial.state, "complete")


def _draw_curves(curves: go.Figure, path: Path) -> None:
    counts = Counter(curve.legendgroup for curve in curves.data)
    facts = ", ".join(f"{counts[kind]} {kind}" for kind in reversed(COLORS) if kind in counts)
    with page(path, 7.2, 4.4) as figure:
        axes = figure.subplots()
        for curve in curves.data:
            label = curve.name if curve.showlegend else "_nolegend_"
            style = {"color": curve.line.color, "linewidth": curve.line.width / 1.5}
            axes.plot(curve.x, curve.y, marker=".", markersize=4, label=label, **style)
            if curve.marker.symbol[-1] == "x":
                axes.plot(curve.x[-1:], curve.y[-1:], "x", markersize=7, **style)
        title(axes, curves.layout.title.text, f"{facts}; a cross where a trial was ended")
        axes.set(xlabel=curves.layout.xaxis.title.text, ylabel=curves.layout.yaxis.title.text)
        axes.legend(loc="best")


@contextmanager
def _quietly() -> Iterator[None]:
    """Draw without a display; of Optuna's warnings log only the one about unreliable importances."""
    mpl.use("agg")
    before = optuna.logging.get_verbosity()
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            yield
        finally:
            optuna.logging.set_verbosity(before)
    for message in sorted({str(warning.message) for warning in heard}):
        if "importance of the parameter may be inaccurate" in message:
            log.info("%s", message)
