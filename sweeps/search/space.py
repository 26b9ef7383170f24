"""The search space of a sweep: a distribution for each dotted setting, some of them only in one branch.

Syntax, under `space:` of a definition:

    model.optim.lr: {low: 1e-4, high: 1e-2, log: true}     a number; whole where low, high and step are whole
    model.encoder.depth: {low: 1, high: 4}
    data.batch.size: {choices: [16, 32, 64]}
    model.encoder.dropout: 0.1                              a constant
    network:                                                a choice that opens settings of its own
      branches:
        lstm: {model.encoder: LstmConfig, model.encoder.depth: {low: 1, high: 2}}
        transformer: {model.encoder: TransformerConfig, model.encoder.num_heads: {choices: [2, 4]}}
"""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lightrail.project.basics.did_you_mean import did_you_mean
from lightrail.project.basics.errors import ConfigError, shown

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

Settings = dict[str, Any]
"""Values by dotted setting."""


class Distribution(ABC):
    """The possible values of one setting."""

    @abstractmethod
    def suggest(self, trial: "BaseTrial", name: str, label: str) -> Settings:
        """Ask the sampler for a value under the name `label`; return the settings that follow from it."""

    @abstractmethod
    def corners(self, name: str) -> Iterator[Settings]:
        """Yield the settings of every extreme value."""

    @abstractmethod
    def parameter(self, value: Any) -> Any:
        """Return Optuna's parameter for a value.

        Raises: ValueError when the value is outside of the distribution.
        """

    def labels(self, label: str) -> set[str]:
        """Return the names of the sampler's parameters of this distribution."""
        return {label}


@dataclass(frozen=True)
class Number(Distribution):
    """A number between two bounds, both included."""

    low: float
    high: float
    is_log: bool
    step: float | None

    @property
    def is_whole(self) -> bool:
        """Whether only integers are suggested."""
        return all(isinstance(item, int) for item in (self.low, self.high, self.step or 1))

    def suggest(self, trial: "BaseTrial", name: str, label: str) -> Settings:
        if self.is_whole:
            low, high, step = int(self.low), int(self.high), int(self.step or 1)
            return {name: trial.suggest_int(label, low, high, step=step, log=self.is_log)}
        return {name: trial.suggest_float(label, self.low, self.high, step=self.step, log=self.is_log)}

    def corners(self, name: str) -> Iterator[Settings]:
        yield {name: self.low}
        highest = (
            self.high if self.step is None else self.low + self.step * int((self.high - self.low) / self.step + 1e-9)
        )
        if highest != self.low:
            yield {name: highest}

    def parameter(self, value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            raise ValueError(f"expected a number from {self.low} to {self.high}, found {value!r}")
        steps = (value - self.low) / (self.step or (1 if self.is_whole else math.inf))
        if not math.isclose(steps, round(steps), abs_tol=1e-6):
            raise ValueError(f"expected {self.low} and a number of steps of {self.step or 1}, found {value!r}")
        return int(value) if self.is_whole else float(value)


@dataclass(frozen=True)
class Choice(Distribution):
    """One of a few values of any type; the sampler's parameter of a list or mapping is its text."""

    options: Mapping[Any, Any]
    """Values by the sampler's parameter."""

    def suggest(self, trial: "BaseTrial", name: str, label: str) -> Settings:
        return {name: self.options[trial.suggest_categorical(label, list(self.options))]}

    def corners(self, name: str) -> Iterator[Settings]:
        yield from ({name: value} for value in self.options.values())

    def parameter(self, value: Any) -> Any:
        pairs = [
            *((option, label) for label, option in self.options.items()),
            *zip(self.options, self.options, strict=True),
        ]
        alike = [(own, label) for own, label in pairs if type(own) is type(value) and own == value]
        if not alike:
            raise ValueError(f"expected one of {shown(list(self.options.values()))}, found {shown(value)}")
        return next((label for own, label in alike if repr(own) == repr(value)), alike[0][1])  # [1] equals [1.0]


@dataclass(frozen=True)
class Constant(Distribution):
    """A single value, which the sampler does not choose."""

    value: Any

    def suggest(self, trial: "BaseTrial", name: str, label: str) -> Settings:
        return {name: self.value}

    def corners(self, name: str) -> Iterator[Settings]:
        yield {name: self.value}

    def parameter(self, value: Any) -> Any:
        raise ValueError(f"it is the constant {self.value!r} and cannot be chosen")

    def labels(self, label: str) -> set[str]:
        return set()


@dataclass(frozen=True)
class Branches(Distribution):
    """A choice among named branches, each with a space of its own. The chosen name itself is no setting."""

    spaces: Mapping[str, "Space"]

    def suggest(self, trial: "BaseTrial", name: str, label: str) -> Settings:
        branch = trial.suggest_categorical(label, list(self.spaces))
        return self.spaces[branch].suggest(trial, f"{label}.{branch}.")

    def corners(self, name: str) -> Iterator[Settings]:
        for space in self.spaces.values():
            yield from space.corners()

    def parameter(self, value: Any) -> Any:
        if value not in self.spaces:
            raise ValueError(f"expected one of {list(self.spaces)}, found {value!r}")
        return value

    def labels(self, label: str) -> set[str]:
        return {label}.union(*(space.labels(f"{label}.{branch}.") for branch, space in self.spaces.items()))


@dataclass(frozen=True)
class Space:
    """All varied settings of a sweep, in the order in which they are suggested."""

    distributions: Mapping[str, Distribution]

    def suggest(self, trial: "BaseTrial", prefix: str = "") -> Settings:
        """Ask the sampler for a value of each setting, and of the settings of each chosen branch."""
        settings: Settings = {}
        for name, distribution in self.distributions.items():
            settings.update(distribution.suggest(trial, name, prefix + name))
        return settings

    def labels(self, prefix: str = "") -> set[str]:
        """Return the names of all parameters of the sampler; a setting in a branch is `CHOICE.BRANCH.SETTING`."""
        return set[str]().union(*(one.labels(prefix + name) for name, one in self.distributions.items()))

    def corners(self, limit: int = 64) -> Iterator[Settings]:
        """Yield combinations of extreme values: all if there are at most `limit`, else enough to show each value."""
        each = [list(one.corners(name)) for name, one in self.distributions.items()]
        combinations: Iterator[tuple[Settings, ...]]
        num_combinations = 1
        for own in each:
            num_combinations *= len(own)
        if num_combinations <= limit:
            combinations = itertools.product(*each)
        else:
            longest = max(map(len, each))
            combinations = (tuple(own[place % len(own)] for own in each) for place in range(longest))
        for combination in combinations:
            yield {name: value for part in combination for name, value in part.items()}


def read_space(given: Mapping[str, Any], where: str = "space") -> Space:
    """Read the section `space` of a definition.

    Raises: ConfigError naming the setting whose description is invalid.
    """
    if not given:
        raise ConfigError(f"{where}: nothing to search over. Give a setting and its values, such as {EXAMPLE}.")
    for name in given:
        if not isinstance(name, str):
            raise ConfigError(f"{where}: expected names of settings, found {shown(name)}. Write it in quotes.")
    return Space({name: _distribution(value, f"{where}.{name}") for name, value in given.items()})


LARGEST = 1e300
"""Largest number of a range: the width of a range must be finite."""
EXAMPLE = "model.optim.lr: {low: 1e-4, high: 1e-2, log: true}"
_KINDS = {"choices": {"choices"}, "branches": {"branches"}, "low": {"low", "high", "log", "step"}}


def _distribution(value: Any, where: str) -> Distribution:
    if not isinstance(value, dict) or "class_path" in value:
        return Constant(value)
    kind = next((name for name in _KINDS if name in value), None)
    known = {key for keys in _KINDS.values() for key in keys}
    unknown = [key for key in value if key not in (_KINDS[kind] if kind else known)]
    if kind is None or unknown:
        wrong = "no values."
        if unknown:
            is_mixed = unknown[0] in known
            wrong = f"unknown key {shown(unknown[0])}.{did_you_mean(str(unknown[0]), known)}"
            wrong = f"{unknown[0]} does not go with {kind}." if is_mixed else wrong
        raise ConfigError(f"{where}: {wrong} Describe it as {EXAMPLE}, or by choices, branches or a constant.")
    if kind == "choices":
        return _choice(value["choices"], where)
    if kind == "branches":
        return _branches(value["branches"], where)
    return _number(value, where)


def _choice(options: Any, where: str) -> Distribution:
    if not isinstance(options, list) or not options:
        raise ConfigError(f"{where}.choices: expected a list of values, found {shown(options)}.")
    if len(set(map(repr, options))) != len(options):
        raise ConfigError(f"{where}.choices: {shown(options)} names a value twice. Keep one of them.")
    labeled: dict[Any, Any] = {}
    for option in options:
        label = option if option is None or isinstance(option, bool | int | float | str) else str(option)
        while label in labeled:  # 1, 1.0 and true are equal in Python and in Optuna, but not as settings
            label = repr(label)
        labeled[label] = option
    return Choice(labeled)


def _branches(branches: Any, where: str) -> Distribution:
    if not isinstance(branches, dict) or not branches or not all(isinstance(own, dict) for own in branches.values()):
        raise ConfigError(f"{where}.branches: expected settings by the name of each branch, found {shown(branches)}.")
    if len(set(map(str, branches))) != len(branches):
        raise ConfigError(f"{where}.branches: {shown(list(branches))} names a branch twice. Rename one of them.")
    return Branches({str(name): read_space(own, f"{where}.{name}") for name, own in branches.items()})


def _number(value: Mapping[str, Any], where: str) -> Distribution:
    low, high, step, is_log = value.get("low"), value.get("high"), value.get("step"), value.get("log", False)
    for name, number in (("low", low), ("high", high), *([("step", step)] if step is not None else [])):
        if isinstance(number, bool) or not isinstance(number, int | float) or not -LARGEST <= number <= LARGEST:
            raise ConfigError(f"{where}.{name}: expected a finite number, found {shown(number)}.")
    assert isinstance(low, int | float)
    assert isinstance(high, int | float)
    if not isinstance(is_log, bool):
        raise ConfigError(f"{where}.log: expected true or false, found {shown(is_log)}.")
    if low > high:
        raise ConfigError(f"{where}: low is {low} and high is {high}. Swap them.")
    if step is not None and step <= 0:
        raise ConfigError(f"{where}.step is {step}. Give a number above 0.")
    if is_log and (low <= 0 or step not in (None, 1)):
        raise ConfigError(f"{where}: a logarithmic scale needs low above 0 and no step (found {shown(dict(value))}).")
    if is_log and step is not None and not Number(low, high, is_log, step).is_whole:
        raise ConfigError(f"{where}.step: fractions on a logarithmic scale have no step. Leave it out.")
    return Number(low, high, is_log, step)
