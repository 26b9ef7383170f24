"""How likely a difference as large as the one seen is if there is none, and what is left of that after many tests."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from lightrail.lightning_modules.metrics.scores import Values

TIED = 1 - 1e-9
"""Share of the difference seen from which on another counts as equally large: sums are rounded."""


@dataclass(frozen=True)
class Spread:
    """One source of variance of an estimate."""

    variance: float
    degrees_of_freedom: int


def mcnemar(is_right: Values, other_is_right: Values) -> float:
    """Exact two-sided McNemar test on the examples that one run gets right and the other wrong.

    Source: McNemar (1947), "Note on the sampling error of the difference between correlated proportions".
    """
    gained = int(((is_right > 0) & (other_is_right == 0)).sum())
    lost = int(((is_right == 0) & (other_is_right > 0)).sum())
    return min(1.0, 2 * float(stats.binom.cdf(min(gained, lost), gained + lost, 0.5)))


def share_as_large(observed: float, resampled: Values) -> float:
    """P value of approximate randomization: how many differences under random swaps are at least as large, plus one.

    An undefined difference counts as large. NaN if the one seen is undefined.

    Sources: Noreen (1989), "Computer-Intensive Methods for Testing Hypotheses"; Riezler and Maxwell (2005), "On Some
    Pitfalls in Automatic Evaluation and Significance Testing for MT".
    """
    if not np.isfinite(observed):
        return float("nan")
    num_smaller = int((np.abs(resampled) < abs(observed) * TIED).sum())
    return (len(resampled) - num_smaller + 1) / (len(resampled) + 1)


def welch(sources: Sequence[Spread]) -> tuple[float, float]:
    """Standard error and degrees of freedom of a sum with several independent sources of variance.

    Source: Satterthwaite (1946), "An approximate distribution of estimates of variance components".
    """
    variance = sum(source.variance for source in sources)
    if not variance > 0:  # also NaN
        return float(np.sqrt(variance)), 1.0
    doubt = sum(source.variance**2 / source.degrees_of_freedom for source in sources)
    return float(np.sqrt(variance)), variance**2 / doubt


def student_p(estimate: float, sources: Sequence[Spread]) -> float:
    """Two-sided p value of an estimate that is 0 in truth."""
    error, freedom = welch(sources)
    if error == 0:
        return float(estimate == 0)
    return float(2 * stats.t.sf(abs(estimate) / error, freedom))


def student_interval(estimate: float, sources: Sequence[Spread], confidence: float) -> tuple[float, float]:
    error, freedom = welch(sources)
    margin = float(stats.t.ppf(0.5 + confidence / 2, freedom)) * error
    return estimate - margin, estimate + margin


def holm(p_values: Sequence[float]) -> list[float]:
    """P values corrected for their number: the chance of even one false alarm stays below what each is held against.

    An undefined one stays so and does not count.

    Source: Holm (1979), "A Simple Sequentially Rejective Multiple Test Procedure".

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = [place for place in np.argsort(p_values) if not np.isnan(p_values[place])]
    corrected, largest = list(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected
