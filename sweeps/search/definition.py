"""A sweep as its file describes it."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge

from lightrail.project.basics.annotations import NaturalInt, NotNegative, PositiveInt, Ranged
from lightrail.project.basics.catalogue import sweep_files
from lightrail.project.basics.did_you_mean import did_you_mean
from lightrail.project.basics.errors import ConfigError, without_password
from lightrail.project.configuration import Configuration, parse
from lightrail.project.configuration.checking import Checker
from lightrail.project.configuration.classes import AllowedClasses
from lightrail.project.configuration.configuration import Seed, build
from lightrail.project.configuration.parameters import parameters_of
from lightrail.project.configuration.sources import Draft, Text, nest, options
from lightrail.project.configuration.yaml_file import SettingPath, read_text, write_text
from lightrail.sweeps.search.space import Settings, Space, read_space

Direction = Literal["maximize", "minimize"]
SAMPLER = {"class_path": "optuna.samplers.TPESampler", "init_args": {"multivariate": True, "group": True}}


@dataclass(frozen=True, kw_only=True)
class ConfirmConfig(Ranged):
    """Evidence for a winner, which the luck of one seed is not."""

    top: NaturalInt = 0
    """So many of the best configurations are trained again when all trials are done. 0: none, and none is called the
    winner."""
    seeds: Annotated[int, Ge(2)] = 3
    """Fresh seeds of each, the same ones for all; at least 2."""


@dataclass(frozen=True, kw_only=True)
class ResourceConfig(Ranged):
    """What trials run on."""

    workers: PositiveInt | None = None
    """Trials at a time on this machine. null: as many as its GPUs suffice for; one on a machine without."""
    devices: PositiveInt = 1
    """GPUs of a trial, or processes on a CPU; with more than one a trial is trained with DDP."""
    threads: PositiveInt | None = None
    """Threads of each process. null: this machine's cores divided by all the processes."""


@dataclass(frozen=True, kw_only=True)
class ClusterConfig(Ranged):
    """Where drivers of a sweep run that is not run by this machine alone."""

    address: str | None = None
    """Ray's, such as auto or ray://HOST:10001. null: RAY_ADDRESS, or else a Ray of this machine."""
    executor: Literal["slurm", "local"] = "slurm"
    """What submitit gives the jobs to; local is this machine, to try a sweep out."""
    parameters: dict[str, Any] = field(default_factory=dict)
    """What submitit asks SLURM for: timeout_min, gpus_per_node, mem_gb, slurm_partition, ..."""
    requeues: NaturalInt = 20
    """How often a job begins again when its time is over."""
    folder: str = "sweep_jobs"
    """For the logs of jobs; %j in it is a job's number."""


@dataclass(frozen=True, kw_only=True)
class SweepConfig(Ranged):
    """Everything that makes a sweep."""

    base: str | list[str]
    """Experiment or file that every trial starts from; of several, later ones are merged over earlier ones."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """Dotted settings of every trial, over those of `base`."""
    metric: str | list[str]
    """What trials are judged by: a metric of validation, such as val/accuracy; several for a Pareto front."""
    direction: Direction | list[Direction]
    """maximize or minimize; one for each metric."""
    n_trials: PositiveInt
    """The study is done when it holds so many finished trials: a target, not an increment."""
    timeout_minutes: NotNegative | None = None
    """No trial begins later than so many minutes after a start. null: no limit."""
    sampler: str | dict[str, Any] = field(default_factory=lambda: dict(SAMPLER))
    """Which configurations are tried: a class of optuna.samplers. Not given: TPE over all settings together, those of a
    branch by themselves."""
    pruner: str | dict[str, Any] = "optuna.pruners.NopPruner"
    """When a trial is given up: a class of optuna.pruners."""
    seed: Seed = 0
    """Seed of the sampler."""
    seeds: PositiveInt = 1
    """Training seeds of each trial, the same ones for all; its value is their mean."""
    confirm: ConfirmConfig = ConfirmConfig()
    resources: ResourceConfig = ResourceConfig()
    launcher: Literal["local", "ray", "slurm"] = "local"
    """What runs trials: this machine, or a cluster, with `resources.workers` trials at a time."""
    cluster: ClusterConfig = ClusterConfig()
    study: str | None = None
    """Name of the study; a study of this name in the storage is gone on with. null: the name of the file."""
    storage: str = "sqlite:///sweeps.db"
    """Where Optuna keeps studies. Machines that share a database work on one study."""
    heartbeat_seconds: PositiveInt = 30
    """How often a trial says that it lives. After three times as long another machine takes it over."""
    space: dict[str, Any]
    """What is varied: a distribution for each dotted setting."""
    enqueue: list[dict[str, Any]] = field(default_factory=list)
    """Configurations to try first: values by the names in `space`."""
    warm_start: list[str] = field(default_factory=list)
    """Earlier studies of the storage, or MLflow runs of the same task, from whose results the sampler learns."""

    @property
    def metrics(self) -> list[str]:
        return [self.metric] if isinstance(self.metric, str) else self.metric

    @property
    def directions(self) -> list[Direction]:
        return self.direction if isinstance(self.direction, list) else [self.direction]


@dataclass(frozen=True)
class Sweep:
    """A definition that was checked, and the configuration of a trial without what is varied."""

    config: SweepConfig
    name: str
    space: Space
    base: list[str]
    """Arguments, as of `lightrail fit`, for the configuration that every trial starts from."""
    modules: tuple[str, ...] = ()
    """Those of a user's own whose classes may be named."""

    def configuration(self, settings: Settings, seed: int | None = None) -> Configuration:
        """The configuration of a trial.

        Raises: ConfigError when a setting is unknown, or has a value it cannot have.
        """
        own = [f"--{name}={_written(value)}" for name, value in settings.items()]
        return parse(
            [
                *self.base,
                f"--trainer.devices={self.config.resources.devices}",
                *own,
                *([] if seed is None else [f"--seed_everything={seed}"]),
            ]
        )

    @cached_property
    def seeds(self) -> range:
        """Training seeds of every trial: the configuration's and those that follow it."""
        first = self.configuration({}).seed
        return range(first, first + self.config.seeds)

    @property
    def compares_seeds(self) -> bool:
        """Whether a trial reports its seeds to the pruner, one after the other, rather than its validations."""
        return self.config.seeds > 1

    def dump(self, base: str) -> str:
        """The definition as YAML, with all that the command line said, over a base that stands beside it."""
        address = without_password(self.config.storage)
        return write_text({**asdict(self.config), "base": base, "study": self.name, "storage": address})

    def identity(self) -> str:
        """What may not change while a study goes on, as YAML."""
        fixed = ("overrides", "metric", "direction", "seeds", "space")
        own = {name: value for name, value in asdict(self.config).items() if name in fixed}
        base = self.configuration({}).values
        return write_text({**own, "base": {name: base[name] for name in ("seed_everything", "model", "data")}})


def load(arguments: Sequence[str]) -> Sweep:
    """Read a definition.

    Args:
        arguments: `--config FILE_OR_NAME`, and `--NAME VALUE` for what is to be other than the file says.

    Raises: ConfigError naming file, line and setting.
    """
    given = list(options(arguments))
    modules = [module for name, text in given if name == "--allow_modules" for module in text.split(",")]
    draft, files = Draft(), []
    for name, text in given:
        if name == "--config":
            files.append(_find(text))
            draft.add_file(files[-1])
        elif name != "--allow_modules":
            draft.add_values(nest(name.removeprefix("--"), Text(text)))
    if not files:
        raise ConfigError("which sweep? Give --config FILE, or the name of a shipped definition (lightrail list).")
    allowed = AllowedClasses(modules)
    config = _read(draft, Checker(draft, allowed))
    _check(config)
    bases = [config.base] if isinstance(config.base, str) else config.base
    base = [*(f"--config={_beside(name, files[-1])}" for name in bases), *_allowing(modules)]
    base += [f"--{name}={_written(value)}" for name, value in _dotted(config.overrides)]
    sweep = Sweep(config, config.study or files[-1].stem, read_space(config.space), base, tuple(modules))
    _check_names(config, sweep.space)
    return sweep


_OPEN: dict[str, tuple[type, ...]] = {
    "overrides": (dict,),
    "sampler": (str, dict),
    "pruner": (str, dict),
    "space": (dict,),
    "enqueue": (list,),
}
"""Settings whose content is checked by what takes them, and what they may be."""


def _read(draft: Draft, checker: Checker) -> SweepConfig:
    parameters = parameters_of(SweepConfig)
    given = {name: value for name, value in draft.values.items() if name not in _OPEN}
    opened = {name: _plain(value, draft, (name,)) for name, value in draft.values.items() if name in _OPEN}
    for name, value in opened.items():
        if not isinstance(value, _OPEN[name]):
            kinds = " or ".join(kind.__name__ for kind in _OPEN[name])
            raise ConfigError(f"{checker.at((name,))}: expected {kinds}, found {value!r}.")
    values = checker.arguments(given, {name: own for name, own in parameters.items() if name not in opened}, ())
    return SweepConfig(**build(SweepConfig, values), **opened)


def _plain(value: Any, draft: Draft, path: SettingPath) -> Any:
    """Values of the command line as the YAML they spell, without arguments of a class that another replaced."""
    if isinstance(value, dict):
        own = {key: _plain(item, draft, (*path, key)) for key, item in value.items()}
        return {key: item for key, item in own.items() if (*path, key) not in draft.inherited}
    return read_text(value) if isinstance(value, Text) else value


def _dotted(settings: Settings) -> Iterator[tuple[str, Any]]:
    """Give each setting by its dotted name; the command line nests them."""
    for name, value in settings.items():
        if isinstance(value, dict) and value and "class_path" not in value:
            yield from ((f"{name}.{inner}", own) for inner, own in _dotted(value))
        else:
            yield name, value


def _find(name: str) -> Path:
    shipped = sweep_files()
    if Path(name).is_file():
        return Path(name)
    if name in shipped:
        return shipped[name]
    hint = did_you_mean(Path(name).stem, shipped)
    raise ConfigError(f"--config {name}: no such file, and no shipped definition of a sweep has this name.{hint}")


def _beside(name: str, file: Path) -> str:
    """A base that stands beside its definition; any other as it is."""
    beside = file.parent / name
    return str(beside) if beside.is_file() else name


def _allowing(modules: list[str]) -> list[str]:
    return [f"--allow_modules={','.join(modules)}"] if modules else []


def _written(value: Any) -> str:
    """A value as it is written behind `--name=`."""
    if isinstance(value, str):
        return value
    return write_text({"": value}).partition(":")[2].strip() if not isinstance(value, dict | list) else _flow(value)


def _flow(value: Any) -> str:
    import json

    return json.dumps(value, ensure_ascii=False)  # JSON is YAML on one line


def _check(config: SweepConfig) -> None:
    if len(config.metrics) != len(config.directions):
        raise ConfigError(
            f"metric names {len(config.metrics)} and direction has {len(config.directions)}. Give one for each metric."
        )
    for metric in config.metrics:
        if not metric.startswith("val/"):
            raise ConfigError(f"metric: {metric}: a sweep chooses by validation alone. Give one that begins with val/.")
    if config.confirm.top and len(config.metrics) > 1:
        raise ConfigError(
            f"confirm.top is {config.confirm.top}, but a Pareto front of {len(config.metrics)} metrics has no winner. "
            f"Give one metric, or confirm.top 0."
        )


def _check_names(config: SweepConfig, space: Space) -> None:
    known = space.labels()
    for number, point in enumerate(config.enqueue):
        for name in point:
            if name not in known:
                raise ConfigError(f"enqueue.{number}: {name} is not in the space.{did_you_mean(name, known)}")
