"""The configuration of a run: parsed from files and the command line, completed, and built into objects."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias, get_origin

from annotated_types import Interval
from lightning.pytorch import LightningDataModule, LightningModule, Trainer

from lightrail.project.basics.annotations import TypeHint, alternatives, item_type
from lightrail.project.basics.errors import ConfigError, Shown, plain
from lightrail.project.configuration.checking import Checker
from lightrail.project.configuration.classes import AllowedClasses, import_class
from lightrail.project.configuration.describing import describe
from lightrail.project.configuration.parameters import (
    Parameter,
    class_of_type,
    has_structure,
    is_fixed,
    is_open,
    parameters_of,
    read,
)
from lightrail.project.configuration.sources import FLAGS, Draft, Text, find_config, nest, options
from lightrail.project.configuration.yaml_file import Value, write_text
from lightrail.project.tracking.settings import TrackingConfig

LARGEST_SEED = 2**32 - 1
Seed: TypeAlias = Annotated[int, Interval(ge=0, le=LARGEST_SEED)]
SECTIONS = {
    "seed_everything": Parameter(
        "seed_everything", Seed, 0, "Seed of every random number of a run but the data split."
    ),
    "model": Parameter("model", LightningModule),
    "data": Parameter("data", LightningDataModule),
    "trainer": Parameter("trainer", Trainer),
    "tracking": Parameter("tracking", TrackingConfig),
}


def build(target: type, values: Mapping[str, Value]) -> dict[str, Any]:
    """Build the arguments of `target` from plain values, nested dataclasses and classes included."""
    parameters = parameters_of(target)
    return {name: _built(value, parameters[name].annotation) for name, value in values.items()}


def _built(value: Value, annotation: TypeHint) -> Any:
    members = alternatives(annotation)
    if isinstance(value, str) and any(map(class_of_type, members)):
        return import_class(value)
    if isinstance(value, dict):
        for fixed in filter(is_fixed, members):
            return fixed(**build(fixed, value))
        if "class_path" in value and any(map(is_open, members)):
            target = import_class(value["class_path"])
            return target(**build(target, value["init_args"]))
    if isinstance(value, dict | list) and has_structure(annotation):
        return _built_items(value, annotation)
    return read(value, annotation)[0]


def _built_items(value: dict[str, Value] | list[Value], annotation: TypeHint) -> object:
    if isinstance(value, dict):
        return {key: _built(item, item_type(annotation, dict)) for key, item in value.items()}
    items = [_built(item, item_type(annotation, list, index)) for index, item in enumerate(value)]
    origins = (get_origin(member) or member for member in alternatives(annotation))
    container = next((origin for origin in origins if origin in (list, tuple, set, frozenset)), list)
    return container(items)


@dataclass(frozen=True)
class Configuration:
    """The checked and complete configuration of a run."""

    values: dict[str, Value]
    """Plain nested values of the five sections, defaults included."""

    @property
    def seed(self) -> int:
        """The run's seed, `seed_everything`."""
        return int(self.values["seed_everything"])

    def of_seed(self, seed: int) -> "Configuration":
        """Copy the configuration with another seed, which is added to the run's name, if any."""
        tracking = self.values["tracking"]
        name = tracking["run_name"] and f"{tracking['run_name']} seed {seed}"
        return Configuration({**self.values, "seed_everything": seed, "tracking": {**tracking, "run_name": name}})

    def named(self, name: str) -> "Configuration":
        """Copy the configuration with another name of the run."""
        return Configuration({**self.values, "tracking": {**self.values["tracking"], "run_name": name}})

    def dump(self) -> str:
        """Return YAML that `--config` reads as the same configuration."""
        return write_text(self.values)

    def data(self) -> LightningDataModule:
        """Build the data module."""
        target = import_class(self.values["data"]["class_path"])
        built: LightningDataModule = target(**build(target, self.values["data"]["init_args"]))
        return built

    def model(self, facts: Mapping[str, Any]) -> LightningModule:
        """Build the model.

        Args:
            facts: arguments that depend on the data (`labels`, `vocabulary`, ...); the model is passed those it takes.

        Raises:
            ConfigError: the model needs a fact that is missing.
        """
        target = import_class(self.values["model"]["class_path"])
        taken = parameters_of(target)
        for name, parameter in taken.items():
            if parameter.is_from_data and parameter.is_required and name not in facts:
                data = self.values["data"]["class_path"]
                raise ConfigError(f"{target.__name__} needs `{name}` from the data, and {data} does not provide it.")
        known = {name: fact for name, fact in facts.items() if name in taken}
        built: LightningModule = target(**(build(target, self.values["model"]["init_args"]) | known))
        return built

    def facts_among(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Select those of a model's arguments that came from the data."""
        taken = parameters_of(import_class(self.values["model"]["class_path"]))
        return {name: value for name, value in arguments.items() if name in taken and taken[name].is_from_data}

    def trainer_arguments(self) -> dict[str, Any]:
        """Build the arguments of Lightning's Trainer without `logger` and `default_root_dir`. Raises: ConfigError.

        Callbacks and plugins are lists.
        """
        try:
            arguments = build(Trainer, self.values["trainer"])
        except ConfigError:
            raise
        except Exception as error:  # of the constructors of callbacks, strategies and plugins
            raise ConfigError(f"trainer: {plain(str(error), 500)}") from error
        for name in ("callbacks", "plugins"):
            given = arguments[name] or []
            arguments[name] = given if isinstance(given, list) else [given]
        return arguments

    def callbacks(self) -> list[tuple[type, dict[str, Value]]]:
        """Return class and arguments of each of Lightning's callbacks that the configuration names."""
        given = self.values["trainer"]["callbacks"] or []
        listed = given if isinstance(given, list) else [given]
        kinds = [import_class(spec["class_path"]) for spec in listed]
        return [(kind, build(kind, spec["init_args"])) for kind, spec in zip(kinds, listed, strict=True)]

    def tracking(self) -> TrackingConfig:
        """Build the settings of tracking."""
        return TrackingConfig(**build(TrackingConfig, self.values["tracking"]))


def parse(arguments: Sequence[str], *, saved: Mapping[str, Any] | None = None) -> Configuration:
    """Parse the configuration given by files and arguments, from left to right; later values override earlier ones.

    Args:
        arguments: `--config FILE_OR_EXPERIMENT`, `--SECTION.SETTING VALUE`, `--allow_modules MODULE,...`,
            `--print_config`, `--help_all`.
        saved: the stored configuration of a run, which files and arguments override.

    Raises:
        ConfigError: a file, a setting or a value cannot be used.
        Shown: `--print_config` or `--help_all` is among the arguments.
    """
    given = list(options(arguments))
    modules = [module for name, text in given if name == "--allow_modules" for module in text.split(",")]
    draft = Draft()
    draft.add_values(saved or {})
    for name, text in given:
        if name == "--config":
            draft.add_file(find_config(text))
        elif name not in (*FLAGS, "--allow_modules"):
            draft.add_values(nest(name.removeprefix("--"), Text(text)))
    checker = Checker(draft, AllowedClasses(modules))
    if ("--help_all", "") in given:
        raise Shown(_full_help(checker))
    configuration = Configuration(checker.arguments(draft.values, SECTIONS, ()))
    if ("--print_config", "") in given:
        raise Shown(configuration.dump().rstrip())
    return configuration


def completed(saved: Mapping[str, Any], now: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return stored sections with the defaults of the settings that did not exist when they were stored.

    Args:
        now: sections of a checked configuration, whose classes the stored ones may name.
    """
    draft = Draft()
    draft.add_values(saved)
    sections = {name: SECTIONS[name] for name in saved if name in SECTIONS}
    try:
        return Checker(draft, AllowedClasses(set(_modules(now)))).arguments(draft.values, sections, ())
    except ConfigError:  # a stored value that this version refuses: `now` has another
        return saved


def _modules(value: Any) -> Iterator[str]:
    """Yield the modules of the classes that a value names."""
    if isinstance(value, Mapping) and isinstance(path := value.get("class_path"), str):
        yield path.rpartition(".")[0]
    if isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _modules(item)


def _full_help(checker: Checker) -> str:
    """Describe every setting; those of model and data only when their classes are chosen."""
    chosen = {name: item for name, item in SECTIONS.items() if name in checker.draft.values or not item.is_required}
    values = checker.arguments(checker.draft.values, chosen, ())
    missing = [name for name in SECTIONS if name not in chosen]
    note = [f"Choose {' and '.join(missing)} (--config NAME) to see their settings too."] if missing else []
    return "\n".join([*describe(values, chosen), *note])
