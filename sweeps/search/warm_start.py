"""What a study is told before its first trial: configurations to begin with, and what earlier trainings gave."""

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import optuna
import yaml
from optuna.storages import RDBStorage
from optuna.trial import FixedTrial, TrialState, create_trial

from lightrail.project.basics.errors import ConfigError
from lightrail.sweeps.search.definition import Sweep
from lightrail.sweeps.search.earlier_runs import Earlier, earlier_runs
from lightrail.sweeps.search.space import Branches, Distribution, Space
from lightrail.sweeps.search.study import IDENTITY, WARM_START

log = logging.getLogger(__name__)


def points_to_begin_with(sweep: Sweep) -> list[dict[str, Any]]:
    """Give the points of `enqueue` as the sampler is told them.

    Raises: ConfigError naming the point and the value that is outside of the space.
    """
    known = dict(_by_label(sweep.space))
    points = []
    for number, point in enumerate(sweep.config.enqueue):
        points.append({name: _told(known[name], value, f"enqueue.{number}.{name}") for name, value in point.items()})
    return points


def enqueue(study: optuna.Study, sweep: Sweep) -> None:
    """Have the points of `enqueue` tried first; what they leave open the sampler chooses. None is added twice.

    Raises: ConfigError naming the point and the value that is outside of the space.
    """
    for point in points_to_begin_with(sweep):
        study.enqueue_trial(point, skip_if_exists=True)


def warm_start(study: optuna.Study, storage: RDBStorage, sweep: Sweep) -> None:
    """Add what earlier trainings gave, for the sampler to learn from; it does not count as trials of this sweep.

    None is added twice. Those outside of the space are left out, and counted in the log.

    Raises: ConfigError when there is no such study or run, or it is of another task.
    """
    known = {trial.user_attrs.get(WARM_START) for trial in study.get_trials(deepcopy=False)}
    for name in sweep.config.warm_start:
        found = list(_earlier(study, storage, sweep, name))
        usable = [one for one in found if one is not None]
        for one in usable:
            if one.source not in known:
                study.add_trial(_as_trial(one, sweep))
        num_outside = len(found) - len(usable)
        log.info("warm start from %s: %d trainings; %d are outside of the space", name, len(usable), num_outside)


def _earlier(study: optuna.Study, storage: RDBStorage, sweep: Sweep, name: str) -> Iterator[Earlier | None]:
    if name == study.study_name:
        raise ConfigError(f"warm_start: {name} is this study itself. Name another one.")
    if name not in optuna.get_all_study_names(storage):
        try:
            yield from earlier_runs(sweep, name)
        except ConfigError as error:
            raise ConfigError(f"warm_start: {name} is no study of {sweep.config.storage}; as a run: {error}") from error
        return
    before = optuna.load_study(study_name=name, storage=storage)
    _check_goal(before, sweep)
    known = dict(_by_label(sweep.space))
    for trial in before.get_trials(deepcopy=False, states=[TrialState.COMPLETE]):
        params = _in_space(trial.params, known)
        source = trial.user_attrs.get(WARM_START, f"trial {trial.number} of {name}")
        yield Earlier(source, params, trial.values) if params is not None and _is_whole(params, sweep) else None


def _check_goal(before: optuna.Study, sweep: Sweep) -> None:
    goal = yaml.safe_load(before.user_attrs.get(IDENTITY, "{}"))
    for what, own in (("metric", sweep.config.metrics), ("direction", sweep.config.directions)):
        found = goal.get(what)
        if ([found] if isinstance(found, str) else found) != own:
            raise ConfigError(
                f"warm_start: the study {before.study_name} has {what} {found}, and this sweep {own}. Name a study "
                "with the same goal: results of another teach nothing."
            )


def _in_space(params: Mapping[str, Any], known: Mapping[str, Distribution]) -> dict[str, Any] | None:
    """What the sampler would be told; None when something is unknown here or outside of the space."""
    try:
        return {name: known[name].told(value) for name, value in params.items()}
    except (KeyError, ValueError):
        return None


def _is_whole(params: Mapping[str, Any], sweep: Sweep) -> bool:
    """Whether the sampler would ask for these, and for nothing else."""
    fixed = FixedTrial(dict(params))
    try:
        sweep.space.suggest(fixed)
    except ValueError:
        return False
    return fixed.params.keys() == params.keys()


def _as_trial(earlier: Earlier, sweep: Sweep) -> optuna.trial.FrozenTrial:
    fixed = FixedTrial(dict(earlier.params))
    sweep.space.suggest(fixed)
    return create_trial(
        params=dict(earlier.params),
        distributions=fixed.distributions,
        values=earlier.values,
        user_attrs={WARM_START: earlier.source},
    )


def _by_label(space: Space, prefix: str = "") -> Iterator[tuple[str, Distribution]]:
    """Everything that the sampler may be asked for."""
    for name, distribution in space.distributions.items():
        if distribution.labels(prefix + name):
            yield prefix + name, distribution
        if isinstance(distribution, Branches):
            for branch, inner in distribution.spaces.items():
                yield from _by_label(inner, f"{prefix}{name}.{branch}.")


def _told(distribution: Distribution, value: Any, where: str) -> Any:
    try:
        return distribution.told(value)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}.") from error
