"""The comparison of runs as data, before it is formatted as Markdown, HTML or JSON."""

import json
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lightrail.lightning_modules.metrics.scores import Score, StoredScore
from lightrail.project.basics import tables
from lightrail.project.basics.did_you_mean import did_you_mean
from lightrail.project.basics.errors import ConfigError, without_password
from lightrail.project.comparing.entries import (
    Entry,
    Example,
    check_comparable,
    check_same_examples,
    most_different,
    with_common_texts,
)
from lightrail.project.comparing.measuring import (
    CONFIDENCE,
    LEAST_SWAPS,
    NUM_RESAMPLES,
    SIGNIFICANCE,
    Measured,
    Test,
    measure,
)
from lightrail.project.tracking.lookup import SHORT_ID

NUM_EXAMPLES = 10
NOT_OF_THE_EXPERIMENT = "tracking."
"""Prefix of the settings of tracking, which are not compared."""
OWN_SERVER = "http://127.0.0.1:5000"
TESTS: Mapping[Test, str] = {
    "McNemar": "McNemar's exact test for fractions of right examples",
    "randomization": "paired approximate randomization ({swaps:,} swaps) for other metrics",
    "Student": "Student's t, over examples and seeds, where there are several seeds",
}


@dataclass(frozen=True)
class Comparison:
    """The comparison of runs with the first one, the baseline."""

    entries: Sequence[Entry]
    num_rows: int
    main_metric: str
    """The first of the metrics."""
    higher_is_better: Mapping[str, bool]
    """Whether higher is better, by metric."""
    measured: Measured
    examples: Sequence[Example]
    settings: Mapping[str, Sequence[str | None]]
    """Values by setting and run, of the settings that differ; None where a run has no such setting."""
    notes: Sequence[str]
    method: str
    link: str
    """The MLflow page that compares the same runs."""
    link_needs_server: bool
    """Whether `lightrail ui` must be running first."""

    def label(self, number: int) -> str:
        """Return the name of an entry, with its id where another entry has the same name."""
        entry = self.entries[number]
        names = [other.name for other in self.entries]
        seeds = f"{len(entry.runs)} seeds" if len(entry.runs) > 1 else ""
        short_id = entry.run_id[:SHORT_ID] if names.count(entry.name) > 1 else ""
        about = ", ".join(filter(None, (short_id, seeds)))
        return f"{entry.name} ({about})" if about else entry.name


def compare(
    entries: Sequence[Entry],
    uri: str,
    metrics: Sequence[str] = (),
    num_resamples: int = NUM_RESAMPLES,
    num_examples: int = NUM_EXAMPLES,
) -> Comparison:
    """Compare all entries with the first.

    Args:
        uri: the complete address of their store.
        metrics: names of the metrics, with or without `test/`, all of which are tested; empty for all that the runs
            share, of which the one that they were selected by is tested.
        num_resamples: bootstrap resamples; random swaps are at least 10,000.
        num_examples: number of examples to show.

    Raises:
        ConfigError: the runs cannot be compared, or do not share a given metric.
    """
    check_comparable(entries)
    entries, left_out = with_common_texts(entries)
    check_same_examples(entries)
    shared, notes = _shared_scores(entries)
    scores = _chosen(shared, metrics)
    num_swaps = max(LEAST_SWAPS, num_resamples)
    main_metric = next(iter(scores))
    tested = scores if metrics else [main_metric]
    sides = [[run.columns for run in entry.runs] for entry in entries]
    measured = measure(sides, scores, num_resamples, num_swaps, tested=tested)
    has_server = uri.startswith(("http://", "https://"))
    return Comparison(
        entries=entries,
        num_rows=entries[0].runs[0].table.num_rows,
        main_metric=main_metric,
        higher_is_better={name: score.higher_is_better for name, score in scores.items()},
        measured=measured,
        examples=most_different(entries, num_examples),
        settings=different_settings([entry.params for entry in entries]),
        notes=[
            *(note for entry in entries for note in entry.notes),
            *left_out,
            *notes,
            *(f"{name}: the same number as {other}, left out." for name, other in measured.repeated.items()),
            *_untested(scores),
            *_single_runs(entries),
        ],
        method=_method(measured, num_resamples, num_swaps),
        link=f"{without_password(uri) if has_server else OWN_SERVER}/{page_of_runs(entries)}",
        link_needs_server=not has_server,
    )


def page_of_runs(entries: Sequence[Entry]) -> str:
    """Return the path of MLflow's own comparison of the runs, to append to the address of a server."""
    runs = json.dumps([entry.run_id for entry in entries], separators=(",", ":"))
    experiments = json.dumps(list(dict.fromkeys(entry.experiment_id for entry in entries)), separators=(",", ":"))
    chosen = f"runs={urllib.parse.quote(runs)}&experiments={urllib.parse.quote(experiments)}"
    return f"#/compare-runs?{chosen}&workflowType=machine_learning"  # without it MLflow opens its pages for prompts


def different_settings(params: Sequence[Mapping[str, str]]) -> dict[str, list[str | None]]:
    """Return the values of the settings that differ between the runs, those of tracking aside."""
    names = sorted({name for own in params for name in own if not name.startswith(NOT_OF_THE_EXPERIMENT)})
    values = {name: [own.get(name) for own in params] for name in names}
    return {name: own for name, own in values.items() if len(set(own)) > 1}


def _shared_scores(entries: Sequence[Entry]) -> tuple[dict[str, StoredScore], list[str]]:
    """Return the metrics of all runs, the main one first, and notes on equally named ones computed differently."""
    first, *others = [run for entry in entries for run in entry.runs]
    names = [name for name in first.scores if all(name in other.scores for other in others)]
    names.sort(key=lambda name: name != first.main_metric)
    shared = {
        name: first.scores[name] for name in names if all(first.scores[name] == run.scores[name] for run in others)
    }
    if not shared:
        unlike = next(
            run for run in others if not any(first.scores[name] == run.scores.get(name) for name in first.scores)
        )
        raise ConfigError(
            f"runs {first} and {unlike} share no metric: {', '.join(first.scores)} / {', '.join(unlike.scores)}. "
            f"Compare runs of the same task."
        )
    unlike_names = [name for name in names if name not in shared]
    return shared, [f"{name} is left out: the runs compute it differently." for name in unlike_names]


def _chosen(shared: Mapping[str, StoredScore], metrics: Sequence[str]) -> Mapping[str, StoredScore]:
    names = [metric.removeprefix("test/") for metric in metrics]
    for name in names:
        if name not in shared:
            raise ConfigError(f"--metric {name}: the runs share no such metric.{did_you_mean(name, shared)}")
    chosen = {name: shared[name] for name in names} or dict(shared)
    first = next((name for name, score in chosen.items() if isinstance(score, Score)), None)
    if first is None:
        testable = ", ".join(name for name, score in shared.items() if isinstance(score, Score))
        raise ConfigError(f"--metric {', '.join(chosen)}: cannot be tested for significance. Add one of: {testable}.")
    return {first: chosen.pop(first), **chosen}


def _untested(scores: Mapping[str, StoredScore]) -> list[str]:
    names = [name for name, score in scores.items() if not isinstance(score, Score)]
    return [f"{name}: no interval and no test, as it is not computed from sums over examples." for name in names]


def _single_runs(entries: Sequence[Entry]) -> list[str]:
    if not any(len(entry.runs) > 1 for entry in entries):
        return []
    alone = [entry.name for entry in entries if len(entry.runs) == 1]
    return [f"{name}: a single run has no spread between seeds; none is counted for it." for name in alone]


def _method(measured: Measured, num_resamples: int, num_swaps: int) -> str:
    used = [difference.test for difference in measured.differences if difference.test]
    tests = ", ".join(text.format(swaps=num_swaps) for test, text in TESTS.items() if test in used)
    correction = "a difference is shown where p"
    if len(used) > 1:
        correction = f"with Holm's correction for {len(used)} comparisons, {correction}"
    others = len(used) < len(measured.differences)
    untested = " Other metrics are not tested: name those that matter with --metric." if others else ""
    seeds = ", and from the spread between seeds where there are several" if "Student" in used else ""
    return (
        f"Intervals hold {100 * CONFIDENCE:.0f} %, from {num_resamples:,} paired bootstrap resamples of the "
        f"examples{seeds}. P values are from {tests}; {correction} is below {SIGNIFICANCE}.{untested}"
    )


def as_plain(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as plain values, with None for NaN and infinity, which JSON cannot represent."""
    plain = {
        "entries": [
            {
                "run_id": entry.run_id,
                "name": entry.name,
                "experiment_id": entry.experiment_id,
                "is_group": entry.is_group,
                "runs": [run.run_id for run in entry.runs],
                "metrics": {metric: asdict(own[place]) for metric, own in comparison.measured.estimates.items()},
            }
            for place, entry in enumerate(comparison.entries)
        ],
        "differences": [
            {
                **asdict(own),
                "run_id": comparison.entries[own.side].run_id,
                "baseline": comparison.entries[0].run_id,
                "is_better": own.is_better,
                "verdict": own.verdict,
            }
            for own in comparison.measured.differences
        ],
        "num_examples": comparison.num_rows,
        "main_metric": comparison.main_metric,
        "examples": [asdict(example) for example in comparison.examples],
        "settings": comparison.settings,
        "notes": list(comparison.notes),
        "method": comparison.method,
        "mlflow": comparison.link,
    }
    found: dict[str, Any] = tables.defined(plain)
    return found


def as_json(comparison: Comparison) -> str:
    """Format a comparison as JSON."""
    return tables.as_json(as_plain(comparison)) + "\n"
