"""Scores of vectors: how well their similarity ranks pairs, and what is found by it. Needs no torch.

Shapes: N examples.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from lightrail.lightning_modules.metrics.scores import Columns, Ratio, StoredScore, Values


@dataclass(frozen=True, kw_only=True)
class Correlation(StoredScore):
    """Pearson's correlation of predictions and targets, or Spearman's: that of their ranks, ties at their mean rank.

    >>> columns = {"prediction": np.array([0.1, 0.2, 0.9]), "target": np.array([1.0, 2.0, 3.0])}
    >>> [round(Correlation(of_ranks=of_ranks).of(columns), 3) for of_ranks in (True, False)]
    [1.0, 0.918]
    """

    of_ranks: bool = False

    def statistics(self, columns: Columns) -> Values:
        """Return prediction and target of each example, [N, 2]."""
        return np.stack([columns["prediction"], columns["target"]], axis=1).astype(np.float64)

    def of_rows(self, rows: NDArray[np.floating]) -> float:
        """Return the correlation of the columns of rows, [N, 2]; NaN where one of them is constant."""
        values = rows.astype(np.float64)
        if self.of_ranks:
            values = stats.rankdata(values, axis=0)
        centred = values - values.mean(0)
        sizes = np.sqrt((centred**2).sum(0)).prod()
        return float(np.clip(centred.prod(1).sum() / sizes, -1, 1)) if sizes > 0 else float("nan")


@dataclass(frozen=True, kw_only=True)
class FoundAmongFirst(Ratio):
    """Recall@k of a retrieval with one right text for each query: the fraction of queries with a rank up to k."""

    is_binary: ClassVar[bool] = True
    most: int
    """The number k of first results."""

    def statistics(self, columns: Columns) -> Values:
        """Return whether the rank is at most k, and 1, for each example, [N, 2]."""
        is_found = (columns["rank"] <= self.most).astype(np.float64)
        return np.stack([is_found, np.ones_like(is_found)], axis=1)


@dataclass(frozen=True, kw_only=True)
class ReciprocalRank(Ratio):
    """Mean over queries of 1 / rank of the right text."""

    def statistics(self, columns: Columns) -> Values:
        """Return 1 / rank, and 1, for each example, [N, 2]."""
        gains = 1 / columns["rank"].astype(np.float64)
        return np.stack([gains, np.ones_like(gains)], axis=1)


@dataclass(frozen=True, kw_only=True)
class DiscountedGain(Ratio):
    """nDCG@k with one right text for each query: mean of 1 / log2(1 + rank), 0 for a rank above k.

    Source: K. Jarvelin and J. Kekalainen (2002), "Cumulated gain-based evaluation of IR techniques".
    """

    most: int
    """The number k of first results."""

    def statistics(self, columns: Columns) -> Values:
        """Return the discounted gain, and 1, for each example, [N, 2]."""
        ranks = columns["rank"].astype(np.float64)
        gains = np.where(ranks <= self.most, 1 / np.log2(1 + ranks), 0.0)
        return np.stack([gains, np.ones_like(gains)], axis=1)
