"""Configurations to try first, and results of earlier trainings for the sampler to learn from."""

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
from lightrail.project.tracking.lookup import children_of, metric_history, run_configuration
from lightrail.project.tracking.naming import find_run
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
    """Result of a training before this sweep."""

    source: str
    """Its trial and study, or its MLflow run."""
    params: Mapping[str, Any]
    """The sampler's parameters of its configuration."""
    values: list[float]


def earlier_runs(sweep: Sweep, name: str) -> Iterator[Earlier | None]:
    """Yield the results of a finished run, or of those under it; None for a run outside of the space.

    Raises: ConfigError when there is no such run, or it has another task or data.
    """
    tracking = sweep.configuration({}).tracking()
    client = open_store(store_uri(tracking), create=False)
    named = find_run(client, name)
    for run in children_of(client, named) or [named]:
        if run.info.status != "FINISHED":
            continue
        values = run_configuration(client, run)
        _check_task(sweep, values, name)
        params = params_of(sweep, values)
        results = _results(client, run, sweep)
        yield Earlier(f"run {run.info.run_id}", params, results) if params is not None and results else None


def params_of(sweep: Sweep, values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the sampler's parameters of a complete configuration; None if it is outside of the space."""
    return _params(sweep, sweep.space, values, "")


def setting(values: Mapping[str, Any], name: str) -> Any:
    """Look up a dotted setting, whose name omits `init_args`, in a complete configuration."""
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
        return {label: distribution.parameter(found)}
    except ValueError:
        return None


def _is_same(found: Any, expected: Any) -> bool:
    """Whether a setting has the expected value; for a class and its arguments, whether it is the same class."""
    if isinstance(found, Mapping) and isinstance(expected, Mapping) and "class_path" in expected:
        return bool(found.get("class_path") == expected["class_path"])
    return bool(type(found) is type(expected) and found == expected)  # 1 (batch) equals 1.0 (of all batches)


def _check_task(sweep: Sweep, values: Mapping[str, Any], name: str) -> None:
    own = sweep.configuration({}).values
    for key in ("model.class_path", "data.class_path", "data.path"):
        found, expected = setting(values, key), setting(own, key)
        if found != expected:
            raise ConfigError(
                f"{name} has {key}={found}, and this sweep {expected}. Name runs of the same task and data."
            )


def _results(client: "MlflowClient", run: "Run", sweep: Sweep) -> list[float] | None:
    """Return each metric at the validation with the best first metric; None if a metric was not logged."""
    histories = [
        {point.step: point.value for point in metric_history(client, run.info.run_id, name)}
        for name in sweep.config.metrics
    ]
    steps = [step for step in histories[0] if all(math.isfinite(own.get(step, math.nan)) for own in histories)]
    if not steps:
        return None
    choose = max if sweep.config.directions[0] == "maximize" else min
    best = choose(steps, key=lambda step: histories[0][step])
    return [own[best] for own in histories]


def enqueued_points(sweep: Sweep) -> list[dict[str, Any]]:
    """Return the sampler's parameters of each point of `enqueue`.

    Raises: ConfigError naming the point and the value that is outside of the space.
    """
    known = dict(_by_label(sweep.space))
    points = []
    for number, point in enumerate(sweep.config.enqueue):
        where = f"enqueue.{number}"
        points.append({name: _parameter(known[name], value, f"{where}.{name}") for name, value in point.items()})
    return points


def enqueue(study: optuna.Study, sweep: Sweep) -> None:
    """Add the points of `enqueue`, each once, to be tried first; the sampler chooses the settings that they omit.

    Raises: ConfigError naming the point and the value that is outside of the space.
    """
    for point in enqueued_points(sweep):
        study.enqueue_trial(point, skip_if_exists=True)


def warm_start(study: optuna.Study, storage: RDBStorage, sweep: Sweep) -> None:
    """Add results of earlier trainings, each once, for the sampler; they do not count as trials of this sweep.

    Those outside of the space are omitted; their number is logged.

    Raises: ConfigError when there is no such study or run, or it has another task.
    """
    known = {trial.user_attrs.get(WARM_START) for trial in study.get_trials(deepcopy=False)}
    for name in sweep.config.warm_start:
        found = list(_earlier(study, storage, sweep, name))
        usable = [one for one in found if one is not None]
        for one in usable:
            if one.source not in known:
                study.add_trial(_as_trial(one, sweep))
        num_outside = len(found) - len(usable)
        log.info("warm start from %s: %d trainings; omitted %d outside of the space", name, len(usable), num_outside)


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
    for key, own in (("metric", sweep.config.metrics), ("direction", sweep.config.directions)):
        found = goal.get(key)
        if ([found] if isinstance(found, str) else found) != own:
            raise ConfigError(
                f"warm_start: the study {before.study_name} has {key} {found}, and this sweep {own}. Name a study "
                "with the same metric and direction."
            )


def _in_space(params: Mapping[str, Any], known: Mapping[str, Distribution]) -> dict[str, Any] | None:
    """Parameters of this space for those of another study; None if one is unknown here or outside of the space."""
    try:
        return {name: known[name].parameter(value) for name, value in params.items()}
    except (KeyError, ValueError):
        return None


def _is_whole(params: Mapping[str, Any], sweep: Sweep) -> bool:
    """Whether these are all parameters of a configuration, and no others."""
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
    """Yield the name of each parameter of the sampler and its distribution."""
    for name, distribution in space.distributions.items():
        if distribution.labels(prefix + name):
            yield prefix + name, distribution
        if isinstance(distribution, Branches):
            for branch, inner in distribution.spaces.items():
                yield from _by_label(inner, f"{prefix}{name}.{branch}.")


def _parameter(distribution: Distribution, value: Any, where: str) -> Any:
    try:
        return distribution.parameter(value)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}.") from error
