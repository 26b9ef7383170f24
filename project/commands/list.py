"""`lightrail list`: what ships with lightrail, read from its source, so that it answers at once."""

import sys
from collections.abc import Sequence

from project import catalogue
from project.catalogue import Entry
from project.errors import ConfigError


def run(arguments: Sequence[str]) -> int:
    if arguments:
        raise ConfigError(f"`lightrail list` takes no arguments, found {' '.join(arguments)!r}.")
    sys.stdout.write(listing())
    return 0


def listing() -> str:
    sections = {
        "experiments (lightrail fit --config NAME)": catalogue.experiments(),
        "tasks (model.class_path)": catalogue.tasks(),
        "networks (model.init_args.encoder.class_path)": catalogue.networks(),
        "data modules (data.class_path)": catalogue.data_modules(),
        "embedded data sets": catalogue.embedded_sets(),
    }
    return "\n".join(_section(title, entries) for title, entries in sections.items())


def _section(title: str, entries: Sequence[Entry]) -> str:
    width = max((len(entry.name) for entry in entries), default=0)
    lines = [f"  {entry.name:{width}}  {entry.summary}".rstrip() for entry in entries] or ["  none"]
    return "\n".join([title, *lines, ""])
