"""The definition of a sweep: settings, reading and checking of its file."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge

from lightrail.project.basics.annotations import NaturalInt, NotNegative, PositiveInt, Ranged
from lightrail.project.basics.catalogue import sweep_files
from lightrail.project.basics.did_you_mean import did_you_mean
from lightrail.project.basics.errors import ConfigError, plain, shown, without_password
from lightrail.project.configuration import Configuration, parse
from lightrail.project.configuration.checking import Checker
from lightrail.project.configuration.classes import AllowedClasses
from lightrail.project.configuration.configuration import Seed, build
from lightrail.project.configuration.parameters import parameters_of
from lightrail.project.configuration.sources import FLAGS, SHORT_NAMES, Draft, Text, nest, options
from lightrail.project.configuration.yaml_file import SettingPath, read_text, write_text
from lightrail.sweeps.search.space import Settings, Space, read_space

Direction = Literal["maximize", "minimize"]
SAMPLER = {"class_path": "optuna.samplers.TPESampler", "init_args": {"multivariate": True, "group": True}}


USUAL_TOP = 3
"""Number of configurations to confirm where `confirm.top` is not given."""


@dataclass(frozen=True, kw_only=True)
class ConfirmConfig(Ranged):
    """Settings of the trainings with fresh seeds that confirm a winner."""

    top: NaturalInt | None = None
    """Number of best configurations to train again when all trials are done. 0: none, and no winner is named. null: 3
    if there is one metric and no `timeout_minutes`, and these trainings are at most half as many as the trials'."""
    seeds: Annotated[int, Ge(2)] = 3
    """Number of fresh seeds of each, the same for all; at least 2."""


@dataclass(frozen=True, kw_only=True)
class ResourceConfig(Ranged):
    """Devices and threads of trials."""

    workers: PositiveInt | None = None
    """Number of trials at a time on this machine. null: one for every `devices` GPUs; 1 without a GPU."""
    devices: PositiveInt = 1
    """GPUs of a trial, or processes on a CPU; with more than one a trial is trained with DDP."""
    threads: PositiveInt | None = None
    """Threads of each process. null: this machine's cores divided by the number of processes."""


@dataclass(frozen=True, kw_only=True)
class ClusterConfig(Ranged):
    """Settings of the cluster that runs the drivers of a sweep."""

    address: str | None = None
    """Address of Ray, such as auto or ray://HOST:10001. null: RAY_ADDRESS, or else a Ray of this machine."""
    executor: Literal["slurm", "local"] = "slurm"
    """Executor of submitit; local runs the jobs on this machine, to try a sweep out."""
    parameters: dict[str, Any] = field(default_factory=dict)
    """Parameters of submitit for SLURM: timeout_min, gpus_per_node, mem_gb, slurm_partition, ..."""
    requeues: NaturalInt = 20
    """Maximum number of times a job is requeued when its time is over."""
    folder: str = "sweep_jobs"
    """Folder for the logs of jobs; %j in it is a job's number."""


@dataclass(frozen=True, kw_only=True)
class SweepConfig(Ranged):
    """All settings of a sweep."""

    base: str | list[str]
    """Experiment or file that every trial starts from; of several, later ones are merged over earlier ones."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """Dotted settings of every trial, merged over those of `base`."""
    metric: str | list[str]
    """Metric of validation to optimize, such as val/accuracy; several for a Pareto front."""
    direction: Direction | list[Direction]
    """maximize or minimize; one for each metric."""
    n_trials: PositiveInt
    """Number of finished trials at which the study is done: a target, not an increment."""
    timeout_minutes: NotNegative | None = None
    """Minutes after a start of the command when the last trial may start. null: no limit."""
    sampler: str | dict[str, Any] = field(default_factory=lambda: dict(SAMPLER))
    """Sampler of configurations: a class of optuna.samplers. Not given: TPE over all settings together, those of a
    branch by themselves."""
    pruner: str | dict[str, Any] = "optuna.pruners.NopPruner"
    """Pruner, which ends unpromising trials early: a class of optuna.pruners."""
    seed: Seed = 0
    """Seed of the sampler."""
    seeds: PositiveInt = 1
    """Number of training seeds of each trial, the same for all; its value is their mean."""
    confirm: ConfirmConfig = ConfirmConfig()
    resources: ResourceConfig = ResourceConfig()
    launcher: Literal["local", "ray", "slurm"] = "local"
    """Where trials run: on this machine, or on a cluster with `resources.workers` trials at a time."""
    cluster: ClusterConfig = ClusterConfig()
    study: str | None = None
    """Name of the study; a study of this name in the storage is resumed. null: the name of the file."""
    storage: str = "sqlite:///sweeps.db"
    """URL of Optuna's database. Machines that share a database work on one study."""
    heartbeat_seconds: PositiveInt = 30
    """Seconds between heartbeats of a trial. After three missed ones another machine takes it over."""
    space: dict[str, Any]
    """Search space: a distribution for each dotted setting."""
    enqueue: list[dict[str, Any]] = field(default_factory=list)
    """Configurations to try first: values by the names in `space`."""
    warm_start: list[str] = field(default_factory=list)
    """Earlier studies of the storage, or MLflow runs of the same task, from whose results the sampler learns."""

    @property
    def num_confirmed(self) -> int:
        """Number of best configurations that are trained again with fresh seeds."""
        if self.confirm.top is not None:
            return self.confirm.top
        is_cheap = 2 * USUAL_TOP * self.confirm.seeds <= self.n_trials * self.seeds
        return USUAL_TOP if is_cheap and len(self.metrics) == 1 and self.timeout_minutes is None else 0

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics, also when there is only one."""
        return [self.metric] if isinstance(self.metric, str) else self.metric

    @property
    def directions(self) -> list[Direction]:
        """Direction of each metric."""
        return self.direction if isinstance(self.direction, list) else [self.direction]


@dataclass(frozen=True)
class Sweep:
    """A checked definition, and the configuration that its trials have in common."""

    config: SweepConfig
    name: str
    space: Space
    base: list[str]
    """Arguments of `lightrail fit` for the configuration that every trial starts from."""
    modules: tuple[str, ...] = ()
    """Modules of the user's own whose classes may be named."""

    def configuration(self, settings: Settings, seed: int | None = None) -> Configuration:
        """Build the configuration of a trial with these settings.

        Raises: ConfigError when a setting is unknown, or its value is invalid.
        """
        own = [argument_of(name, value) for name, value in settings.items()]
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
        """Return the definition as YAML with the command line's settings, over a base file in the same folder."""
        address = without_password(self.config.storage)
        return write_text({**asdict(self.config), "base": base, "study": self.name, "storage": address})

    def identity(self) -> str:
        """Return the settings that may not change when a study is resumed, as YAML."""
        fixed = ("overrides", "metric", "direction", "seeds", "space")
        own = {name: value for name, value in asdict(self.config).items() if name in fixed}
        base = self.configuration({}).values
        return write_text({**own, "base": {name: base[name] for name in ("seed_everything", "model", "data")}})


def load(arguments: Sequence[str]) -> Sweep:
    """Read and check the definition of a sweep.

    Args:
        arguments: `--config FILE_OR_NAME`, or the file or name alone, and `--NAME VALUE` for each setting that replaces
            the file's.

    Raises: ConfigError naming file, line and setting.
    """
    given = list(options(arguments, bare="--config", short_names=SHORT_OVERRIDES))
    modules = [module for name, text in given if name == "--allow_modules" for module in text.split(",")]
    draft, files = Draft(), []
    for name, text in given:
        if name == "--config":
            files.append(_find(text))
            draft.add_file(files[-1])
        elif name != "--allow_modules":
            draft.add_values(nest(name.removeprefix("--"), Text(text)))
    if not files:
        raise ConfigError("no sweep given. Give --config FILE, or the name of a shipped definition (lightrail list).")
    confirm = draft.values.get("confirm")
    if isinstance(confirm, str | int) and read_text(str(confirm)) in (0, False):  # instead of its settings
        draft.values["confirm"] = {"top": Text("0")}
    allowed = AllowedClasses(modules)
    config = _read(draft, Checker(draft, allowed))
    _check(config)
    bases = [config.base] if isinstance(config.base, str) else config.base
    base = [*(f"--config={_beside(name, files[-1])}" for name in bases), *_allowing(modules)]
    base += [argument_of(name, value) for name, value in _dotted(config.overrides)]
    sweep = Sweep(config, config.study or files[-1].stem, read_space(config.space), base, tuple(modules))
    _check_names(config, sweep.space)
    return sweep


SHORT_OVERRIDES = {name: f"overrides.{SHORT_NAMES[name]}" for name in ("epochs", "steps", "lr", "batch_size")}
"""Short names of settings of every trial. A sweep has settings of its own for the others, such as its seed."""
_OPEN: dict[str, tuple[type, ...]] = {
    "overrides": (dict,),
    "sampler": (str, dict),
    "pruner": (str, dict),
    "space": (dict,),
    "enqueue": (list,),
}
"""Settings whose content is checked by the code that uses them, with their types."""
_IN_WORDS: dict[type, str] = {dict: "settings as `name: value`", str: "the name of a class", list: "a list"}


def _read(draft: Draft, checker: Checker) -> SweepConfig:
    parameters = parameters_of(SweepConfig)
    given = {name: value for name, value in draft.values.items() if name not in _OPEN}
    opened = {name: _plain(value, draft, (name,)) for name, value in draft.values.items() if name in _OPEN}
    for name, value in opened.items():
        if not isinstance(value, _OPEN[name]):
            types = " or ".join(_IN_WORDS[own] for own in _OPEN[name])
            raise ConfigError(f"{checker.at((name,))}: expected {types}, found {shown(value)}.")
    values = checker.arguments(given, {name: own for name, own in parameters.items() if name not in opened}, ())
    return SweepConfig(**build(SweepConfig, values), **opened)


def _plain(value: Any, draft: Draft, path: SettingPath) -> Any:
    """Parse values of the command line as YAML, without arguments of a class that another class replaced."""
    if isinstance(value, dict):
        own = {key: _plain(item, draft, (*path, key)) for key, item in value.items()}
        return {key: item for key, item in own.items() if (*path, key) not in draft.inherited}
    return read_text(value) if isinstance(value, Text) else value


def _dotted(settings: Settings) -> Iterator[tuple[str, Any]]:
    """Yield each setting by its dotted name; the command line nests them."""
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
    raise ConfigError(
        f"--config {plain(name)}: no such file, and no shipped definition of a sweep has this name.{hint}"
    )


def _beside(name: str, file: Path) -> str:
    """The path of a base in its definition's folder; the name itself if there is no such file."""
    beside = file.parent / name
    return str(beside) if beside.is_file() else name


def _allowing(modules: list[str]) -> list[str]:
    return [f"--allow_modules={','.join(modules)}"] if modules else []


def argument_of(name: str, value: Any) -> str:
    """Return a setting as `--name=VALUE`. Raises: ConfigError for an option of the command line."""
    if f"--{name}" in (*FLAGS, "--config", "--allow_modules"):
        raise ConfigError(f"{name}: it is an option of the command line, and no setting of a trial. Remove it.")
    return f"--{name}={_written(value)}"


def _written(value: Any) -> str:
    """A setting's value in the syntax of `--name=VALUE`."""
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
        if metric.startswith(("test", "train/")):
            raise ConfigError(f"metric: {shown(metric)}: only validation metrics can be optimized. Give one of val/.")
    if config.confirm.top and len(config.metrics) > 1:
        raise ConfigError(
            f"confirm.top is {config.confirm.top}, but a Pareto front of {len(config.metrics)} metrics has no winner. "
            f"Give one metric, or confirm.top 0."
        )


def _check_names(config: SweepConfig, space: Space) -> None:
    if len({corner.get("tracking.uri") for corner in space.corners()}) > 1:
        raise ConfigError("space: tracking.uri cannot be searched: all runs of a sweep are in one store. Remove it.")
    known = space.labels()
    for number, point in enumerate(config.enqueue):
        if not isinstance(point, dict):
            raise ConfigError(f"enqueue.{number}: expected settings as `name: value`, found {shown(point)}.")
        for name in point:
            if name not in known:
                raise ConfigError(f"enqueue.{number}: {name} is not in the space.{did_you_mean(name, known)}")
