"""Pictures of a study: each as a page that stands alone, with all that draws it, and as a PNG made without a browser.

What cannot be drawn yet, such as the importances of the settings of one trial, is left out and named in the log.
"""

import copy
import logging
import warnings
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

from lightrail.project.figures.drawing import GRID
from lightrail.sweeps.report.curves import curves_of, curves_page, draw_curves
from lightrail.sweeps.report.tables import short_names
from lightrail.sweeps.search.definition import Sweep
from lightrail.sweeps.search.outcomes import Outcome
from lightrail.sweeps.search.study import REPORTS, is_finished

log = logging.getLogger(__name__)

FEWEST_FOR_IMPORTANCE = 4
"""Complete trials. With fewer, what decides is which one happens to be the best."""
DOTS_PER_INCH = 130
NARROWEST_INCHES, INCHES_FOR_SETTING = 8.0, 2.2
MOST_OBJECTIVES_SHOWN = 3
"""Axes of a picture of a Pareto front."""


def redrawn(outcomes: Sequence[Outcome], sweep: Sweep) -> optuna.Study:
    """Give a study of the finished trials.

    What a trial reported are its validations by optimizer step; of a trial with several seeds one value for each seed,
    by the place of the seed.
    """
    names = short_names({name for own in outcomes for name in own.settings})
    ended = {own.number: own for own in outcomes if is_finished(own.trial)}
    study = optuna.create_study(study_name=sweep.name, directions=list(sweep.config.directions))
    study.set_metric_names(sweep.config.metrics)
    # A trial that is not finished leaves a gap, which Optuna's numbers have no other way to show.
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
class Picture:
    """One picture."""

    name: str
    """Of its files."""
    page: Callable[[], go.Figure]
    draw: Callable[[Path], None]


def write_pictures(outcomes: Sequence[Outcome], sweep: Sweep, best: int | None, folder: Path) -> list[go.Figure]:
    """Write each picture as HTML and PNG.

    Args:
        best: number of the best trial.

    Returns: the pages of those that could be drawn.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = []
    with _quietly():
        for picture in pictures_of(redrawn(outcomes, sweep), sweep, best):
            try:
                own = picture.page()
                own.write_html(folder / f"{picture.name}.html", include_plotlyjs=True)
                with mpl.rc_context():  # Optuna sets a style of its own, and leaves it so
                    picture.draw(folder / f"{picture.name}.png")
            except Exception as error:  # a sweep does not end badly for want of a picture
                log.warning("the picture %s is left out: %s: %s", picture.name, type(error).__name__, error)
            else:
                done.append(own)
    return done


def pictures_of(study: optuna.Study, sweep: Sweep, best: int | None) -> Iterator[Picture]:
    """Give what can be drawn of a study."""
    complete = [trial for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.COMPLETE]
    varied = varied_settings(complete)
    if complete:
        yield from _for_each_metric("optimization_history", study, sweep)
    else:
        log.info("no trial is complete: there is nothing to draw but what was reported")
    if varied:
        yield from _for_each_metric("slice", study, sweep, params=varied)
        yield _by_optuna("parallel_coordinate", study, params=varied, **_name_of_one(sweep))
    elif complete:
        log.info("no setting varies among the complete trials: slice and parallel coordinates are left out")
    if varied and len(complete) >= FEWEST_FOR_IMPORTANCE and _differ(complete):
        yield from _importances(study, sweep, varied)
    elif complete:
        log.info("importances need %d complete trials that differ: left out", FEWEST_FOR_IMPORTANCE)
    if complete and 1 < len(sweep.config.metrics) <= MOST_OBJECTIVES_SHOWN:
        yield _by_optuna("pareto_front", study, target_names=sweep.config.metrics)
    curves = curves_of(study, best)
    if curves:
        metric, unit = sweep.config.metrics[0], "seed" if sweep.compares_seeds else "optimizer step"
        yield Picture(
            "intermediate_values",
            lambda: curves_page(curves, metric, unit),
            lambda path: draw_curves(curves, metric, unit, path),
        )


def varied_settings(trials: Sequence[FrozenTrial]) -> list[str]:
    """Give the settings of which these trials have more than one value."""
    names = {name for trial in trials for name in trial.params}
    return sorted(name for name in names if len({repr(trial.params.get(name)) for trial in trials}) > 1)


def _name_of_one(sweep: Sweep) -> dict[str, str]:
    return {"target_name": sweep.config.metrics[0]} if len(sweep.config.metrics) == 1 else {}


def _differ(trials: Sequence[FrozenTrial]) -> bool:
    return len({tuple(trial.values) for trial in trials}) > 1


def _for_each_metric(kind: str, study: optuna.Study, sweep: Sweep, **arguments: Any) -> Iterator[Picture]:
    metrics = sweep.config.metrics
    if len(metrics) == 1:
        yield _by_optuna(kind, study, target_name=metrics[0], **arguments)
        return
    for place, metric in enumerate(metrics):
        name = kind + _ending(metric, sweep)
        yield _by_optuna(kind, study, name=name, target=_value_at(place), target_name=metric, **arguments)


def _importances(study: optuna.Study, sweep: Sweep, varied: list[str]) -> Iterator[Picture]:
    """Of each metric; Optuna would find out what makes a metric low where it is to be high."""
    for place, (metric, direction) in enumerate(zip(sweep.config.metrics, sweep.config.directions, strict=True)):
        name = "param_importances" + _ending(metric, sweep)
        target = _value_at(place, -1 if direction == "maximize" else 1)
        yield _by_optuna("param_importances", study, name=name, params=varied, target=target, target_name=metric)


def _value_at(place: int, sign: int = 1) -> Callable[[FrozenTrial], float]:
    return lambda trial: sign * float(trial.values[place])


def _ending(metric: str, sweep: Sweep) -> str:
    """What tells the pictures of several metrics apart."""
    return "" if len(sweep.config.metrics) == 1 else f"_{metric.removeprefix('val/').replace('/', '_')}"


def _by_optuna(kind: str, study: optuna.Study, name: str = "", **arguments: Any) -> Picture:
    """A picture that Optuna draws both ways."""
    metric = arguments.get("target_name", "")

    def draw_page() -> go.Figure:
        import optuna.visualization as pages

        own = getattr(pages, f"plot_{kind}")(study, **arguments)
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

    return Picture(name or kind, draw_page, draw)


@contextmanager
def _quietly() -> Iterator[None]:
    """Optuna's pictures need no screen, and of what it warns of only what is said about the study is told."""
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
