"""The configuration of a run: parsed from files and the command line, completed, and built into objects."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, TypeAlias, get_origin

from annotated_types import Interval
from lightning.pytorch import LightningDataModule, LightningModule, Trainer

from lightrail.datamodules.base import DataModule
from lightrail.datamodules.own_loaders import OwnLoaders
from lightrail.lightning_modules.base import TaskModule
from lightrail.project.basics.annotations import TypeHint, alternatives, item_type
from lightrail.project.basics.catalogue import form_for_words
from lightrail.project.basics.did_you_mean import nearest
from lightrail.project.basics.errors import ConfigError, Shown, plain
from lightrail.project.configuration.adapting import is_for_other_data, writing
from lightrail.project.configuration.checking import Checker
from lightrail.project.configuration.classes import AllowedClasses, import_class, import_path
from lightrail.project.configuration.describing import describe
from lightrail.project.configuration.parameters import (
    INIT_FROM,
    Parameter,
    class_of_type,
    deferred_type,
    has_structure,
    is_fixed,
    is_open,
    parameters_of,
    read,
)
from lightrail.project.configuration.sources import FLAGS, SHORT_NAMES, Draft, Text, find_config, nest, options
from lightrail.project.configuration.yaml_file import Value, write_text
from lightrail.project.tracking.settings import TrackingConfig

NUM_SHOWN = 3
NONE_GIVEN: Mapping[str, Value] = MappingProxyType({})
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
            arguments = build(target, value["init_args"])
            deferred = deferred_type(annotation, target)
            return target(**arguments) if deferred is None else deferred(path=value["class_path"], arguments=arguments)
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
    chosen: tuple[str, ...] = ()
    """What was chosen by the data, in words, where no setting decides on it."""

    @property
    def seed(self) -> int:
        """The run's seed, `seed_everything`."""
        return int(self.values["seed_everything"])

    @property
    def init_from(self) -> str | None:
        """What the weights of a new run start from, `model.init_from`."""
        model = self.values["model"]
        is_ours = parameters_of(import_class(model["class_path"])).get(INIT_FROM.name) is INIT_FROM
        named: str | None = model["init_args"].get(INIT_FROM.name) if is_ours else None
        return named

    def of_seed(self, seed: int) -> "Configuration":
        """Copy the configuration with another seed, which is added to the run's name, if any."""
        tracking = self.values["tracking"]
        name = tracking["run_name"] and f"{tracking['run_name']} seed {seed}"
        values = {**self.values, "seed_everything": seed, "tracking": {**tracking, "run_name": name}}
        return replace(self, values=values)

    def named(self, name: str) -> "Configuration":
        """Copy the configuration with another name of the run."""
        return replace(self, values={**self.values, "tracking": {**self.values["tracking"], "run_name": name}})

    @property
    def has_length(self) -> bool:
        """Whether a setting of the trainer says how long to train; else that is chosen by the data."""
        trainer = self.values["trainer"]
        return trainer["max_epochs"] is not None or trainer["max_steps"] != -1 or trainer["max_time"] is not None

    def of_length(self, max_epochs: int | None, *chosen: str) -> "Configuration":
        """Copy the configuration with a number of epochs, and why it was chosen."""
        trainer = {**self.values["trainer"], "max_epochs": max_epochs}
        return Configuration({**self.values, "trainer": trainer}, (*self.chosen, *chosen))

    def of_few_steps(self, number: int) -> "Configuration":
        """Copy the configuration for a trial run of a few steps, which writes nothing."""
        return replace(self, values={**self.values, "trainer": {**self.values["trainer"], "fast_dev_run": number}})

    def dump(self) -> str:
        """Return YAML that `--config` reads as the same configuration."""
        return write_text(self.values)

    @property
    def is_of_task(self) -> bool:
        """Whether the model is a task of lightrail, and not any other LightningModule."""
        return issubclass(import_class(self.values["model"]["class_path"]), TaskModule)

    @property
    def is_of_data(self) -> bool:
        """Whether the data is a DataModule of lightrail, and not any other LightningDataModule."""
        return issubclass(import_class(self.values["data"]["class_path"]), DataModule)

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
        given = {key: own for key, own in self.values["model"]["init_args"].items() if taken[key] is not INIT_FROM}
        built: LightningModule = target(**(build(target, given) | known))
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


def parse(
    arguments: Sequence[str], *, saved: Mapping[str, Any] | None = None, settings: Mapping[str, Value] = NONE_GIVEN
) -> Configuration:
    """Parse the configuration given by files and arguments, from left to right; later values override earlier ones.

    Args:
        arguments: `--config FILE_OR_EXPERIMENT`, `--SECTION.SETTING VALUE`, `--allow_modules MODULE,...`,
            `--print_config`, `--help_all`.
        saved: the stored configuration of a run, which files and arguments override.
        settings: values by dotted or short name, which override all others: what they are, and not texts to parse.

    Raises:
        ConfigError: a file, a setting or a value cannot be used.
        Shown: `--print_config` or `--help_all` is among the arguments.
    """
    given: list[tuple[str, Value]] = [(name, Text(text)) for name, text in options(arguments)]
    given += [(f"--{SHORT_NAMES.get(name, name)}", value) for name, value in settings.items()]
    modules = [module for name, text in given if name == "--allow_modules" for module in text.split(",")]
    files = {text: find_config(text) for name, text in given if name == "--config"}
    allowed = AllowedClasses(modules, _typed_classes(_merged(given, files, None)))
    draft = _merged(given, files, saved)
    _add_own_loaders(draft, allowed)
    chosen = []
    for text, file in files.items():
        if not is_for_other_data(file, draft):
            continue
        if draft.is_from("trainer.max_epochs", file):  # the length for the experiment's own data
            draft.add_values(nest("trainer.max_epochs", None))
        if not draft.is_from("data.tokenizer", file):  # with which the user chooses the form
            continue
        if (found := writing(_data_of(Checker(draft, allowed)))).is_of_words:
            draft = _merged(given, {**files, text: form_for_words(file) or file}, saved)
            chosen.append(f"settings of {text} for texts of words: {found}")
    checker = Checker(draft, allowed)
    for name in (name.removeprefix("--") for name, _ in given):
        if name not in SECTIONS and name in draft.values:
            _refuse_short(name, checker)
    if ("--help_all", "") in given:
        raise Shown(_full_help(checker))
    configuration = Configuration(checker.arguments(draft.values, SECTIONS, ()), tuple(chosen))
    if ("--print_config", "") in given:
        raise Shown(configuration.dump().rstrip())
    return configuration


def _merged(given: Sequence[tuple[str, Value]], files: Mapping[str, Path], saved: Mapping[str, Any] | None) -> Draft:
    """Merge the options of a command over saved settings; `files` are those of each `--config`."""
    draft = Draft()
    draft.add_values(saved or {})
    for name, value in given:
        if name == "--config":
            draft.add_file(files[value])
        elif name not in (*FLAGS, "--allow_modules"):
            draft.add_values(nest(name.removeprefix("--"), value))
    return draft


def _typed_classes(draft: Draft) -> list[str]:
    """Return the class paths of model and data among the settings that the user typed, in arguments or files."""
    return [path for section in ("model", "data") if (path := _class_in(draft, section))]


def _class_in(draft: Draft, section: str) -> str:
    given = draft.values.get(section)
    path = given.get("class_path") if isinstance(given, dict) else given
    return str(path) if isinstance(path, str) and not path.endswith((".yaml", ".yml")) else ""


def _add_own_loaders(draft: Draft, allowed: AllowedClasses) -> None:
    """Choose the loaders of the model itself as data, where no data is named and the model is no task of lightrail."""
    path = _class_in(draft, "model")
    if "data" in draft.values or not path:
        return
    with suppress(ConfigError):  # which is raised with the place of the setting when all are checked
        if not issubclass(allowed.find(path, (LightningModule,), "model.class_path"), TaskModule):
            draft.add_values({"data": {"class_path": import_path(OwnLoaders)}})


def _data_of(checker: Checker) -> LightningDataModule:
    values = checker.arguments({"data": checker.draft.values["data"]}, {"data": SECTIONS["data"]}, ())
    return Configuration(values).data()


def _refuse_short(name: str, checker: Checker) -> None:
    """Refuse a name without a section by the full names of settings that end so. Raises: ConfigError if there are any.

    Of others the caller raises one that names the sections.
    """
    own = {section: [section] for section in SECTIONS}
    own |= {short: [f"--{short} ({full})"] for short, full in SHORT_NAMES.items()}
    known: dict[str, list[str]] = {}
    given = {section: value for section, value in checker.draft.values.items() if section in SECTIONS}
    with suppress(ConfigError):  # without a class of model or data there are no names of its settings
        for full in _names(checker.arguments(given, SECTIONS, ()), ""):
            known.setdefault(full.rpartition(".")[2], []).append(full)
    known |= own
    for near in nearest(name, known, least_alike=0.75):
        raise ConfigError(f"{plain(name)}: no such setting. Did you mean {' or '.join(known[near][:NUM_SHOWN])}?")


def _names(values: Mapping[str, Value], prefix: str) -> Iterator[str]:
    """Yield the dotted names of settings, without the keys that the command line leaves out."""
    for key, value in values.items():
        name = prefix.removesuffix(".") if key == "init_args" else f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _names(value, f"{name}.")
        elif key != "class_path":
            yield name


def completed(saved: Mapping[str, Any], now: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return stored sections with the defaults of the settings that did not exist when they were stored.

    Args:
        now: sections of a checked configuration, whose classes the stored ones may name.
    """
    draft = Draft()
    draft.add_values(saved)
    sections = {name: SECTIONS[name] for name in saved if name in SECTIONS}
    try:
        return Checker(draft, AllowedClasses(set(modules_named(now)))).arguments(draft.values, sections, ())
    except ConfigError:  # a stored value that this version refuses: `now` has another
        return saved


def modules_named(value: Any) -> Iterator[str]:
    """Yield the modules of the classes that a value names."""
    if isinstance(value, Mapping) and isinstance(path := value.get("class_path"), str):
        yield path.rpartition(".")[0]
    if isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from modules_named(item)


def _full_help(checker: Checker) -> str:
    """Describe every setting; those of model and data only when their classes are chosen."""
    chosen = {name: item for name, item in SECTIONS.items() if name in checker.draft.values or not item.is_required}
    values = checker.arguments(checker.draft.values, chosen, ())
    missing = [name for name in SECTIONS if name not in chosen]
    note = [f"Choose {' and '.join(missing)} (--config NAME) to see their settings too."] if missing else []
    return "\n".join([*describe(values, chosen), *note])
