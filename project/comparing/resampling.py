"""Sums of statistics over resampled examples, in parts small enough that memory does not grow with their number.

Shapes: N examples, S statistics, R resamples, r resamples of one part.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from lightrail.lightning_modules.metrics.scores import Values

PART_NUMBERS = 4_000_000
"""Most numbers of one part of the draws: 32 MB."""


def bootstrap_sums(statistics: Values, num_resamples: int, seed: int) -> Iterator[Values]:
    """Draw N of N examples with replacement, R times; the sums of each draw, [r, S] at a time.

    All columns share the draws: columns of two runs are resampled in pairs.

    Source: Efron and Tibshirani (1993), "An Introduction to the Bootstrap".
    """
    generator, num_examples = np.random.default_rng(seed), len(statistics)
    for size in _parts(num_resamples, num_examples):
        drawn = generator.integers(num_examples, size=(size, num_examples))
        drawn += num_examples * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * num_examples).reshape(size, num_examples)  # [r, N]
        yield counts.astype(np.float64) @ statistics


def swapped_sums(differences: Values, num_resamples: int, seed: int) -> Iterator[Values]:
    """Choose each example with probability 1/2, R times; the sums over the chosen ones, [r, S] at a time.

    With `differences` the statistics of one run less those of another, these sums are what changes hands between the
    two when they swap their answers to the chosen examples.
    """
    generator, num_examples = np.random.default_rng(seed), len(differences)
    for size in _parts(num_resamples, num_examples):
        yield _coins(generator, size, num_examples) @ differences


def _parts(num_resamples: int, num_examples: int) -> Iterator[int]:
    """Sizes of parts that add up to `num_resamples`."""
    size = max(1, PART_NUMBERS // max(1, num_examples))
    for start in range(0, num_resamples, size):
        yield min(size, num_resamples - start)


def _coins(generator: np.random.Generator, num_rows: int, num_columns: int) -> NDArray[np.float64]:
    """0 or 1, each with probability 1/2; a bit of chance for each."""
    num_bytes = -(-num_columns // 8)
    drawn = np.frombuffer(generator.bytes(num_rows * num_bytes), np.uint8).reshape(num_rows, num_bytes)
    return np.unpackbits(drawn, axis=1, count=num_columns).astype(np.float64)
