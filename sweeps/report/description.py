"""What the page of a study's run says first, in Markdown."""

from collections.abc import Sequence

from lightrail.project.basics.tables import markdown_table
from lightrail.project.comparing.markdown import literal
from lightrail.sweeps.report.tables import named, setting_cells, settings_of, short_names, value_cells
from lightrail.sweeps.search.confirming import Confirmation
from lightrail.sweeps.search.definition import Sweep
from lightrail.sweeps.search.outcomes import Outcome, counts_of, ranked

NUM_SHOWN = 10
"""Trials in the table."""


def description(
    outcomes: Sequence[Outcome],
    best: Sequence[Outcome],
    files: Sequence[str],
    sweep: Sweep,
    confirmation: Confirmation | None,
) -> str:
    """Give the best settings, how to train them, and the best of the trials.

    Args:
        files: the configurations of `best`.
    """
    counts = ", ".join(f"{number} {state}" for state, number in counts_of(outcomes).items() if number)
    parts = [f"Sweep over `{sweep.name}`: {counts or 'no trial has ended'}."]
    for own, file in zip(best, files, strict=True):
        parts += [best_line(own, sweep), _settings(own), f"`lightrail fit --config {file}` (the file is an artifact)"]
    if confirmation is not None:
        parts.append(literal(confirmation.verdict))
    if best:
        parts.append(_first_trials(outcomes, sweep))
    parts.append("All trials are in `trials.csv`; `report.html` shows them with all figures.")
    return "\n\n".join(parts)


def lead_of(
    outcomes: Sequence[Outcome], best: Sequence[Outcome], sweep: Sweep, confirmation: Confirmation | None
) -> str:
    """Give the same in a sentence or two of plain text."""
    names = short_names(settings_of(outcomes, sweep))
    counts = ", ".join(f"{number} {state}" for state, number in counts_of(outcomes).items() if number)
    told = [f"{counts or 'No trial has ended'}."]
    told += [f"{best_line(own, sweep).replace('**', '')} with {', '.join(named(own.settings, names))}." for own in best]
    return " ".join([*told, *([confirmation.verdict] if confirmation is not None else [])])


def best_line(best: Outcome, sweep: Sweep) -> str:
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
