"""The figures of a study: which of them can be drawn, each as a PNG and as an interactive figure for the report.

A figure that cannot be drawn yet, such as importances from a single trial, is omitted and named in the log.
"""

import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import optuna
import plotly.graph_objects as go
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from lightrail.sweeps.report.plots import Objective, curves, history, importances, parallel, pareto_front, slices
from lightrail.sweeps.report.still import draw_still
from lightrail.sweeps.report.tables import short_names
from lightrail.sweeps.search.definition import Sweep
from lightrail.sweeps.search.outcomes import Outcome
from lightrail.sweeps.search.study import REPORTS, is_finished

log = logging.getLogger(__name__)

FEWEST_FOR_IMPORTANCE = 4
"""Minimum number of complete trials. With fewer, importances depend on which trial happens to be the best."""


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


def write_figures(outcomes: Sequence[Outcome], sweep: Sweep, best: int | None, folder: Path) -> list[go.Figure]:
    """Write each figure of a study as a PNG, and return the interactive figures.

    Args:
        best: number of the best trial.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = []
    with _quietly():
        for name, make in _figures(redrawn(outcomes, sweep), sweep, best):
            try:
                figure = make()
                draw_still(figure, folder / f"{name}.png")
            except Exception as error:  # a missing figure is no reason for a sweep to fail
                log.warning("the figure %s is omitted: %s: %s", name, type(error).__name__, error)
            else:
                done.append(figure)
    return done


def _figures(study: optuna.Study, sweep: Sweep, best: int | None) -> Iterator[tuple[str, Callable[[], go.Figure]]]:
    """Yield name of the file and function that makes it, for each figure that can be drawn of a study."""
    trials = study.get_trials(deepcopy=False)
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    ended = [trial for trial in trials if trial.state == TrialState.COMPLETE or trial.intermediate_values]
    varied = varied_settings(complete)
    if not complete:
        log.info("no complete trial: drawing reported values only")
    elif not varied:
        log.info("no setting varies among the complete trials: slice and parallel coordinates are omitted")
    can_explain = varied and len(complete) >= FEWEST_FOR_IMPORTANCE and len({tuple(own.values) for own in complete}) > 1
    if complete and not can_explain:
        log.info("importances need %d complete trials that differ: omitted", FEWEST_FOR_IMPORTANCE)
    for objective, ending in _objectives(sweep) if complete else ():
        yield f"optimization_history{ending}", partial(history, ended, best, objective)
        if varied:
            yield f"slice{ending}", partial(slices, ended, best, objective, varied)
            yield f"parallel_coordinate{ending}", partial(parallel, complete, objective, varied)
        if can_explain:
            yield f"param_importances{ending}", partial(_explained, study, objective, varied)
    if complete and len(sweep.config.metrics) > 1:
        yield (
            "pareto_front",
            partial(
                pareto_front,
                complete,
                {own.number for own in study.best_trials},
                [own for own, _ in _objectives(sweep)],
            ),
        )
    if any(trial.intermediate_values for trial in trials):
        unit = "seed" if sweep.compares_seeds else "optimizer step"
        yield "intermediate_values", partial(curves, trials, best, sweep.config.metrics[0], unit)


def _objectives(sweep: Sweep) -> list[tuple[Objective, str]]:
    """Return the metrics of a sweep, each with the ending of its files' names: none where there is one metric."""
    metrics = sweep.config.metrics
    endings = [f"_{name.removeprefix('val/').replace('/', '_')}" if len(metrics) > 1 else "" for name in metrics]
    pairs = zip(metrics, sweep.config.directions, strict=True)
    objectives = [Objective(place, name, way == "maximize") for place, (name, way) in enumerate(pairs)]
    return list(zip(objectives, endings, strict=True))


def varied_settings(trials: Sequence[FrozenTrial]) -> list[str]:
    """Return the names of the settings that have more than one value among these trials."""
    names = {name for trial in trials for name in trial.params}
    return sorted(name for name in names if len({repr(trial.params.get(name)) for trial in trials}) > 1)


def _explained(study: optuna.Study, objective: Objective, names: Sequence[str]) -> go.Figure:
    """Draw the importances of settings for one metric."""
    # Optuna's default evaluator explains low values: a metric to be maximized is negated.
    sign = -1 if objective.is_maximized else 1

    def target(trial: FrozenTrial) -> float:
        return sign * float(trial.values[objective.place])

    return importances(
        optuna.importance.get_param_importances(study, params=list(names), target=target), objective.metric
    )


@contextmanager
def _quietly() -> Iterator[None]:
    """Of Optuna's warnings log only the one about unreliable importances."""
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
