"""Compares code, packages, data, settings and hardware of a run with the current ones, before it is repeated."""

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lightrail.datamodules.base import SplitSummary
from lightrail.project.basics.errors import DataError, Refusal
from lightrail.project.basics.hardware import set_threads
from lightrail.project.basics.reading import reading
from lightrail.project.configuration import Configuration, parse
from lightrail.project.configuration.sources import options
from lightrail.project.provenance.recording import hardware
from lightrail.project.reproducing.code import CodeChanges, code_changes
from lightrail.project.reproducing.environment_changes import PackageChanges, hardware_changes, package_changes
from lightrail.project.reproducing.original import Original
from lightrail.project.running.build import build_any
from lightrail.project.running.resuming import changed_settings
from lightrail.project.tracking.lookup import DAMAGED

if TYPE_CHECKING:
    from mlflow.entities import Dataset

CHANGED_TAG = "lightrail.changed."
SOURCES = ("data.init_args.path", "data.init_args.validation_path", "data.init_args.test_path")
"""Settings that name files, whose content is compared."""
APPEARANCE = ("trainer.enable_progress_bar", "trainer.enable_model_summary")
KINDS = ("code", "packages", "data", "configuration", "hardware")
NUM_DIGITS = 10
"""Number of digits of a digest in the report."""


@dataclass(frozen=True)
class SettingChanges:
    """Changes of settings, one line each."""

    given: list[str] = field(default_factory=list)
    """Changes on the command line."""
    resumed: list[str] = field(default_factory=list)
    """Changes when the run was resumed: no single configuration reproduces it exactly."""
    notes: list[str] = field(default_factory=list)
    """Changes on the command line of settings that do not affect numbers."""


def setting_changes(original: Original, own: Configuration, now: Configuration) -> SettingChanges:
    """Return the settings that the command line changes, and those that a resume changed in the run."""
    changes = changed_settings(own.values, now.values)
    words = {name: f"{name.replace('.init_args', '')}: {old} -> {new}" for name, (old, new) in changes.items()}
    notes = [words.pop(name) for name in (*SOURCES, *APPEARANCE) if name in words]
    resumed = [
        f"{tag.removeprefix(CHANGED_TAG).replace('.init_args', '')} was changed when the run was resumed: {change}"
        for tag, change in sorted(original.tags.items())
        if tag.startswith(CHANGED_TAG)
    ]
    return SettingChanges([*words.values()], resumed, notes)


def without_changes(settings: Sequence[str]) -> list[str]:
    """Return the arguments without those that may affect training."""
    harmless = {name.replace(".init_args", "") for name in (*SOURCES, *APPEARANCE)} | {"allow_modules"}
    kept = []
    for option, text in options(settings):
        name = option.removeprefix("--").replace(".init_args", "")
        if name in harmless or name.startswith("tracking."):
            kept.append(f"{option}={text}")
    return kept


def data_changes(original: Original, summaries: Sequence[SplitSummary]) -> list[str]:
    """Compare the content of each split, under whatever file name, with the run's record."""
    then = {item.dataset.name: item.dataset for item in original.run.inputs.dataset_inputs}
    return [
        f"{now.name} ({now.source}): {_then(then.get(now.name))} -> {_in_words(now.num_rows, now.digest)}"
        for now in summaries
        if now.name not in then or not now.digest.startswith(then[now.name].digest)
    ]


def _then(dataset: "Dataset | None") -> str:
    if dataset is None:
        return "not recorded"
    with suppress(Exception):  # a store may hold any text
        return _in_words(int(json.loads(dataset.profile)["num_rows"]), dataset.digest)
    return f"digest {dataset.digest[:NUM_DIGITS]}"


def _in_words(num_rows: int, digest: str) -> str:
    return f"{num_rows} rows, digest {digest[:NUM_DIGITS]}"


@dataclass
class Differences:
    """Changes since a run, as lines of text. Only those that may affect numbers count."""

    counted: dict[str, list[str]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    notes: list[str] = field(default_factory=list)
    """Changes that do not affect numbers."""

    def add(self, kind: str, lines: Iterable[str], notes: Iterable[str] = ()) -> None:
        """Add changes of one of `KINDS`, and notes."""
        self.counted[kind] += lines
        self.notes += notes

    @property
    def kinds(self) -> list[str]:
        """Those of `KINDS` with changes."""
        return [kind for kind, lines in self.counted.items() if lines]

    def text(self, run_id: str) -> str:
        """Format all changes since the run, grouped by kind."""
        notes = [f"not counted: {note}" for note in self.notes]
        if not self.kinds:
            same = f"{', '.join(KINDS[:-1])} and {KINDS[-1]}"
            return "\n".join([f"nothing differs from run {run_id}: same {same}", *notes])
        lines = [f"differences from run {run_id} (then -> now):"]
        for kind in self.kinds:
            lines += [kind, *(f"  {line}" for line in self.counted[kind])]
        return "\n".join([*lines, *notes])


@dataclass(frozen=True)
class Survey:
    """The changes since a run, and the configuration to repeat it with."""

    differences: Differences
    code: CodeChanges
    packages: PackageChanges
    settings: SettingChanges
    machine: dict[str, Any]
    """The current hardware."""
    configuration: Configuration | None
    """The configuration to repeat the run with; None when it cannot be built here."""
    refusal: Refusal | None
    """The reason why it cannot be built."""

    def to_run(self) -> Configuration:
        """Return the configuration. Raises: Refusal when it cannot be built here, such as for a missing data file."""
        if self.refusal is not None:
            raise self.refusal
        assert self.configuration is not None
        return self.configuration


def survey(original: Original, settings: Sequence[str]) -> Survey:
    """Compare code, packages, data, configuration and hardware of a run with the current ones.

    Args:
        settings: `--SECTION.SETTING VALUE` arguments that override the run's configuration.
    """
    set_threads()
    found, machine = Differences(), hardware()
    with reading(f"run {original.run_id}, its records in environment/", DAMAGED):
        code, packages = code_changes(original), package_changes(original)
        found.add("code", code.lines, code.notes)
        found.add("packages", map(str, packages.counted), packages.notes)
        found.add("hardware", hardware_changes(original.hardware, machine))
    changed, configuration, refusal = SettingChanges(), None, None
    try:
        configuration = configuration_of(original, settings)
        changed = setting_changes(original, parse(_allowing(settings), saved=original.values), configuration)
        found.add("configuration", [*changed.given, *changed.resumed], changed.notes)
        experiment = build_any(configuration, "fit", has_run=True)
        found.add("data", data_changes(original, experiment.summaries()))
        is_other = any(line.startswith("model.init_from:") for line in changed.given)
        if experiment.ancestor is not None and not is_other:
            found.add("data", experiment.ancestor.changes(original.tags))
    except Refusal as error:
        refusal = _placed(original, error)
    except Exception as error:  # such as from code that has changed since
        error.add_note(found.text(original.run_id))
        raise
    return Survey(found, code, packages, changed, machine, configuration, refusal)


def configuration_of(original: Original, settings: Sequence[str]) -> Configuration:
    """Return the run's configuration with `settings` over it, to be recorded in the store of the run."""
    store = [] if any(name == "--tracking.uri" for name, _ in options(settings)) else _same_store(original)
    return parse([*settings, *store], saved=original.values)


def _same_store(original: Original) -> list[str]:
    """Return the setting that records in the store of the run, which may have moved since."""
    return [f"--tracking.uri={original.store}"] if _recorded_store(original) is not None else []


def _recorded_store(original: Original) -> object:
    tracking = original.values.get("tracking")
    return tracking.get("uri") if isinstance(tracking, dict) else None


def _allowing(settings: Sequence[str]) -> list[str]:
    return [f"{name}={text}" for name, text in options(settings) if name == "--allow_modules"]


def _placed(original: Original, error: Refusal) -> Refusal:
    """Add to a refusal the folder that the run's relative paths refer to."""
    copy = " Name a copy of the data with --data.path FILE." if isinstance(error, DataError) else ""
    folder = original.code.get("working_folder")
    return type(error)(f"{error}{copy} Run {original.run_id} was made in the folder {folder or '(not recorded)'}.")
