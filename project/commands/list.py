"""`lightrail list`: shipped experiments and classes, read from the source without importing it; and the last runs."""

import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING

from lightrail.project.basics import catalogue
from lightrail.project.basics.catalogue import Entry
from lightrail.project.basics.errors import ConfigError
from lightrail.project.basics.option_parser import OptionParser
from lightrail.project.basics.tables import aligned
from lightrail.project.tracking.settings import TrackingConfig

if TYPE_CHECKING:
    from mlflow.entities import Run

NUM_RUNS = 20
MOST_CHARACTERS = 300
"""Maximum width of a column."""
COLUMNS = ("run", "status", "started", "type", "name", "result")


def run(arguments: Sequence[str]) -> int:
    """Print the shipped experiments and classes, or with `runs` the last runs. Raises: ConfigError."""
    if arguments[:1] == ["runs"]:
        options = OptionParser("list runs").read(arguments[1:])
        sys.stdout.write(runs_listing(TrackingConfig(uri=options.uri)))
        return 0
    if arguments:
        raise ConfigError(f"`lightrail list` takes no arguments, or `runs`; found {' '.join(arguments)!r}.")
    sys.stdout.write(listing())
    return 0


def runs_listing(tracking: TrackingConfig) -> str:
    """Format the last runs of the store, newest first. Runs whose process has died are closed before."""
    from lightrail.project.tracking.lookup import last_runs
    from lightrail.project.tracking.recovery import close_dead_runs
    from lightrail.project.tracking.store import open_store, store_uri

    client = open_store(store_uri(tracking), create=False)
    close_dead_runs(client)
    return "\n".join([*aligned([COLUMNS, *map(_row, last_runs(client, NUM_RUNS))]), ""])


def _row(found: "Run") -> tuple[str, ...]:
    tags, began = found.data.tags, "-"
    with suppress(ValueError, OverflowError, OSError):  # a time that no calendar has
        began = f"{datetime.fromtimestamp(found.info.start_time / 1000):%Y-%m-%d %H:%M}"
    what = " ".join(tags[name] for name in ("lightrail.kind", "lightrail.task") if name in tags)
    tested = {name: value for name, value in sorted(found.data.metrics.items()) if name.startswith("test/")}
    result = " ".join(f"{name.removeprefix('test/')}={value:.4f}" for name, value in tested.items())
    cells = (found.info.run_id, found.info.status, began, what, found.info.run_name or "", result)
    return tuple(cell if len(cell) <= MOST_CHARACTERS else f"{cell[: MOST_CHARACTERS - 3]}..." for cell in cells)


def listing() -> str:
    """Format the shipped experiments, sweeps, tasks, networks, data modules and embedded data sets."""
    sections = {
        "experiments (lightrail fit --config NAME)": catalogue.experiments(),
        "sweeps (lightrail sweep --config NAME)": catalogue.sweeps(),
        "tasks (model.class_path)": catalogue.tasks(),
        "networks (model.init_args.encoder.class_path; of a language model, decoder.class_path)": catalogue.networks(),
        "data modules (data.class_path)": catalogue.data_modules(),
        "embedded data sets": catalogue.embedded_sets(),
    }
    if plugins := catalogue.plugin_classes():
        sections["tasks, networks and data modules of installed plugins"] = plugins
    return "\n".join(_section(title, entries) for title, entries in sections.items())


def _section(title: str, entries: Sequence[Entry]) -> str:
    width = max((len(entry.name) for entry in entries), default=0)
    lines = [f"  {entry.name:{width}}  {entry.summary}".rstrip() for entry in entries] or ["  none"]
    return "\n".join([title, *lines, ""])
