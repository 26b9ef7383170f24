"""Entities as pairs of a first and a last word, each scored for each type: entities may lie inside each other.

Shapes: B sentences, W words, D width, R width of a representation, M widest entity in words, L types. A cell is a first
word, a number of further words and a type.

Source: J. Yu et al. (2020), "Named Entity Recognition as Dependency Parsing", for the biaffine scores. Here each cell
is a decision of its own, so that one span can have two types.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightrail.lightning_modules.metrics.calibration import fit_temperature, fit_thresholds
from lightrail.lightning_modules.networks.number_formats import at_least_float32
from lightrail.lightning_modules.networks.row_names import RowNames
from lightrail.lightning_modules.networks.tagging.entity_head import EntityHead, EntityHeadConfig, FoundEntities
from lightrail.lightning_modules.networks.tagging.tag_schemes import Span
from lightrail.project.basics.annotations import PositiveInt

log = logging.getLogger(__name__)

INITIAL_PROBABILITY = 0.01
"""Probability of a cell before training: most hold no entity, and the first steps need not learn that."""


@dataclass(frozen=True, kw_only=True)
class SpanConfig(EntityHeadConfig):
    """Scores every stretch of words for every type; the head for entities that lie inside each other."""

    max_words: PositiveInt = 24
    """Widest entity that can be found, in words (characters of Chinese), at least 1. Memory grows with it."""
    width: PositiveInt = 128
    """Size of a word's representation as the first or the last word of an entity, at least 1."""

    def build(self, width: int, num_types: int, *, is_nested: bool) -> EntityHead:
        """Build the head for states of a width."""
        return SpanHead(width, num_types, self, is_nested=is_nested)


class SpanHead(EntityHead):
    """Decides each cell by itself; of entities that cross or, without nesting, overlap, keeps the more probable one."""

    temperature: Tensor
    threshold: Tensor

    def __init__(self, width: int, num_types: int, config: SpanConfig, *, is_nested: bool) -> None:
        super().__init__()
        self.num_types, self.max_words, self.is_nested = num_types, config.max_words, is_nested
        self.first, self.last = nn.Linear(width, config.width), nn.Linear(width, config.width)
        self.pair = nn.Linear(config.width, num_types * config.width, bias=False)
        self.alone = nn.ModuleList(nn.Linear(config.width, num_types, bias=False) for _ in range(2))
        self.widths = nn.Parameter(torch.full((config.max_words, num_types), _logit(INITIAL_PROBABILITY)))
        nn.init.normal_(self.pair.weight, std=1 / config.width)
        self.register_buffer("temperature", torch.ones(()))
        self.register_buffer("threshold", torch.tensor(0.5))
        self.has_warned = False

    def forward(self, states: Tensor) -> Tensor:
        """Score the cells of states, [B, W, D] to [B, W, M, L]."""
        first, last = F.gelu(self.first(states)), F.gelu(self.last(states))  # [B, W, R]
        pairs = self.pair(first).unflatten(-1, (self.num_types, -1))  # [B, W, L, R]
        ends = _following(last, self.max_words)  # [B, W, R, M]
        scores = (pairs @ ends).transpose(2, 3)  # [B, W, M, L]
        scores = scores + self.alone[0](first)[:, :, None]
        scores = scores + _following(self.alone[1](last), self.max_words).transpose(2, 3)
        total: Tensor = at_least_float32(scores) + self.widths
        return total  # [B, W, M, L]

    def losses(self, scores: Tensor, batch: dict[str, Any]) -> Tensor:
        """Return the nats of each sentence, summed over its cells, [B]."""
        if not self.training:  # it waits for the device
            self._warn_of_wide(batch["spans"])
        targets = self._targets(batch["spans"], scores.shape)
        losses = _nats(scores / self.temperature, targets)
        return (losses * self._is_cell(batch["word_mask"])[..., None]).sum((1, 2, 3))

    def spans(self, scores: Tensor, mask: Tensor) -> list[list[Span]]:
        """Return the entities of each sentence, by first word, the wider one first."""
        return [[span for span, _ in own] for own in self._chosen(scores, mask)]

    @torch.no_grad()
    def found(self, scores: Tensor, mask: Tensor) -> list[FoundEntities]:
        """Return the entities of each sentence with probabilities, that of the whole with cells as independent."""
        chosen = self._chosen(scores, mask)
        rows = [(number, *span) for number, own in enumerate(chosen) for span, _ in own]
        predicted = self._targets(torch.tensor(rows, dtype=torch.long, device=scores.device).view(-1, 4), scores.shape)
        losses = _nats(scores / self.temperature, predicted)
        whole = (-(losses * self._is_cell(mask)[..., None]).sum((1, 2, 3))).exp().tolist()
        return [
            FoundEntities([span for span, _ in own], [probability for _, probability in own], probability)
            for own, probability in zip(chosen, whole, strict=True)
        ]

    def span_score(self, scores: Tensor, span: Span) -> Tensor:
        """Return the score of a span's cell in each sentence, [B]."""
        first, end, kind = span
        return scores[:, first, end - first - 1, kind]

    def rows_of_types(self, types: Sequence[str]) -> Mapping[str, RowNames]:
        """Return the types that rows stand for, and the number of further words of a cell."""
        pairs = [(kind, place) for kind in types for place in range(self.first.out_features)]
        return {
            "pair.weight": (pairs,),
            "alone.0.weight": (types,),
            "alone.1.weight": (types,),
            "widths": (range(self.max_words), types),
        }

    def calibration_rows(self, scores: Tensor, batch: dict[str, Any]) -> list[tuple[Tensor, Tensor]]:
        """Return the scores of a sentence's cells and whether each is an entity."""
        targets = self._targets(batch["spans"], scores.shape).bool()
        cells = self._is_cell(batch["word_mask"])
        return [
            (own[is_cell].flatten().detach().cpu(), is_entity[is_cell].flatten().cpu())
            for own, is_entity, is_cell in zip(scores, targets, cells, strict=True)
        ]

    @torch.no_grad()
    def calibrate(self, rows: Sequence[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """Fit the temperature by likelihood, then the probability from which a cell is an entity by F1 over cells."""
        scores, targets = (torch.cat(parts).double() for parts in zip(*rows, strict=True))  # [cells]
        temperature = fit_temperature(scores[:, None], targets[:, None])
        probabilities = (scores / temperature).sigmoid()
        (threshold,) = fit_thresholds(probabilities[:, None].numpy(), targets[:, None].numpy() > 0)
        self.temperature.fill_(temperature)
        self.threshold.fill_(threshold)
        before, after = (float(_nats(scores / own, targets).sum()) / len(rows) for own in (1.0, temperature))
        figures = {"nats_per_sentence_before": before, "nats_per_sentence": after}
        return {"temperature": temperature, "threshold": threshold, **figures}

    def _warn_of_wide(self, spans: Tensor) -> None:
        """Warn once that an entity is too wide to be found."""
        widest = int((spans[:, 2] - spans[:, 1]).max()) if len(spans) and not self.has_warned else 0
        if widest > self.max_words:
            self.has_warned = True
            log.warning(
                "an entity of %d words cannot be found and counts as missing: model.head.max_words is %d",
                widest,
                self.max_words,
            )

    def _targets(self, spans: Tensor, shape: torch.Size) -> Tensor:
        """Return 1 in the cells of the entities that are not too wide, 0 elsewhere, [B, W, M, L]."""
        targets = torch.zeros(shape, device=spans.device)
        sentence, first, end, kind = spans[spans[:, 2] - spans[:, 1] <= self.max_words].T
        targets[sentence, first, end - first - 1, kind] = 1.0
        return targets

    def _is_cell(self, mask: Tensor) -> Tensor:
        """Return whether the last word of a cell is one of the sentence's, [B, W, M]."""
        return _following(mask[..., None].float(), self.max_words)[:, :, 0] > 0

    def _chosen(self, scores: Tensor, mask: Tensor) -> list[list[tuple[Span, float]]]:
        """Return the entities of each sentence with their probabilities, by first word, the wider one first."""
        probabilities = (scores / self.temperature).sigmoid()
        places = ((probabilities >= self.threshold) & self._is_cell(mask)[..., None]).nonzero()
        candidates: list[list[tuple[float, Span]]] = [[] for _ in scores]
        own = probabilities[tuple(places.T)].tolist()
        for probability, (number, first, further, kind) in zip(own, places.tolist(), strict=True):
            candidates[number].append((probability, (first, first + further + 1, kind)))
        return [self._resolved(each) for each in candidates]

    def _resolved(self, candidates: list[tuple[float, Span]]) -> list[tuple[Span, float]]:
        kept: list[tuple[Span, float]] = []
        for probability, span in sorted(candidates, key=lambda candidate: (-candidate[0], candidate[1])):
            if not any(self._excludes(other, span) for other, _ in kept):
                kept.append((span, probability))
        return sorted(kept, key=lambda entity: (entity[0][0], -entity[0][1], entity[0][2]))

    def _excludes(self, one: Span, other: Span) -> bool:
        if one[1] <= other[0] or other[1] <= one[0]:
            return False
        is_inside = (one[0] <= other[0] and other[1] <= one[1]) or (other[0] <= one[0] and one[1] <= other[1])
        return not (self.is_nested and is_inside)


def _nats(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the binary cross-entropy, exact also for almost certain cells, as most are; torch's own is not."""
    return F.softplus(logits * (1 - 2 * targets))


def _following(values: Tensor, number: int) -> Tensor:
    """Return the values of each word and of those after it, 0 past the end: [B, W, V] to [B, W, V, `number`]."""
    return F.pad(values, (0, 0, 0, number - 1)).unfold(1, number, 1)


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))
