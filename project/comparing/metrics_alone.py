"""Runs without stored predictions side by side: their own metrics, without intervals and tests."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lightrail.project.basics.errors import ConfigError
from lightrail.project.basics.tables import as_json, literal, markdown_table
from lightrail.project.comparing.comparison import different_settings
from lightrail.project.tracking.lookup import RESULTS_TAG, SHORT_ID, UNKNOWN_DATA, children_of, short_name, test_metrics
from lightrail.project.tracking.naming import find_run

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

NOT_TESTED = (
    "The runs have no stored predictions: these are the metrics that their models logged, without intervals, and "
    "without a test of whether they differ by chance."
)
DATA_UNKNOWN = "Whether they were tested on the same data is not known."


@dataclass(frozen=True)
class Results:
    """The results of a run, or the means of the runs of `lightrail fit --seeds`."""

    run_id: str
    name: str
    metrics: Mapping[str, float]
    params: Mapping[str, str]
    num_runs: int
    data: str
    """Digest of the test data."""


def have_metrics_alone(client: "MlflowClient", named: Sequence[str]) -> bool:
    """Whether each of these runs is one of a plain module, which stores no predictions. Raises: ConfigError."""
    return all(any(RESULTS_TAG in run.data.tags for run in _runs(client, find_run(client, name))) for name in named)


@dataclass(frozen=True)
class MetricsAlone:
    """The metrics of runs of plain modules side by side."""

    results: Sequence[Results]
    names: Sequence[str]
    settings: Mapping[str, Sequence[str | None]]
    """Settings in which they differ, a value per run."""
    notes: Sequence[str]

    def plain(self) -> dict[str, Any]:
        """Return the results as plain values, of which JSON is made."""
        entries = [
            {"run_id": own.run_id, "name": own.name, "metrics": {name: own.metrics[name] for name in self.names}}
            for own in self.results
        ]
        return {"entries": entries, "settings": self.settings, "notes": self.notes}

    def as_json(self) -> str:
        """Format the results as JSON."""
        return as_json(self.plain()) + "\n"

    def as_markdown(self) -> str:
        """Format the results as Markdown."""
        rows = [
            [
                literal(own.name),
                own.run_id[:SHORT_ID],
                str(own.num_runs),
                *(f"{own.metrics[name]:.4f}" for name in self.names),
            ]
            for own in self.results
        ]
        labels = [literal(own.name) for own in self.results]
        table = markdown_table(["run", "id", "seeds", *map(literal, self.names)], rows)
        parts = [f"# {' / '.join(labels)}", table, *self.notes]
        if self.settings:
            cells = [[literal(name), *(literal(str(value)) for value in own)] for name, own in self.settings.items()]
            parts += ["## Settings that differ", markdown_table(["setting", *labels], cells)]
        return "\n\n".join(parts) + "\n"


def compare_metrics(client: "MlflowClient", named: Sequence[str], chosen: Sequence[str]) -> MetricsAlone:
    """Compare the metrics of runs of plain modules.

    Args:
        chosen: names of metrics; empty for all that the runs share.

    Raises:
        ConfigError: they were tested on different data, or share no metric.
    """
    results = [_results(client, find_run(client, name)) for name in named]
    digests = {result.data for result in results}
    if len(digests) > 1:
        raise ConfigError(f"the runs were tested on different data (digests {', '.join(sorted(digests))}).")
    shared = sorted(set.intersection(*(set(result.metrics) for result in results)))
    missing = [name for name in chosen if name not in shared]
    if missing or not shared:
        what = f"metric {', '.join(missing)}" if missing else "metric"
        raise ConfigError(f"the runs share no {what}; they share {', '.join(shared) or 'none'}. Compare others.")
    notes = [NOT_TESTED, *([DATA_UNKNOWN] if digests == {UNKNOWN_DATA} else [])]
    return MetricsAlone(results, list(chosen) or shared, different_settings([own.params for own in results]), notes)


def _runs(client: "MlflowClient", run: "Run") -> list["Run"]:
    if run.data.tags.get("lightrail.kind") != "seeds":
        return [run]
    return [child for child in children_of(client, run) if child.info.status == "FINISHED"]


def _results(client: "MlflowClient", run: "Run") -> Results:
    runs = _runs(client, run)
    values = [test_metrics(own) for own in runs]
    names = set.intersection(*map(set, values))
    metrics = {name: statistics.fmean(own[name] for own in values) for name in names}
    data = runs[0].data.tags.get("lightrail.test_digest", UNKNOWN_DATA)
    return Results(run.info.run_id, short_name(run), metrics, dict(run.data.params), len(runs), data)
