"""`lightrail list`: shipped experiments and classes, read from the source without importing it; and the last runs."""

import sys
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from lightrail.project.basics import catalogue
from lightrail.project.basics.catalogue import Entry
from lightrail.project.basics.errors import ConfigError, plain
from lightrail.project.basics.option_parser import OptionParser
from lightrail.project.basics.tables import aligned, as_json
from lightrail.project.tracking.settings import TrackingConfig

if TYPE_CHECKING:
    from mlflow.entities import Run

NUM_RUNS = 20
NUM_READ = 1000
"""Runs that are read at once; those below a sweep, or a group of seeds, share its line."""
COLUMNS = ("run", "status", "started", "name", "result")
MOST_CHARACTERS = 20
MOST_CHARACTERS_OF_RESULT = 25
"""Maximum width of a name and of a result, with which a line fits into 80 columns."""
BEST = "best/"
"""Prefix of the metrics of a sweep's best trial."""
METRIC_TAG = "lightrail.metric"
"""Tag of a run: the metric by which its best checkpoint is selected, without `val/`."""


def run(arguments: Sequence[str]) -> int:
    """Print the shipped experiments and classes, or with `runs` the last runs. Raises: ConfigError."""
    if arguments[:1] == ["runs"]:
        parser = OptionParser("list runs")
        parser.add_argument("--number", type=int, default=NUM_RUNS)
        parser.add_argument("--json", action="store_true")
        options = parser.read(arguments[1:])
        if options.number < 1:
            raise ConfigError(f"--number {options.number}: expected a number of runs above 0.")
        tracking = TrackingConfig(uri=options.uri)
        if options.json:
            rows = [plain_run(found) for found in recorded_runs(tracking, options.number)]
            sys.stdout.write(f"{as_json(rows)}\n")
        else:
            sys.stdout.write(runs_listing(tracking, options.number))
        return 0
    if arguments:
        raise ConfigError(f"`lightrail list` takes no arguments, or `runs`; found {' '.join(arguments)!r}.")
    sys.stdout.write(listing())
    return 0


def runs_listing(tracking: TrackingConfig, number: int = NUM_RUNS) -> str:
    """Format the last runs of the store, newest first, one line each. Runs whose process has died are closed before.

    A line fits into 80 columns. The runs of a sweep, or of several seeds, are counted in the line of their parent.
    """
    found = recorded_runs(tracking, max(NUM_READ, number))
    ids = {run.info.run_id for run in found}
    parents = [run.data.tags.get("mlflow.parentRunId") for run in found]
    num_children = Counter(parents)
    shown = [run for run, parent in zip(found, parents, strict=True) if parent not in ids][:number]
    return "\n".join([*aligned([COLUMNS, *(_row(run, num_children[run.info.run_id]) for run in shown)]), ""])


def recorded_runs(tracking: TrackingConfig, number: int) -> "list[Run]":
    """Return the last runs of the store, newest first. Runs whose process has died are closed before."""
    from lightrail.project.tracking.lookup import last_runs
    from lightrail.project.tracking.recovery import close_dead_runs
    from lightrail.project.tracking.store import open_store, store_uri

    client = open_store(store_uri(tracking), create=False)
    close_dead_runs(client)
    return last_runs(client, number)


def plain_run(found: "Run") -> dict[str, Any]:
    """Return a run as plain values: what it is, when it started (UTC), and its results."""
    from lightrail.project.tracking.lookup import test_metrics

    tags, milliseconds = found.data.tags, found.info.start_time
    best = {name: own for name, own in found.data.metrics.items() if name.startswith(BEST)}
    started = datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat() if milliseconds else None
    return {
        "run_id": found.info.run_id,
        "name": found.info.run_name,
        "status": found.info.status,
        "started": started,
        "kind": tags.get("lightrail.kind"),
        "task": tags.get("lightrail.task"),
        "parent": tags.get("mlflow.parentRunId"),
        "metrics": dict(sorted({**best, **test_metrics(found)}.items())),
    }


def _row(found: "Run", num_children: int) -> tuple[str, ...]:
    from lightrail.project.tracking.lookup import SHORT_ID, started

    below = "" if not num_children else "1 run" if num_children == 1 else f"{num_children} runs"
    result = ", ".join(filter(None, (below, _result(found))))
    name = plain(found.info.run_name or "", MOST_CHARACTERS)
    return (
        found.info.run_id[:SHORT_ID],
        found.info.status,
        started(found),
        name,
        plain(result, MOST_CHARACTERS_OF_RESULT),
    )


def _result(found: "Run") -> str:
    """Return the metric that a run was selected by, of its test, or of a sweep's best trial; "" before there is one."""
    from lightrail.project.tracking.lookup import test_metrics

    metrics, selected = found.data.metrics, found.data.tags.get(METRIC_TAG, "")
    prefixes = ("test/", BEST)
    named = [f"{prefix}{selected}" for prefix in prefixes]
    others = sorted(name for name in metrics if name.startswith(prefixes) and not name.endswith(("/loss", "_sd")))
    for name in (*named, *others, "test/loss", "best/loss"):
        if name in metrics:
            return f"{name.partition('/')[2]} {metrics[name]:.4f}"
    for name, value in test_metrics(found).items():  # of a plain module, by its own name
        return f"{name} {value:.4f}"
    return ""


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
