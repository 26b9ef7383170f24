"""Entities as tags of words: a linear-chain CRF, or a softmax for each word.

Shapes: B sentences, W words, D width, K tags, S entities found.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from lightrail.lightning_modules.metrics.calibration import best_temperature
from lightrail.lightning_modules.networks.number_formats import at_least_float32
from lightrail.lightning_modules.networks.row_names import RowNames
from lightrail.lightning_modules.networks.tagging.crf import LinearChainCrf
from lightrail.lightning_modules.networks.tagging.entity_head import EntityHead, EntityHeadConfig, FoundEntities
from lightrail.lightning_modules.networks.tagging.tag_schemes import OUTSIDE, Scheme, Span, TagScheme
from lightrail.project.basics.errors import ConfigError

SENTENCES_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class CrfConfig(EntityHeadConfig):
    """Tags words with a linear-chain conditional random field, which learns the tags that follow each other."""

    scheme: Scheme = "bioes"
    """Letters of the tags: bioes marks ends and entities of one word, bio does not."""

    def build(self, width: int, num_types: int, *, is_nested: bool) -> EntityHead:
        """Build the head. Raises: ConfigError for nested entities."""
        _refuse_nesting(is_nested)
        return TagHead(width, TagScheme(self.scheme, num_types), learns_transitions=True)


@dataclass(frozen=True, kw_only=True)
class SoftmaxConfig(EntityHeadConfig):
    """Learns the tag of each word by itself and predicts the best sequence that the scheme allows."""

    scheme: Scheme = "bioes"
    """Letters of the tags: bioes marks ends and entities of one word, bio does not."""

    def build(self, width: int, num_types: int, *, is_nested: bool) -> EntityHead:
        """Build the head. Raises: ConfigError for nested entities."""
        _refuse_nesting(is_nested)
        return TagHead(width, TagScheme(self.scheme, num_types), learns_transitions=False)


class TagHead(EntityHead):
    """Tags words, never against the scheme.

    Predictions and probabilities are those of a CRF. Without learned transitions it is the product of the words'
    softmax over all sequences that the scheme allows, and is trained by cross-entropy word by word.
    """

    own_tags: Tensor

    def __init__(self, width: int, scheme: TagScheme, *, learns_transitions: bool) -> None:
        super().__init__()
        self.scheme, self.learns_transitions = scheme, learns_transitions
        self.output = nn.Linear(width, scheme.num_tags)
        self.crf = LinearChainCrf(scheme.rules(), learns_transitions=learns_transitions)
        self.register_buffer("own_tags", scheme.of_bioes(), persistent=False)

    def forward(self, states: Tensor) -> Tensor:
        """Score the tags of words, [B, W, D] to [B, W, K], in float32 or wider."""
        emissions: Tensor = self.output(states)
        return at_least_float32(emissions)  # [B, W, K]

    def losses(self, scores: Tensor, batch: dict[str, Any]) -> Tensor:
        """Return the nats of each sentence's tags, [B]."""
        tags, mask = self._tags(batch), batch["word_mask"]
        if self.learns_transitions:
            return -self.crf.log_likelihood(scores, tags, mask)
        losses = F.cross_entropy((scores / self.crf.temperature).transpose(1, 2), tags, reduction="none")  # [B, W]
        nats: Tensor = (losses * mask).sum(1)
        return nats

    def spans(self, scores: Tensor, mask: Tensor) -> list[list[Span]]:
        """Return the entities of the most probable tags of each sentence."""
        return self._read(self.crf.decode(scores, mask), mask)

    @torch.no_grad()
    def found(self, scores: Tensor, mask: Tensor) -> list[FoundEntities]:
        """Return the entities of each sentence with their probabilities, and that of its whole tag sequence."""
        tags = self.crf.decode(scores, mask)
        spans = self._read(tags, mask)
        whole = self.crf.log_likelihood(scores, tags, mask).exp().clamp(max=1).tolist()
        own = iter(self._probabilities(scores, tags, mask, spans).tolist())
        return [
            FoundEntities(entities, [next(own) for _ in entities], probability)
            for entities, probability in zip(spans, whole, strict=True)
        ]

    def span_score(self, scores: Tensor, span: Span) -> Tensor:
        """Return the sum of the scores of a span's tags, each compared with that of O, [B]."""
        first, end, kind = span
        roles = [3] if end - first == 1 else [0, *[1] * (end - first - 2), 2]
        tags = self.own_tags[torch.tensor([1 + 4 * kind + role for role in roles], device=scores.device)]
        places = torch.arange(first, end, device=scores.device)
        return (scores[:, places, tags] - scores[:, places, OUTSIDE]).sum(1)

    def rows_of_types(self, types: Sequence[str]) -> Mapping[str, RowNames]:
        """Return the tags that rows stand for; in the transitions those before and after."""
        tags = self.scheme.names(types)
        one = dict.fromkeys(("output.weight", "output.bias", "crf.starts", "crf.ends"), (tags,))
        return {**one, "crf.transitions": (tags, tags)}

    def calibration_rows(self, scores: Tensor, batch: dict[str, Any]) -> list[tuple[Tensor, Tensor]]:
        """Return the emissions, [words, K], and the tags, [words], of each sentence, on the CPU."""
        lengths, tags = batch["word_mask"].sum(1).tolist(), self._tags(batch).cpu()
        emissions = scores.detach().cpu()
        return [
            (emission[:length].clone(), own[:length].clone())
            for emission, own, length in zip(emissions, tags, lengths, strict=True)
        ]

    @torch.no_grad()
    def calibrate(self, rows: Sequence[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """Fit the temperature by the likelihood of sentences; 1 where all are right, as certainty would fit best."""
        batches = list(self._batches(rows))

        def nats_per_sentence(temperature: float) -> float:
            self.crf.temperature.fill_(temperature)
            return -sum(float(self.crf.log_likelihood(*batch).double().sum()) for batch in batches) / len(rows)

        is_right = all(
            bool((self.crf.decode(emissions, mask) == tags * mask).all()) for emissions, tags, mask in batches
        )
        temperature = 1.0 if is_right else best_temperature(nats_per_sentence)
        before, after = nats_per_sentence(1.0), nats_per_sentence(temperature)  # the last call sets the temperature
        return {"temperature": temperature, "nats_per_sentence_before": before, "nats_per_sentence": after}

    def _batches(self, rows: Sequence[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        ordered, device = sorted(rows, key=lambda row: len(row[1])), self.crf.temperature.device
        for start in range(0, len(ordered), SENTENCES_AT_ONCE):
            emissions, tags = zip(*ordered[start : start + SENTENCES_AT_ONCE], strict=True)
            padded = pad_sequence(list(tags), batch_first=True, padding_value=-1).to(device)
            yield pad_sequence(list(emissions), batch_first=True).to(device), padded.clamp(min=0), padded >= 0

    def _tags(self, batch: dict[str, Any]) -> Tensor:
        """Return the scheme's own tags, O at padding, [B, W]."""
        tags: Tensor = self.own_tags[batch["tags"].clamp(min=0)]
        return tags

    def _read(self, tags: Tensor, mask: Tensor) -> list[list[Span]]:
        lengths = mask.sum(1).tolist()
        return [list(self.scheme.spans(own[:length])) for own, length in zip(tags.tolist(), lengths, strict=True)]

    def _probabilities(self, scores: Tensor, tags: Tensor, mask: Tensor, spans: list[list[Span]]) -> Tensor:
        """Return the probability of each entity, sentence by sentence, [S]."""
        places = [(number, *span, place % 2) for number, own in enumerate(spans) for place, span in enumerate(own)]
        if not places:
            return scores.new_zeros(0)
        entities = torch.tensor(places, device=scores.device)  # [S, 5]
        probabilities = self.crf.segment_probabilities(scores, tags, mask, entities[:, :3])
        return (
            probabilities
            if "E" in self.scheme.letters
            else self._without_longer(probabilities, scores, tags, mask, entities)
        )

    def _without_longer(
        self, probabilities: Tensor, scores: Tensor, tags: Tensor, mask: Tensor, entities: Tensor
    ) -> Tensor:
        """Subtract the probability that the next word is I: without E, an entity's tags also begin a longer one.

        Of entities that touch, one's next word is the other's first, so every second one is handled at a time.
        """
        has_next = entities[:, 2] < mask.sum(1)[entities[:, 0]]
        for turn in (0, 1):
            chosen = (has_next & (entities[:, 4] == turn)).nonzero()[:, 0]
            number, first, end, kind, _ = entities[chosen].T
            following = tags.clone()
            following[number, end] = self.scheme.tag("I", 0) + len(self.scheme.letters) * kind
            longer = self.crf.segment_probabilities(scores, following, mask, torch.stack([number, first, end + 1], 1))
            probabilities = probabilities.index_add(0, chosen, -longer)
        return probabilities.clamp(min=0)


def _refuse_nesting(is_nested: bool) -> None:
    if is_nested:
        raise ConfigError(
            "model.head tags words, and tags cannot express entities inside or across others, which the data has. "
            "Choose --model.head=SpanConfig."
        )
