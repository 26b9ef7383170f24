"""Which settings are not those of the run: given on the command line now, or changed when the run was resumed."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from lightrail.project.running.changed_settings import changed_settings
from lightrail.project.configuration import Configuration
from lightrail.project.configuration.sources import options
from lightrail.project.reproducing.original import Original

CHANGED_TAG = "lightrail.changed."
SOURCES = ("data.init_args.path", "data.init_args.validation_path", "data.init_args.test_path")
"""What they name is compared by its content."""
APPEARANCE = ("trainer.enable_progress_bar", "trainer.enable_model_summary")


@dataclass(frozen=True)
class SettingChanges:
    """Lines that tell each change."""

    given: list[str] = field(default_factory=list)
    """On the command line."""
    resumed: list[str] = field(default_factory=list)
    """When the run was resumed: it has not one configuration, and cannot be made again as it was."""
    notes: list[str] = field(default_factory=list)
    """On the command line too, of settings that move no number."""


def setting_changes(original: Original, own: Configuration, now: Configuration) -> SettingChanges:
    """Tell what the command line changes in the run's own configuration, and what a resume changed in the run."""
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
    """Leave out the arguments that may change what is trained."""
    harmless = {name.replace(".init_args", "") for name in (*SOURCES, *APPEARANCE)} | {"allow_modules"}
    kept = []
    for option, text in options(settings):
        name = option.removeprefix("--").replace(".init_args", "")
        if name in harmless or name.startswith("tracking."):
            kept.append(f"{option}={text}")
    return kept
