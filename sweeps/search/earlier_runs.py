"""MLflow runs as trials of a sweep that did not make them."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lightrail.project.basics.errors import ConfigError
from lightrail.project.tracking.lookup import children_of, find_run, run_configuration
from lightrail.project.tracking.store import open_store, store_uri
from lightrail.sweeps.search.definition import Sweep
from lightrail.sweeps.search.space import Branches, Constant, Distribution, Space

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_MISSING = object()


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
