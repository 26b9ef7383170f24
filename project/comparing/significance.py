"""Significance tests of differences, resampling, and the correction of p values for multiple tests.

Shapes: N examples, S statistics, R resamples, r resamples of one part.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from lightrail.lightning_modules.metrics.scores import Values

TIED = 1 - 1e-9
"""Fraction of the observed difference from which on another counts as equally large, since sums are rounded."""


@dataclass(frozen=True)
class Spread:
    """One source of variance of an estimate."""

    variance: float
    degrees_of_freedom: int


def mcnemar(is_right: Values, other_is_right: Values) -> float:
    """Compute the p value of the exact two-sided McNemar test, on examples that only one of two runs gets right.

    Source: McNemar (1947), "Note on the sampling error of the difference between correlated proportions".
    """
    gained = int(((is_right > 0) & (other_is_right == 0)).sum())
    lost = int(((is_right == 0) & (other_is_right > 0)).sum())
    return min(1.0, 2 * float(stats.binom.cdf(min(gained, lost), gained + lost, 0.5)))


def share_as_large(observed: float, resampled: Values) -> float:
    """Compute the p value of approximate randomization: the fraction of random swaps with a difference as large.

    Both numbers are increased by one. An undefined difference counts as large. NaN if the observed one is undefined.

    Sources: Noreen (1989), "Computer-Intensive Methods for Testing Hypotheses"; Riezler and Maxwell (2005), "On Some
    Pitfalls in Automatic Evaluation and Significance Testing for MT".
    """
    if not np.isfinite(observed):
        return float("nan")
    num_smaller = int((np.abs(resampled) < abs(observed) * TIED).sum())
    return (len(resampled) - num_smaller + 1) / (len(resampled) + 1)


def welch(sources: Sequence[Spread]) -> tuple[float, float]:
    """Compute standard error and degrees of freedom of a sum with several independent sources of variance.

    Source: Satterthwaite (1946), "An approximate distribution of estimates of variance components".
    """
    variance = sum(source.variance for source in sources)
    if not variance > 0:  # also NaN
        return float(np.sqrt(variance)), 1.0
    doubt = sum(source.variance**2 / source.degrees_of_freedom for source in sources)
    return float(np.sqrt(variance)), variance**2 / doubt


def student_p(estimate: float, sources: Sequence[Spread]) -> float:
    """Compute the two-sided p value of an estimate under the hypothesis that it is 0, by Student's t."""
    error, freedom = welch(sources)
    if error == 0:
        return float(estimate == 0)
    return float(2 * stats.t.sf(abs(estimate) / error, freedom))


def student_interval(estimate: float, sources: Sequence[Spread], confidence: float) -> tuple[float, float]:
    """Compute the confidence interval of an estimate, by Student's t."""
    error, freedom = welch(sources)
    margin = float(stats.t.ppf(0.5 + confidence / 2, freedom)) * error
    return estimate - margin, estimate + margin


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p values for their number by Holm's method, which bounds the probability of any false positive.

    An undefined p value (NaN) is unchanged and does not count.

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


PART_NUMBERS = 4_000_000
"""Maximum size of one part of the draws: 32 MB."""


def bootstrap_sums(statistics: Values, num_resamples: int, seed: int) -> Iterator[Values]:
    """Draw N of N examples with replacement, R times, and yield the sums of each draw, [r, S] at a time.

    All columns share the draws: the columns of two runs are paired.

    Source: Efron and Tibshirani (1993), "An Introduction to the Bootstrap".
    """
    generator, num_examples = np.random.default_rng(seed), len(statistics)
    for size in _parts(num_resamples, num_examples):
        drawn = generator.integers(num_examples, size=(size, num_examples))
        drawn += num_examples * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * num_examples).reshape(size, num_examples)  # [r, N]
        yield counts.astype(np.float64) @ statistics


def swapped_sums(differences: Values, num_resamples: int, seed: int) -> Iterator[Values]:
    """Choose each example with probability 1/2, R times, and yield the sums over the chosen ones, [r, S] at a time.

    With `differences` the statistics of one run minus those of another, these sums are the change of each run's sums
    when the two swap their predictions for the chosen examples.
    """
    generator, num_examples = np.random.default_rng(seed), len(differences)
    for size in _parts(num_resamples, num_examples):
        yield _coins(generator, size, num_examples) @ differences


def _parts(num_resamples: int, num_examples: int) -> Iterator[int]:
    """Yield sizes of parts that add up to `num_resamples`."""
    size = max(1, PART_NUMBERS // max(1, num_examples))
    for start in range(0, num_resamples, size):
        yield min(size, num_resamples - start)


def _coins(generator: np.random.Generator, num_rows: int, num_columns: int) -> NDArray[np.float64]:
    """Draw an array of 0 and 1, each with probability 1/2, from one random bit each."""
    num_bytes = -(-num_columns // 8)
    drawn = np.frombuffer(generator.bytes(num_rows * num_bytes), np.uint8).reshape(num_rows, num_bytes)
    return np.unpackbits(drawn, axis=1, count=num_columns).astype(np.float64)
