"""Looking at everything a run was made with, before it is made again."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lightrail.project.running.build import build
from lightrail.project.configuration import Configuration, parse
from lightrail.project.configuration.sources import options
from lightrail.project.basics.errors import DataError, Refusal
from lightrail.project.basics.hardware import set_threads
from lightrail.project.reproducing.code_changes import CodeChanges, code_changes
from lightrail.project.reproducing.data_changes import data_changes
from lightrail.project.reproducing.differences import Differences
from lightrail.project.reproducing.hardware_changes import hardware_changes
from lightrail.project.reproducing.original import Original
from lightrail.project.reproducing.package_changes import PackageChanges, package_changes
from lightrail.project.reproducing.setting_changes import SettingChanges, setting_changes
from lightrail.project.provenance.machine import hardware


@dataclass(frozen=True)
class Survey:
    """What was found."""

    differences: Differences
    code: CodeChanges
    packages: PackageChanges
    settings: SettingChanges
    machine: dict[str, Any]
    """What the hardware is now."""
    configuration: Configuration | None
    """To make the run again with; None when it cannot be built here."""
    refusal: Refusal | None
    """Why it cannot."""

    def to_run(self) -> Configuration:
        """Raises: Refusal when the configuration cannot be built here, such as for a data file that is missing."""
        if self.refusal is not None:
            raise self.refusal
        assert self.configuration is not None
        return self.configuration


def survey(original: Original, settings: Sequence[str]) -> Survey:
    """Compare code, packages, data, configuration and hardware of a run with what is here.

    Args:
        settings: `--SECTION.SETTING VALUE` arguments that count above the run's configuration.
    """
    set_threads()
    found, machine = Differences(), hardware()
    code, packages = code_changes(original), package_changes(original)
    found.add("code", code.lines, code.notes)
    found.add("packages", map(str, packages.counted), packages.notes)
    found.add("hardware", hardware_changes(original.hardware, machine))
    changed, configuration, refusal = SettingChanges(), None, None
    try:
        configuration = configuration_of(original, settings)
        changed = setting_changes(original, parse(_allowing(settings), saved=original.values), configuration)
        found.add("configuration", [*changed.given, *changed.resumed], changed.notes)
        found.add("data", data_changes(original, build(configuration, "fit").data.summaries()))
    except Refusal as error:
        refusal = _placed(original, error)
    except Exception as error:  # of code that is another one than then, for example
        error.add_note(found.text(original.run_id))
        raise
    return Survey(found, code, packages, changed, machine, configuration, refusal)


def configuration_of(original: Original, settings: Sequence[str]) -> Configuration:
    """Return the run's configuration, to be recorded in the store it was found in, with `settings` above it."""
    store = [] if any(name == "--tracking.uri" for name, _ in options(settings)) else _same_store(original)
    return parse([*settings, *store], saved=original.values)


def _same_store(original: Original) -> list[str]:
    """The run may have been made on another machine, or its store may have moved since."""
    return [f"--tracking.uri={original.store}"] if original.values["tracking"]["uri"] is not None else []


def _allowing(settings: Sequence[str]) -> list[str]:
    return [f"{name}={text}" for name, text in options(settings) if name == "--allow_modules"]


def _placed(original: Original, error: Refusal) -> Refusal:
    """The refusal with the folder that the run's relative paths began at."""
    copy = " Name a copy of the data with --data.path FILE." if isinstance(error, DataError) else ""
    folder = original.code.get("working_folder")
    return type(error)(f"{error}{copy} Run {original.run_id} was made in the folder {folder or '(not recorded)'}.")
