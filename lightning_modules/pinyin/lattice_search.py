"""Beam search over all readings of typed letters: how they are cut and which characters they become, decided together.

Shapes: R prefixes that end at a place, K choices for their next character, O the highest order of n-grams.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from heapq import nlargest
from typing import Protocol

import torch
from torch import Tensor

from lightrail.lightning_modules.networks.ngrams.tables import NgramTables
from lightrail.lightning_modules.pinyin.characters import UNKNOWN, CharacterTable
from lightrail.lightning_modules.pinyin.search import BeamConfig

_COPIED = "copied"
_LEAST_OF_WORD = -9.0
"""Least log probability of a copied word, in nats: text for training has few, and its letters have a cost of their own.
"""
_LONG_INITIALS = ("zh", "ch", "sh")


class Edge(Protocol):
    """One reading of a part of a typed text."""

    @property
    def start(self) -> int:
        """Place where it begins."""

    @property
    def end(self) -> int:
        """Place where it ends, exclusive."""

    @property
    def token(self) -> str:
        """A syllable, an initial with a hyphen behind it, or a text that is copied."""

    @property
    def kind(self) -> Enum:
        """Its value is `copied` for such a text."""

    @property
    def cost(self) -> float:
        """Nats charged for this reading."""


@dataclass(frozen=True)
class Reading:
    """One reading of the whole text."""

    tokens: list[str]
    are_copied: list[bool]
    """Which of the tokens are copied."""
    written: list[str]
    """What is written for each token."""
    ends: list[int]
    """Places in the typed text where the tokens end, exclusive."""
    log_probability: float
    """Of all characters and that they are typed so, in nats."""
    cost: float
    """Nats charged for the readings of the letters, which the log probability includes."""

    @property
    def text(self) -> str:
        """What is written."""
        return "".join(self.written)


@dataclass(frozen=True)
class _Prefixes:
    """The best readings of the text up to one place, the most probable first."""

    totals: Tensor
    """Log probabilities, [R]."""
    contexts: Tensor
    """[R, O - 1]."""
    steps: list[tuple[Edge | None, int, int]]
    """The last edge of each, which prefix at the start of that edge it continues, and what is written for it."""


class LatticeSearch:
    """Finds the most probable readings of typed texts by n-grams of characters.

    Args:
        vocabulary: the tokens of `table`, whose ids begin at 2.
        config: how many prefixes are followed at each place, and how many characters are tried for a syllable.
    """

    def __init__(
        self, table: CharacterTable, ngrams: NgramTables, vocabulary: Sequence[str], config: BeamConfig
    ) -> None:
        self.table, self.ngrams, self.config = table, ngrams, config
        self.numbers = {token: number for number, token in enumerate(vocabulary, start=2)}
        self._choices: dict[tuple[str, bool], tuple[Tensor, Tensor]] = {}
        self._last: dict[int, tuple[list[Edge], _Prefixes]] = {}  # of the text before, by place
        self._num_beams = 0

    @torch.no_grad()
    def paths(self, edges: Sequence[Edge], num: int) -> list[Reading]:
        """Return the most probable readings with different texts, the best one first.

        Up to where a text is read like the one before, nothing is computed again: one more letter costs little.

        Args:
            edges: sorted by start, each on a path from 0 to the end of the text.
            num: most readings.
        """
        ending = defaultdict[int, list[Edge]](list)
        for edge in edges:
            ending[edge.end].append(edge)
        start, num_beams = self.ngrams.start(1), max(num, self.config.num_beams)
        found = {0: _Prefixes(torch.zeros(1, device=start.device), start, [(None, 0, 0)])}
        known, self._last = self._last if self._num_beams == num_beams else {}, {}
        self._num_beams, kept = num_beams, {0}
        for place in sorted(ending):
            own, before = ending[place], known.get(place)
            if before is not None and before[0] == own and kept.issuperset(edge.start for edge in own):
                found[place] = before[1]
                kept.add(place)
            else:
                found[place] = self._prefixes(own, found, num_beams)
            self._last[place] = own, found[place]
        return self._different(found, max(found))[:num]

    def beginnings(self, places: Sequence[int], num: int) -> list[list[Reading]]:
        """Return the most probable readings of the first letters of the last text, up to each of some places.

        Nothing is computed again: the search has been at each of these places.

        Args:
            places: those where a token may end.
            num: most readings up to each place.
        """
        found = {place: prefixes for place, (_, prefixes) in self._last.items()}
        return [self._different(found, place)[:num] if place in found else [] for place in places]

    def characters(self, token: str) -> list[str]:
        """Return all characters that a syllable may be written as, the most frequent first."""
        number = self.numbers.get(token, 0)
        ids = self.table.choices[number, : int(self.table.num_candidates[number])].tolist()
        return [self.table.written[own] for own in ids]

    def _prefixes(self, edges: Sequence[Edge], found: dict[int, _Prefixes], num_beams: int) -> _Prefixes:
        """Continue the prefixes at the start of each edge by all that it may be written as."""
        sources = [found[edge.start] for edge in edges]
        choices = [self._choices_of(edge.token, edge.kind.value == _COPIED) for edge in edges]
        most = max(len(ids) for ids, _ in choices)
        ids = torch.stack([_filled(own, most, 0) for own, _ in choices])  # [edges, K]
        extra = torch.stack([_filled(own, most, -torch.inf) for _, own in choices])
        extra -= torch.tensor([[edge.cost] for edge in edges], device=extra.device)
        sizes = torch.tensor([len(source.totals) for source in sources])
        rows = torch.arange(len(edges)).repeat_interleave(sizes)  # edge of each prefix
        contexts = torch.cat([source.contexts for source in sources])
        scores = self.ngrams(contexts, ids[rows])
        scores = torch.where(ids[rows] == UNKNOWN, scores.clamp(min=_LEAST_OF_WORD), scores)
        totals = scores + extra[rows] + torch.cat([source.totals for source in sources])[:, None]
        best, index = totals.flatten().topk(min(num_beams, int((totals > -torch.inf).sum())))
        kept = best >= best[0] - self.config.max_gap
        best, index = best[kept], index[kept]
        prefixes, columns = index // most, index % most
        written = ids[rows[prefixes], columns]
        following = self.ngrams.following(contexts[prefixes], written)
        first = (sizes.cumsum(0) - sizes).tolist()
        steps: list[tuple[Edge | None, int, int]] = [
            (edges[edge], prefix - first[edge], own)
            for edge, prefix, own in zip(rows[prefixes].tolist(), prefixes.tolist(), written.tolist(), strict=True)
        ]
        return _Prefixes(best, following, steps)

    def _choices_of(self, token: str, is_copied: bool) -> tuple[Tensor, Tensor]:
        """Return the ids of what a token may be written as, and the log probabilities that it is typed so, [K]."""
        key = token, is_copied
        if key not in self._choices:
            device = self.table.choices.device
            number = self.numbers.get(token, 0)
            size = 0 if is_copied else min(int(self.table.num_candidates[number]), self.config.num_choices)
            if size:
                own = self.table.choices[number, :size], self.table.log_readings[number, :size]
            elif not is_copied and token.endswith("-") and (ids := self._behind_initial(token[:-1])):
                own = torch.tensor(ids, device=device), torch.zeros(len(ids), device=device)
            else:
                own = torch.tensor([self.table.ids.get(token, UNKNOWN)], device=device), torch.zeros(1, device=device)
            if len(self._choices) > 10_000:  # of texts that are copied
                self._choices.clear()
            self._choices[key] = own
        return self._choices[key]

    def _behind_initial(self, initial: str) -> list[int]:
        """Return the most probable characters of all syllables with an initial."""
        ids = set[int]()
        for token, number in self.numbers.items():
            own = token[:2] if token.startswith(_LONG_INITIALS) else token[:1]
            if own == initial and not token.endswith("-"):
                ids.update(self.table.choices[number, : int(self.table.num_candidates[number])].tolist())
        single = self.ngrams.get_buffer("log_probabilities_1")
        return nlargest(self.config.num_choices, sorted(ids), key=lambda own: float(single[own]))

    def _different(self, found: dict[int, _Prefixes], place: int) -> list[Reading]:
        best: dict[str, Reading] = {}
        for number, total in enumerate(found[place].totals.tolist()):
            path = self._path(found, place, number, total)
            best.setdefault(path.text, path)
        return list(best.values())

    def _path(self, found: dict[int, _Prefixes], place: int, number: int, total: float) -> Reading:
        edges, texts = list[Edge](), list[str]()
        while place:
            edge, number, written = found[place].steps[number]
            assert edge is not None, "only the beginning of the text is behind no edge"
            is_copied = edge.kind.value == _COPIED or not self.table.written[written]
            texts.append(edge.token if is_copied else self.table.written[written])
            edges.append(edge)
            place = edge.start
        edges.reverse()
        return Reading(
            tokens=[edge.token for edge in edges],
            are_copied=[edge.kind.value == _COPIED for edge in edges],
            written=texts[::-1],
            ends=[edge.end for edge in edges],
            log_probability=total,
            cost=sum(edge.cost for edge in edges),
        )


def _filled(values: Tensor, size: int, value: float) -> Tensor:
    """Return values followed by `value`, [size]."""
    return torch.nn.functional.pad(values, (0, size - len(values)), value=value)
