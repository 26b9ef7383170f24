"""Findings of a sweep: a setting whose best values lie at an end of its range, and those of the best trial's run."""

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from optuna.distributions import FloatDistribution, IntDistribution

from lightrail.project.basics.errors import first_line
from lightrail.project.findings.finding import Finding
from lightrail.project.findings.rules import stored_findings
from lightrail.project.tracking.store import open_store
from lightrail.sweeps.report.tables import short_value
from lightrail.sweeps.search.definition import Sweep
from lightrail.sweeps.search.outcomes import Outcome, ranked

log = logging.getLogger(__name__)

LEAST_TRIALS = 6
"""Complete trials without which nothing is said: the three best are then the better half."""
NUM_BEST, AT_EDGE, NEAR_EDGE = 3, 0.1, 0.25
"""The best trial lies in the outer tenth of a range and the next two in the same outer quarter: of a setting without
any effect that happens to one in eighty (2 x 0.1 x 0.25 x 0.25)."""


def findings_of_sweep(
    outcomes: Sequence[Outcome], best: Sequence[Outcome], best_run: str | None, sweep: Sweep, store: str
) -> list[Finding]:
    """Return the findings of a sweep, then those of the run of its best trial.

    Args:
        best_run: id of that run; its findings are left out where the store does not answer.
    """
    found = []
    if len(sweep.config.metrics) == 1 and best and (message := setting_at_edge(outcomes, best[0], sweep)):
        found.append(Finding("setting-at-edge", "note", message))
    if best_run is None:
        return found
    try:
        client = open_store(store, create=False)
        of_best = stored_findings(client, client.get_run(best_run))
    except Exception as error:  # the report is written all the same
        log.warning("the findings of the run %s are left out: %s", best_run, first_line(error))
        return found
    return found + [replace(own, message=f"trial {best[0].number}: {own.message}") for own in of_best]


def setting_at_edge(outcomes: Sequence[Outcome], best: Outcome, sweep: Sweep) -> str | None:
    """Return which numbers are best at an end of their range that can be moved; None without any."""
    trials = [best, *(own for own in ranked(outcomes, sweep) if own.number != best.number)]
    named = []
    for label, distribution in best.trial.distributions.items():
        if not isinstance(distribution, FloatDistribution | IntDistribution):
            continue
        alike = [own for own in trials if own.trial.distributions.get(label) == distribution]
        places = [_place(own.settings[label], distribution) for own in alike]
        side = _side(places) if len(alike) >= LEAST_TRIALS else None
        if side is not None and not _is_fixed(distribution, side):
            values = [short_value(own) for own in (best.settings[label], distribution.low, distribution.high)]
            named.append(f"{label}={values[0]} at the {side} end of {values[1]} to {values[2]}")
    return f"the best trials have {', '.join(named)}. Widen the range there." if named else None


def _side(places: Sequence[float]) -> Literal["low", "high"] | None:
    """The end of a range that the best trials share, from their places in it, the best first."""
    bounds = [AT_EDGE, *[NEAR_EDGE] * (NUM_BEST - 1)]
    if all(place <= bound for place, bound in zip(places, bounds, strict=False)):
        return "low"
    if all(1 - place <= bound for place, bound in zip(places, bounds, strict=False)):
        return "high"
    return None


def _place(value: float, distribution: FloatDistribution | IntDistribution) -> float:
    """Where a value lies in its range, from 0 to 1, on the scale that it is drawn on; the middle of a single value."""
    scale = math.log if distribution.log else float
    low, high = scale(distribution.low), scale(distribution.high)
    return (scale(value) - low) / (high - low) if high > low else 0.5


def _is_fixed(distribution: FloatDistribution | IntDistribution, side: Literal["low", "high"]) -> bool:
    """Whether an end is that of the setting itself: 0 for fractions and counts, 1 for counts, 1 for fractions."""
    if side == "low":
        return distribution.low == 0 or (isinstance(distribution, IntDistribution) and distribution.low == 1)
    return isinstance(distribution, FloatDistribution) and distribution.high == 1
