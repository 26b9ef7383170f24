"""The trials of a study as a table, the names of its settings, and its best configurations."""

import csv
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightrail.sweeps.search.definition import Sweep
from lightrail.sweeps.search.outcomes import Outcome, configuration_of


def short_names(names: Collection[str]) -> dict[str, str]:
    """Shorten dotted names to their shortest unique ends; an end of three or more parts to its first and last.

    >>> list(short_names(["model.optim.lr", "net.lstm.model.depth", "net.cnn.model.depth"]).values())
    ['lr', 'lstm…depth', 'cnn…depth']
    """
    ends = {name: _own_end(name, names) for name in names}
    short = {name: end if len(end) < 3 else [end[0] + "…" + end[-1]] for name, end in ends.items()}
    joined = {name: ".".join(parts) for name, parts in short.items()}
    is_clear = len(set(joined.values())) == len(joined)
    return joined if is_clear else {name: ".".join(end) for name, end in ends.items()}


def _own_end(name: str, names: Collection[str]) -> list[str]:
    parts = name.split(".")
    for size in range(1, len(parts)):
        if not any(other != name and other.split(".")[-size:] == parts[-size:] for other in names):
            return parts[-size:]
    return parts


def short_value(value: Any) -> str:
    """Format a setting's value in few characters.

    >>> short_value(0.00123456), short_value(3), short_value("lstm"), short_value(None)
    ('0.00123', '3', 'lstm', 'null')
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def named(settings: Mapping[str, Any], short: Mapping[str, str]) -> list[str]:
    """Format each setting as `name=value`."""
    return [f"{short[name]}={short_value(value)}" for name, value in settings.items()]


def write_csv(outcomes: Sequence[Outcome], sweep: Sweep, path: Path) -> None:
    """Write the trials as CSV: a row for each, with a column for each setting by its full name."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows(trial_rows(outcomes, sweep))


def trial_rows(outcomes: Sequence[Outcome], sweep: Sweep) -> Iterator[list[Any]]:
    """Yield the names of the columns, and a row for each trial, with "" or None where it has no value."""
    labels = settings_of(outcomes, sweep)
    head = ["trial", "state", *sweep.config.metrics, "last_step", "seconds", "halved_batches", "run_ids", "failure"]
    yield [*head, *labels]
    for own in outcomes:
        values: Sequence[float | str] = own.values or [""] * len(sweep.config.metrics)
        facts = [own.last_step, own.seconds, own.is_halved, " ".join(own.runs.values()), own.failure]
        yield [own.number, own.state, *values, *facts, *(own.settings.get(label) for label in labels)]


def plain_trials(outcomes: Sequence[Outcome], sweep: Sweep) -> list[dict[str, Any]]:
    """Return the trials as mappings by the names of the columns; settings that a trial does not have are None."""
    head, *rows = trial_rows(outcomes, sweep)
    return [dict(zip(head, row, strict=True)) for row in rows]


def settings_of(outcomes: Sequence[Outcome], sweep: Sweep) -> list[str]:
    """Return the labels of all settings of the trials, those of branches after those of the whole space."""
    labels = {label for own in outcomes for label in own.settings}
    whole = [label for label in sweep.space.distributions if label in labels]
    return [*whole, *sorted(labels.difference(whole))]


def value_cells(outcome: Outcome, sweep: Sweep) -> list[str]:
    """Format each metric of a trial; the values that an incomplete trial has reported are in brackets."""
    if not outcome.values:
        return [""] * len(sweep.config.metrics)
    return [f"{value:.4f}" if outcome.is_complete else f"({value:.4f})" for value in outcome.values]


def setting_cells(outcome: Outcome, labels: Sequence[str]) -> list[str]:
    """Format a trial's settings by these labels, "" for one that it does not have."""
    settings = outcome.settings
    return [short_value(settings[label]) if label in settings else "" for label in labels]


def seconds_cell(outcome: Outcome) -> str:
    """Format a trial's duration in seconds, "" while it has not ended."""
    return "" if outcome.seconds is None else f"{outcome.seconds:.1f}"


def write_best(best: Sequence[Outcome], sweep: Sweep, folder: Path) -> list[str]:
    """Write `best.yaml`, or for several metrics `best/NN.yaml` for each trial of the Pareto front; return the names."""
    is_front = len(sweep.config.metrics) > 1
    names = [f"best/{own.number:02}.yaml" if is_front else "best.yaml" for own in best]
    for own, name in zip(best, names, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        values = ", ".join(
            f"{metric}={value:.4f}" for metric, value in zip(sweep.config.metrics, own.values, strict=True)
        )
        head = f"# Trial {own.number} of the sweep {sweep.name}: {values}\n"
        (folder / name).write_text(head + configuration_of(own, sweep).dump(), encoding="utf-8")
    return names
