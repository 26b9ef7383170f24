"""Optuna's samplers and pruners, by the names that a definition gives them."""

import warnings
from typing import Any

from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler, GridSampler, QMCSampler, RandomSampler

from lightrail.project.basics.did_you_mean import did_you_mean
from lightrail.project.basics.errors import ConfigError
from lightrail.project.configuration.classes import AllowedClasses
from lightrail.project.configuration.parameters import parameters_of


def build_sampler(spec: str | dict[str, Any], seed: int, sequence_seed: int) -> BaseSampler:
    """Build the sampler of one trial, whatever samplers of other trials have given.

    Args:
        seed: of the trial.
        sequence_seed: the same for all trials, of a sampler that gives the points of one sequence.

    Raises: ConfigError when there is no such sampler, or it takes no such argument.
    """
    found, arguments = _read(spec, BaseSampler, "sampler", "optuna.samplers")
    if QMCSampler in found.__mro__:
        first = RandomSampler(seed=seed)  # the sequence begins when the study knows its settings
        arguments = {"seed": sequence_seed, "independent_sampler": first, **arguments}
    elif "seed" in parameters_of(found):
        is_one_order = GridSampler in found.__mro__  # the seed decides in which order its points are gone through
        arguments = {"seed": sequence_seed if is_one_order else seed, **arguments}
    sampler: BaseSampler = _built(found, arguments, "sampler")
    return sampler


def build_pruner(spec: str | dict[str, Any]) -> BasePruner:
    """Raises: ConfigError when there is no such pruner, or it takes no such argument."""
    pruner: BasePruner = _built(*_read(spec, BasePruner, "pruner", "optuna.pruners"), "pruner")
    return pruner


def _read(spec: str | dict[str, Any], base: Any, setting: str, package: str) -> tuple[type, dict[str, Any]]:
    given: dict[str, Any] = {"class_path": spec} if isinstance(spec, str) else spec
    name, arguments = given.get("class_path"), given.get("init_args") or {}
    if not isinstance(name, str) or set(given) - {"class_path", "init_args"}:
        raise ConfigError(f"{setting}: expected a class of {package}, or class_path and init_args; found {spec!r}.")
    path = name if "." in name else f"{package}.{name}"
    found = AllowedClasses().find(path, (base,), setting)
    known = parameters_of(found)
    for argument in arguments:
        if argument not in known:
            raise ConfigError(f"{setting}.{argument}: {name} takes no such argument.{did_you_mean(argument, known)}")
    return found, dict(arguments)


def _built(found: type, arguments: dict[str, Any], setting: str) -> Any:
    warnings.filterwarnings("ignore", category=ExperimentalWarning)  # `group` of TPE is, for six years
    try:
        return found(**arguments)
    except (ValueError, TypeError, ImportError) as error:
        raise ConfigError(f"{setting}: {found.__name__} refuses its arguments: {error}") from error
