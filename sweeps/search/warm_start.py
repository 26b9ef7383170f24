"""What a study is told before its first trial: configurations to begin with, and what earlier trainings gave."""

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import optuna
import yaml
from optuna.storages import RDBStorage
from optuna.trial import FixedTrial, TrialState, create_trial

from lightrail.project.basics.errors import ConfigError
from lightrail.project.tracking.lookup import children_of, find_run, run_configuration
from lightrail.project.tracking.store import open_store, store_uri
from lightrail.sweeps.search.definition import Sweep
from lightrail.sweeps.search.space import Branches, Constant, Distribution, Space
from lightrail.sweeps.search.study import IDENTITY, WARM_START

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


_MISSING = object()


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Earlier:
    """What a training gave before this sweep."""

    source: str
    """Where it is from, and which one there."""
    params: Mapping[str, Any]
    """What the sampler would have been told, by its names."""
    values: list[float]


def earlier_runs(sweep: Sweep, name: str) -> Iterator[Earlier | None]:
    """Give finished runs: the one that is named, or those under it. None: one that is no point of the space.

    Raises: ConfigError when there is no such run, or it is of another task or data.
    """
    tracking = sweep.configuration({}).tracking()
    client = open_store(store_uri(tracking), create=False)
    named = find_run(client, name)
    for run in children_of(client, named) or [named]:
        if run.info.status != "FINISHED":
            continue
        values = run_configuration(run.info.run_id, tracking)
        _check_task(sweep, values, name)
        params = params_of(sweep, values)
        results = _results(client, run, sweep)
        yield Earlier(f"run {run.info.run_id}", params, results) if params is not None and results else None


def params_of(sweep: Sweep, values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Give the point of the space at which a complete configuration stands; None when it stands at none."""
    return _params(sweep, sweep.space, values, "")


def setting(values: Mapping[str, Any], name: str) -> Any:
    """Look a dotted setting up in a complete configuration; `init_args` is left out of its name."""
    found: Any = values
    for key in name.split("."):
        if isinstance(found, Mapping) and key not in found and isinstance(found.get("init_args"), Mapping):
            found = found["init_args"]
        if not isinstance(found, Mapping) or key not in found:
            return _MISSING
        found = found[key]
    return found


def _params(sweep: Sweep, space: Space, values: Mapping[str, Any], prefix: str) -> dict[str, Any] | None:
    params: dict[str, Any] = {}
    for name, distribution in space.distributions.items():
        own = _param(sweep, distribution, values, name, prefix + name)
        if own is None:
            return None
        params.update(own)
    return params


def _param(
    sweep: Sweep, distribution: Distribution, values: Mapping[str, Any], name: str, label: str
) -> dict[str, Any] | None:
    if isinstance(distribution, Branches):
        for branch, space in distribution.spaces.items():
            inner = _params(sweep, space, values, f"{label}.{branch}.")
            if inner is not None:
                return {label: branch, **inner}
        return None
    found = setting(values, name)
    if isinstance(distribution, Constant):
        return {} if _is_same(found, setting(sweep.configuration({name: distribution.value}).values, name)) else None
    try:
        return {label: distribution.told(found)}
    except ValueError:
        return None


def _is_same(found: Any, expected: Any) -> bool:
    """Whether a setting has a value; of a class and its arguments, whether it is the class."""
    if isinstance(found, Mapping) and isinstance(expected, Mapping) and "class_path" in expected:
        return bool(found.get("class_path") == expected["class_path"])
    return bool(found == expected)


def _check_task(sweep: Sweep, values: Mapping[str, Any], name: str) -> None:
    own = sweep.configuration({}).values
    for what in ("model.class_path", "data.class_path", "data.path"):
        found, expected = setting(values, what), setting(own, what)
        if found != expected:
            raise ConfigError(
                f"{name} has {what}={found}, and this sweep {expected}. Name runs of the same task and data."
            )


def _results(client: "MlflowClient", run: "Run", sweep: Sweep) -> list[float] | None:
    """Give each metric at the validation that was best by the first of them; None when it was not measured."""
    histories = [
        {point.step: point.value for point in client.get_metric_history(run.info.run_id, name)}
        for name in sweep.config.metrics
    ]
    steps = [step for step in histories[0] if all(math.isfinite(own.get(step, math.nan)) for own in histories)]
    if not steps:
        return None
    choose = max if sweep.config.directions[0] == "maximize" else min
    best = choose(steps, key=lambda step: histories[0][step])
    return [own[best] for own in histories]


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
