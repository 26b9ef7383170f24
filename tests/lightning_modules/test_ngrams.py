"""N-gram probabilities are those of modified Kneser-Ney smoothing, as a slow and literal program computes them."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from lightrail.lightning_modules.networks.ngrams.estimation import BOUNDARY, estimate
from lightrail.lightning_modules.networks.ngrams.tables import NgramTables

SIZE = 7
"""Tokens 1 to 6, and the boundary."""


def sentences(number: int) -> list[list[int]]:
    """Draw sentences in which some tokens, and some pairs, are more frequent."""
    generator = np.random.default_rng(3)
    shares = np.array([0.3, 0.25, 0.2, 0.12, 0.08, 0.05])
    drawn = [(generator.choice(6, size=generator.integers(1, 7), p=shares) + 1).tolist() for _ in range(number)]
    return [[*own, 1, 2] if own[0] == 3 else own for own in drawn]


def joined(drawn: Sequence[Sequence[int]]) -> np.ndarray:
    return np.array([BOUNDARY, *(token for own in drawn for token in (*own, BOUNDARY))])


def filled(drawn: Sequence[Sequence[int]], min_counts: Sequence[int]) -> NgramTables:
    tables = NgramTables(SIZE, len(min_counts))
    tables.fill(estimate(joined(drawn), SIZE, min_counts))
    return tables


def scores(tables: NgramTables, history: Sequence[int]) -> torch.Tensor:
    """Return the log probability of each token behind the beginning of a sentence."""
    context = tables.start(1)
    for token in history:
        context = tables.following(context, torch.tensor([token]))
    found: torch.Tensor = tables(context, torch.arange(SIZE)[None])[0]
    return found


class Literal:
    """The definition: counts of n-grams, or of what they are seen behind, and three discounts for each order."""

    def __init__(self, drawn: Sequence[Sequence[int]], highest: int) -> None:
        raw: list[Counter[tuple[int, ...]]] = [Counter() for _ in range(highest + 1)]
        for own in drawn:
            whole = (BOUNDARY, *own, BOUNDARY)
            for end in range(1, len(whole)):
                for order in range(1, min(highest, end + 1) + 1):
                    raw[order][whole[end - order + 1 : end + 1]] += 1
        self.counts = [Counter[tuple[int, ...]]() for _ in range(highest + 1)]
        self.counts[highest] = raw[highest]
        for order in range(1, highest):
            for longer in raw[order + 1]:
                self.counts[order][longer[1:]] += 1
            if order > 1:
                self.counts[order].update({own: count for own, count in raw[order].items() if own[0] == BOUNDARY})
        self.highest = highest

    def discount(self, order: int, count: int) -> float:
        of = Counter(self.counts[order].values())
        if not all(of[kind] for kind in (1, 2, 3, 4)):
            return 0.5 if count else 0.0
        share = of[1] / (of[1] + 2 * of[2])
        found = {kind: kind - (kind + 1) * share * of[kind + 1] / of[kind] for kind in (1, 2, 3)}
        return min(max(found[min(count, 3)], 0), min(count, 3)) if count else 0.0

    def probability(self, history: tuple[int, ...], token: int) -> float:
        history = history[-(self.highest - 1) :] if self.highest > 1 else ()
        return self._probability(history, token)

    def _probability(self, history: tuple[int, ...], token: int) -> float:
        order = len(history) + 1
        lower = self._probability(history[1:], token) if history else 1 / SIZE
        behind = {own[-1]: count for own, count in self.counts[order].items() if own[:-1] == history}
        if not behind:
            return lower
        total = sum(behind.values())
        left = sum(self.discount(order, count) for count in behind.values()) / total
        count = behind.get(token, 0)
        return max(count - self.discount(order, count), 0) / total + left * lower


@pytest.mark.parametrize("highest", [1, 2, 3, 4])
def test_probabilities_are_those_of_the_definition(highest: int) -> None:
    drawn = sentences(400)
    tables, literal = filled(drawn, [1] * highest), Literal(drawn, highest)
    for history in ([], [1], [3, 1], [6, 6, 6], [2, 5, 1, 2]):
        found = scores(tables, history).exp().tolist()
        expected = [literal.probability((BOUNDARY, *history), token) for token in range(SIZE)]
        assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("min_counts", [[1, 1, 1], [1, 2, 4], [1, 1, 1000]])
def test_probabilities_add_up_to_one_whatever_is_left_out(min_counts: list[int]) -> None:
    tables = filled(sentences(400), min_counts)
    for history in ([], [4], [3, 1], [6, 6, 6], [2, 5, 1, 2]):
        assert float(scores(tables, history).exp().sum()) == pytest.approx(1, abs=1e-5)


def test_few_sentences_are_enough() -> None:
    """Where no n-gram is seen twice the discounts cannot be estimated."""
    tables = filled([[1, 2, 3]], [1, 1, 1])
    assert float(scores(tables, [1]).exp().sum()) == pytest.approx(1, abs=1e-5)
    assert int(scores(tables, [1]).argmax()) == 2


def test_tables_of_any_size_are_restored() -> None:
    tables = filled(sentences(400), [1, 1, 1])
    restored = NgramTables(SIZE, 3)
    restored.load_state_dict(tables.state_dict())
    assert torch.equal(scores(restored, [3, 1]), scores(tables, [3, 1]))


@pytest.mark.parametrize("min_counts", [[1, 1, 1, 1], [1, 2, 2, 4]])
def test_an_ngram_is_kept_with_the_shorter_one_it_ends_with(min_counts: list[int]) -> None:
    """The search for a longer one skips tokens whose shorter one is not there."""
    tables = filled(sentences(400), min_counts)
    kept: list[list[tuple[int, ...]]] = [[(token,) for token in range(SIZE)]]
    for order in range(2, len(min_counts) + 1):
        keys = tables.get_buffer(f"keys_{order}").tolist()
        kept.append([(*kept[-1][key // SIZE], key % SIZE) for key in keys])
        assert keys
        assert {own[1:] for own in kept[-1]} <= set(kept[-2])
