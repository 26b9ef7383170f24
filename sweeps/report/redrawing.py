"""The study as pictures show it: in memory, trials by the numbers under which they began, settings by short names."""

import copy
from collections.abc import Sequence

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from lightrail.sweeps.search.definition import Sweep
from lightrail.sweeps.search.outcomes import Outcome
from lightrail.sweeps.report.names import short_names
from lightrail.sweeps.search.study import REPORTS, is_finished


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
