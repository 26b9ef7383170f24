"""Beam search: the most probable targets of sources, in batches.

Shapes: B sentences that are still searched, K beams, R = B x K rows, V tokens.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from lightrail.lightning_modules.networks.number_formats import at_least_float32
from lightrail.lightning_modules.networks.seq2seq.decoding import Allow, DecodingConfig, Hypothesis
from lightrail.lightning_modules.networks.seq2seq.network import Memory, Seq2Seq
from lightrail.project.basics.errors import ConfigError


@runtime_checkable
class OwnSearch(Protocol):
    """A network that searches itself, as those of transformers do."""

    def search(self, memory: Memory, config: DecodingConfig) -> list[list[Hypothesis]]:
        """Return at most `num_best` targets of each source, best first."""


def search(
    network: Seq2Seq, memory: Memory, config: DecodingConfig, allow: Allow | None = None
) -> list[list[Hypothesis]]:
    """Return at most `num_best` targets of each source, best first: by the network's own search, or `beam_search`.

    Args:
        allow: which tokens may come next; None: all.
    """
    if allow is None and isinstance(network, OwnSearch) and len(memory.states):
        return network.search(memory, config)
    return beam_search(network, memory, config, allow)


@torch.no_grad()
def beam_search(
    network: Seq2Seq, memory: Memory, config: DecodingConfig, allow: Allow | None = None
) -> list[list[Hypothesis]]:
    """Return at most `num_best` targets of each source, best first.

    A sentence is done when `num_beams` targets have ended and no prefix is better than these, or at its own limit; what
    it is batched with changes nothing. The start token and padding are never produced.

    Args:
        allow: which tokens may come next; None: all.
    """
    if len(memory.states) == 0:
        return []
    beams = _Beams(network, memory, config, allow)
    while beams.sentences:
        beams.advance()
    return [
        sorted(own, key=lambda found: -found.value(config.length_penalty))[: config.num_best] for own in beams.ended
    ]


@dataclass
class _Beams:
    """The prefixes that are followed, of the sentences that are not done."""

    network: Seq2Seq
    memory: Memory
    config: DecodingConfig
    allow: Allow | None
    sentences: list[int] = field(init=False)
    """Numbers of the sentences, B."""
    ended: list[list[Hypothesis]] = field(init=False)
    """The ended targets of each sentence, also of those that are done."""

    def __post_init__(self) -> None:
        num_sentences, num_beams = len(self.memory.states), self.config.num_beams
        device = self.memory.states.device
        self.sentences, self.ended = list(range(num_sentences)), [[] for _ in range(num_sentences)]
        self.limits = self.config.limits(self.memory.is_token)
        rows = torch.arange(num_sentences, device=device).repeat_interleave(num_beams)  # [R]
        self.cache: Any = self.network.start_cache(self.memory).select(rows)
        self.tokens = rows.new_full((len(rows), 0), 0)  # [R, T]
        self.newest = rows.new_full((len(rows),), self.network.target.start_id)  # [R]
        # All beams of a sentence begin alike: only the first may be continued.
        self.totals = torch.full((num_sentences, num_beams), -math.inf, device=device)  # [B, K]
        self.totals[:, 0] = 0.0

    def advance(self) -> None:
        """Lengthen every prefix by a token."""
        num_beams, end_id = self.config.num_beams, self.network.target.end_id
        continued = self.totals[:, :, None] + self._log_probabilities().view(*self.totals.shape, -1)  # [B, K, V]
        num_tokens = continued.shape[-1]
        # Twice as many as beams: that many that do not end are among them.
        best, places = continued.flatten(1).topk(min(2 * num_beams, num_beams * num_tokens))  # [B, 2K]
        chosen, parents = places % num_tokens, places // num_tokens
        is_end = chosen == end_id
        self._keep_ended(is_end, best, parents)
        going = is_end.int().argsort(dim=1, stable=True)[:, :num_beams]  # [B, K], in the order of their scores
        self.totals = best.gather(1, going).masked_fill(is_end.gather(1, going), -math.inf)
        firsts = num_beams * torch.arange(len(self.sentences), device=going.device)[:, None]
        self._select((firsts + parents.gather(1, going)).flatten())
        self.newest = chosen.gather(1, going).flatten()
        self.tokens = torch.cat([self.tokens, self.newest[:, None]], dim=1)
        self._drop_done()

    def _log_probabilities(self) -> Tensor:
        """Return the log probability of each token after each row, [R, V]."""
        num_before, before = self.tokens.shape[1], self.network.target.before
        scores = at_least_float32(self.network.step(self.newest, self.cache))[:, : self.network.target.size]
        if not bool(scores.isfinite().any(1).all()):
            raise ConfigError("the network's scores are not finite: its weights are damaged. Name another checkpoint.")
        if num_before < len(before):
            is_allowed = torch.zeros_like(scores, dtype=torch.bool)
            is_allowed[:, before[num_before]] = True
            return scores.log_softmax(-1).masked_fill(~is_allowed, -math.inf)
        if never := list(self.network.target.never):
            scores[:, never] = -math.inf
        if self.allow is not None:
            numbers = [number for number in self.sentences for _ in range(self.config.num_beams)]
            scores = scores.masked_fill(~self.allow(numbers, self.tokens), -math.inf)
        return scores.log_softmax(-1)

    def _keep_ended(self, is_end: Tensor, best: Tensor, parents: Tensor) -> None:
        """Note the targets that end with this step: those among the best K of their sentence."""
        num_beams = self.config.num_beams
        is_kept = is_end[:, :num_beams] & best[:, :num_beams].isfinite()
        for place, rank in is_kept.nonzero().tolist():
            row = place * num_beams + int(parents[place, rank])
            self.ended[self.sentences[place]].append(self._hypothesis(row, float(best[place, rank]), is_cut=False))

    def _drop_done(self) -> None:
        """Leave the sentences that have enough ended targets, or have reached their limit."""
        num_beams, going = self.config.num_beams, []
        for place, number in enumerate(self.sentences):
            own = self.ended[number]
            if self._is_decided(own, float(self.totals[place, 0])):
                continue
            if self.tokens.shape[1] < self.limits[number] and math.isfinite(self.totals[place, 0]):
                going.append(place)
                continue
            for beam, total in enumerate(self.totals[place].tolist()):
                if len(own) < self.config.num_best and math.isfinite(total):
                    own.append(self._hypothesis(place * num_beams + beam, total, is_cut=True))
        if len(going) == len(self.sentences):
            return
        kept = torch.tensor(going, device=self.totals.device, dtype=torch.int64)
        rows = (num_beams * kept[:, None] + torch.arange(num_beams, device=kept.device)).flatten()
        self.sentences, self.totals = [self.sentences[place] for place in going], self.totals[kept]
        self.newest = self.newest[rows]
        if going:
            self._select(rows)

    def _is_decided(self, ended: list[Hypothesis], best_total: float) -> bool:
        """Whether enough targets have ended, and the best prefix, were it to end now, would not be among the best."""
        num_beams, penalty = self.config.num_beams, self.config.length_penalty
        if len(ended) < num_beams:
            return False
        worst = sorted((own.value(penalty) for own in ended), reverse=True)[num_beams - 1]
        return num_beams == 1 or worst >= best_total / self.tokens.shape[1] ** penalty

    def _select(self, rows: Tensor) -> None:
        self.tokens, self.cache = self.tokens[rows], self.cache.select(rows)

    def _hypothesis(self, row: int, total: float, *, is_cut: bool) -> Hypothesis:
        return Hypothesis(self.tokens[row, len(self.network.target.before) :].tolist(), total, is_cut)
