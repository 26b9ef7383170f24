"""The trials of a study as a table: for a spreadsheet, and for the study's page."""

import csv
from collections.abc import Sequence
from pathlib import Path

from lightrail.sweeps.search.definition import Sweep
from lightrail.sweeps.search.outcomes import Outcome
from lightrail.sweeps.report.names import short_value


def write_csv(outcomes: Sequence[Outcome], sweep: Sweep, path: Path) -> None:
    """Write a row for each trial, with a column for each setting by its full name."""
    labels = settings_of(outcomes, sweep)
    with path.open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        head = ["trial", "state", *sweep.config.metrics, "last_step", "seconds", "halved_batches", "run_ids", "failure"]
        table.writerow([*head, *labels])
        for own in outcomes:
            values: Sequence[float | str] = own.values or [""] * len(sweep.config.metrics)
            facts = [own.last_step, own.seconds, own.is_halved, " ".join(own.runs.values()), own.failure]
            table.writerow([own.number, own.state, *values, *facts, *(own.settings.get(label) for label in labels)])


def settings_of(outcomes: Sequence[Outcome], sweep: Sweep) -> list[str]:
    """Give the labels that any trial has, a branch's own after those of the whole space."""
    labels = {label for own in outcomes for label in own.settings}
    whole = [label for label in sweep.space.distributions if label in labels]
    return [*whole, *sorted(labels.difference(whole))]


def value_cells(outcome: Outcome, sweep: Sweep) -> list[str]:
    """Each metric; in brackets what a trial that is not complete had reported."""
    if not outcome.values:
        return [""] * len(sweep.config.metrics)
    return [f"{value:.4f}" if outcome.is_complete else f"({value:.4f})" for value in outcome.values]


def setting_cells(outcome: Outcome, labels: Sequence[str]) -> list[str]:
    settings = outcome.settings
    return [short_value(settings[label]) if label in settings else "" for label in labels]


def seconds_cell(outcome: Outcome) -> str:
    return "" if outcome.seconds is None else f"{outcome.seconds:.1f}"
