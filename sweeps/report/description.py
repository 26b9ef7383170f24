"""A study as text: Markdown for the page of its MLflow run, and tables for a terminal."""

import textwrap
from collections import Counter
from collections.abc import Sequence

import optuna

from lightrail.project.basics.tables import literal, markdown_table
from lightrail.project.findings.finding import Finding
from lightrail.project.findings.rules import in_markdown
from lightrail.sweeps.report.tables import named, seconds_cell, setting_cells, settings_of, short_names, value_cells
from lightrail.sweeps.search.confirming import Confirmation, announcement
from lightrail.sweeps.search.definition import Sweep
from lightrail.sweeps.search.outcomes import Outcome, best_outcomes, counts_of, outcomes_of, ranked

NUM_SHOWN = 10
"""Number of trials in the table."""


def description(
    outcomes: Sequence[Outcome],
    best: Sequence[Outcome],
    files: Sequence[str],
    sweep: Sweep,
    confirmation: Confirmation | None,
    found: Sequence[Finding],
) -> str:
    """Return the study's description in Markdown: the best settings, how to train them, and the best trials.

    Args:
        files: names of the configuration files of `best`.
    """
    counts = ", ".join(f"{number} {state}" for state, number in counts_of(outcomes).items() if number)
    parts = [f"Sweep over `{sweep.name}`: {counts or 'no trial has ended'}."]
    for own, file in zip(best, files, strict=True):
        parts += [best_line(own, sweep), _settings(own), f"`lightrail fit --config {file}` (the file is an artifact)"]
    if confirmation is not None:
        parts.append(literal(confirmation.verdict))
    if found:
        parts.append(in_markdown(found))
    if best:
        parts.append(_first_trials(outcomes, sweep))
    parts.append("All trials are in `trials.csv`; `report.html` shows them with all figures.")
    return "\n\n".join(parts)


def lead_of(
    outcomes: Sequence[Outcome], best: Sequence[Outcome], sweep: Sweep, confirmation: Confirmation | None
) -> str:
    """Return the study's result in plain sentences: counts of trials, the best with its settings, the verdict."""
    names = short_names(settings_of(outcomes, sweep))
    counts = ", ".join(f"{number} {state}" for state, number in counts_of(outcomes).items() if number)
    lead = [f"{counts or 'No trial has ended'}."]
    lead += [f"{best_line(own, sweep).replace('**', '')} with {', '.join(named(own.settings, names))}." for own in best]
    return " ".join([*lead, *([confirmation.verdict] if confirmation is not None else [])])


def best_line(best: Outcome, sweep: Sweep) -> str:
    """Return number and metrics of a best trial, in Markdown."""
    values = ", ".join(f"{name} **{value:.4f}**" for name, value in zip(sweep.config.metrics, best.values, strict=True))
    place = "Best trial" if len(sweep.config.metrics) == 1 else "On the Pareto front: trial"
    return f"{place} {best.number}: {values}"


def _settings(best: Outcome) -> str:
    names = {name: name for name in best.settings}
    return "\n".join(f"- `{own}`" for own in named(best.settings, names))


def _first_trials(outcomes: Sequence[Outcome], sweep: Sweep) -> str:
    order = ranked(outcomes, sweep)[:NUM_SHOWN]
    labels = settings_of(order, sweep)
    metrics = [metric.removeprefix("val/") for metric in sweep.config.metrics]
    head = ["trial", *metrics, *(literal(name) for name in short_names(labels).values())]
    rows = [
        [str(own.number), *value_cells(own, sweep), *(literal(cell) for cell in setting_cells(own, labels))]
        for own in order
    ]
    return markdown_table(head, rows)


WIDTH = 120
"""Width of a terminal, in characters."""
NARROWEST = 24
"""Minimum width of the settings of a trial when they share one column, in characters."""


def status_table(study: optuna.Study, sweep: Sweep) -> str:
    """Return the counts of trials, a table of them by number, and the best; at most 120 characters wide.

    A value in brackets is the best that an incomplete trial has reported.
    """
    outcomes = outcomes_of(study, sweep)
    counts = Counter(own.state for own in outcomes)
    done = sum(counts[state] for state in ("complete", "pruned", "fail"))
    each = ", ".join(f"{number} {state}" for state, number in sorted(counts.items()))
    lines = [f"sweep {sweep.name}: {done} of {sweep.config.n_trials} trials are finished{f' ({each})' if each else ''}"]
    lines += filter(None, [announcement(sweep)])
    if outcomes:
        lines += ["", _trials(outcomes, sweep)]
    best = best_outcomes(outcomes, sweep)
    if best:
        lines += ["", *(_best(own, outcomes, sweep) for own in best)]
    lines += [_cut(f"trial {own.number} failed: {own.failure}") for own in outcomes if own.failure]
    return "\n".join(lines)


def _trials(outcomes: Sequence[Outcome], sweep: Sweep) -> str:
    """The table of trials, with a column for each setting if they fit side by side, else one column for all."""
    labels = settings_of(outcomes, sweep)
    names = short_names(labels)
    head = ["trial", "state", *(metric.removeprefix("val/") for metric in sweep.config.metrics), "seconds"]
    rows = [[str(own.number), own.state, *value_cells(own, sweep), seconds_cell(own)] for own in outcomes]
    cells = [setting_cells(own, labels) for own in outcomes]
    wide = markdown_table([*head, *names.values()], [row + own for row, own in zip(rows, cells, strict=True)])
    if len(wide.partition("\n")[0]) <= WIDTH:
        return wide
    left = WIDTH - len(markdown_table(head, rows).partition("\n")[0]) - 3
    narrow = []
    for row, own in zip(rows, outcomes, strict=True):
        parts = textwrap.wrap(" ".join(named(own.settings, names)), max(NARROWEST, left)) or [""]
        narrow += [[*row, parts[0]], *([*[""] * len(row), part] for part in parts[1:])]
    return markdown_table([*head, "settings"], narrow)


def _best(best: Outcome, outcomes: Sequence[Outcome], sweep: Sweep) -> str:
    values = ", ".join(f"{name}={value:.4f}" for name, value in zip(sweep.config.metrics, best.values, strict=True))
    settings = ", ".join(named(best.settings, short_names(settings_of(outcomes, sweep))))
    runs = ", ".join(best.runs.values())
    text = f"best: trial {best.number} with {values} (run {runs}): {settings}"
    return textwrap.fill(text, WIDTH, subsequent_indent="  ")


def _cut(text: str) -> str:
    return textwrap.shorten(text, WIDTH, placeholder=" …")
