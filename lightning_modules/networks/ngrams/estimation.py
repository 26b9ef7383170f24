"""N-gram probabilities with modified Kneser-Ney smoothing, estimated from all sentences at once.

Shapes: M tokens of all sentences with their boundaries, G n-grams of an order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

BOUNDARY = 0
"""The token before, between and after sentences: no n-gram reaches across it."""


@dataclass(frozen=True)
class NgramOrder:
    """The n-grams of one order that are kept, sorted by key."""

    keys: np.ndarray
    """For each n-gram its context's index in the order below, times the size of the vocabulary, plus its last token,
    [G]; of order 1 the tokens themselves."""
    log_probabilities: np.ndarray
    """Of the last token behind the others, in nats, [G]."""
    log_backoffs: np.ndarray
    """What the probability of a token is multiplied with that was not seen behind the n-gram, in nats, [G]; empty for
    the highest order."""


@dataclass
class _Counted:
    """All n-grams of one order, before any is left out."""

    keys: np.ndarray
    """The keys of `NgramOrder`, with indices among all n-grams, [G]."""
    counts: np.ndarray
    """How often each occurs, [G]."""
    at: np.ndarray
    """The n-gram that ends at each place of the text, -1 where none does, [M]."""
    places: np.ndarray
    """A place at which each ends, [G]."""


def estimate(tokens: np.ndarray, vocabulary_size: int, min_counts: Sequence[int]) -> list[NgramOrder]:
    """Estimate the n-grams of all orders.

    Probabilities of lower orders are from the number of different tokens that an n-gram was seen behind, rather than
    from its count, since they are used where the longer n-gram was not seen; n-grams that begin a sentence have nothing
    before them, and keep their counts. What is left out, and what the discounts leave, goes to the order below.

    Args:
        tokens: ids of the tokens of all sentences, with `BOUNDARY` before each sentence and behind the last, [M].
        vocabulary_size: number of token ids.
        min_counts: for each order the least count of an n-gram that is kept; all tokens are.

    Returns: the orders from 1 to the length of `min_counts`.

    Source: S. F. Chen and J. Goodman (1999), "An Empirical Study of Smoothing Techniques for Language Modeling".
    """
    counted = _count(tokens, vocabulary_size, len(min_counts))
    adjusted = _adjusted_counts(tokens, counted)
    shares, backoffs, kept = _discounted(counted, adjusted, min_counts)
    index = np.arange(vocabulary_size)  # of each n-gram of the order before, among those kept
    orders = []
    for order, (own, share, is_kept) in enumerate(zip(counted, shares, kept, strict=True), start=1):
        keys = own.keys
        if order > 1:
            contexts = index[keys // vocabulary_size]
            is_kept = is_kept & (contexts >= 0)
            keys = contexts * vocabulary_size + keys % vocabulary_size
        index = np.where(is_kept, np.cumsum(is_kept) - 1, -1)
        backoff = backoffs[order - 1][is_kept] if order < len(counted) else np.zeros(0)
        orders.append(NgramOrder(keys[is_kept].astype(np.int64), _log(share[is_kept]), _log(backoff)))
    return orders


def _count(tokens: np.ndarray, vocabulary_size: int, highest: int) -> list[_Counted]:
    places = np.arange(len(tokens))
    boundaries = np.maximum.accumulate(np.where(tokens == BOUNDARY, places, -1))
    before = np.concatenate(([-1], boundaries[:-1]))  # the last boundary before each place
    longest = np.where(before >= 0, places - before + 1, 1)
    counts = np.bincount(tokens[1:], minlength=vocabulary_size)  # nothing is before the first boundary
    first = np.zeros(vocabulary_size, dtype=np.int64)
    first[tokens] = places
    counted = [_Counted(np.arange(vocabulary_size), counts, tokens.astype(np.int32), first)]
    for order in range(2, highest + 1):
        contexts = np.concatenate(([-1], counted[-1].at[:-1]))
        ends = np.flatnonzero((longest >= order) & (contexts >= 0))
        keys = contexts[ends].astype(np.int64) * vocabulary_size + tokens[ends]
        sorting = np.argsort(keys)
        ordered = keys[sorting]
        is_first = np.concatenate(([True], ordered[1:] != ordered[:-1]))[: len(ordered)]
        numbers = np.empty(len(keys), dtype=np.int32)
        numbers[sorting] = np.cumsum(is_first, dtype=np.int32) - 1
        at = np.full(len(tokens), -1, dtype=np.int32)
        at[ends] = numbers
        counted.append(_Counted(ordered[is_first], np.bincount(numbers), at, ends[sorting[is_first]]))
    return counted


def _adjusted_counts(tokens: np.ndarray, counted: list[_Counted]) -> list[np.ndarray]:
    """Return the count of each n-gram that its probability is from, order by order."""
    adjusted = []
    for order, (own, longer) in enumerate(pairwise(counted), start=1):
        # Each longer n-gram is the shorter one behind another token.
        different = np.bincount(own.at[longer.places], minlength=len(own.keys))
        begins = tokens[own.places - order + 1] == BOUNDARY if order > 1 else np.zeros(len(own.keys), dtype=bool)
        adjusted.append(np.where(begins, own.counts, different))
    return [*adjusted, counted[-1].counts]


def _discounted(
    counted: list[_Counted], adjusted: list[np.ndarray], min_counts: Sequence[int]
) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """Return probability, backoff and whether it is kept of each n-gram, order by order; no backoff of the highest."""
    size = len(counted[0].keys)
    discounts = _discounts(adjusted[0])[np.minimum(adjusted[0], 3)]
    total = adjusted[0].sum()
    shares = [np.maximum(adjusted[0] - discounts, 0) / total + discounts.sum() / total / size]
    kept, backoffs = [np.ones(size, dtype=bool)], []
    for own, counts, least, shorter in zip(counted[1:], adjusted[1:], min_counts[1:], counted, strict=False):
        contexts = own.keys // size
        totals = np.maximum(np.bincount(contexts, weights=counts, minlength=len(shorter.keys)), 1)
        is_kept = own.counts >= least
        left = np.where(is_kept, np.maximum(counts - _discounts(counts)[np.minimum(counts, 3)], 0), 0.0)
        backoff = 1 - np.bincount(contexts, weights=left, minlength=len(totals)) / totals
        shares.append(left / totals[contexts] + backoff[contexts] * shares[-1][shorter.at[own.places]])
        backoffs.append(backoff)
        kept.append(is_kept)
    return shares, backoffs, kept


def _discounts(counts: np.ndarray) -> np.ndarray:
    """Return what is taken off counts of 0, 1, 2, and 3 or more; of few n-grams half, where the estimate fails."""
    once, twice, thrice, four = (int(np.count_nonzero(counts == count)) for count in range(1, 5))
    if not (once and twice and thrice and four):
        return np.array([0.0, 0.5, 0.5, 0.5])
    share = once / (once + 2 * twice)
    found = [1 - 2 * share * twice / once, 2 - 3 * share * thrice / twice, 3 - 4 * share * four / thrice]
    return np.array([0.0, *np.clip(found, 0, (1, 2, 3))])


def _log(values: np.ndarray) -> np.ndarray:
    logs: np.ndarray = np.log(np.maximum(values, 1e-30)).astype(np.float32)
    return logs
