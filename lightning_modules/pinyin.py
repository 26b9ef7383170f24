"""Pinyin to hanzi as tagging: one character for each syllable.

Shapes: B sentences, T positions, D width, N positions whose token is a syllable, K most candidates of a syllable.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor

from lightrail.lightning_modules.arguments import FromData
from lightrail.lightning_modules.base import Batch, TaskModule
from lightrail.lightning_modules.metrics.scores import Score, ShareZero, SumRatio, WeightedMean
from lightrail.lightning_modules.metrics.sentence_errors import num_edits, only_hanzi
from lightrail.lightning_modules.networks.candidates import CandidateOutput
from lightrail.lightning_modules.networks.encoders.encoder import EncoderConfig
from lightrail.lightning_modules.networks.encoders.transformer import TransformerConfig
from lightrail.lightning_modules.optimization import OptimConfig


@dataclass(frozen=True)
class Readings:
    """Scores of the characters that each syllable can be read as."""

    logits: Tensor
    """[N, K], row by row of the batch."""
    is_syllable: Tensor
    """Which positions these are, [B, T]."""


@final
class PinyinTagger(TaskModule):
    """Chooses a character for each syllable among those it can be read as, from the whole sentence.

    Args:
        vocabulary: the tokens of the network; from the data.
        candidates: for each syllable its characters and how often each was seen; from the data.
        encoder: the network that reads the sentence. null: every syllable becomes its most frequent character,
            the baseline that any network must beat.
    """

    monitor = "val/character_accuracy"

    def __init__(
        self,
        vocabulary: FromData[list[str]],
        candidates: FromData[dict[str, dict[str, int]]],
        *,
        encoder: EncoderConfig | None = TransformerConfig(ngram_orders=[2, 3]),
        optim: OptimConfig = OptimConfig(lr=2e-3),
    ) -> None:
        super().__init__(optim)
        self.save_hyperparameters()
        self.characters = ["", ""] + ["".join(candidates.get(token, ())) for token in vocabulary]
        self.encoder = None if encoder is None else encoder.build(vocabulary)
        self.output = CandidateOutput(
            width=0 if self.encoder is None else self.encoder.width,
            counts=[(), ()] + [list(candidates.get(token, {}).values()) for token in vocabulary],
        )

    def forward(self, batch: Batch) -> Readings:
        """Score the candidates of each syllable, [N, K]."""
        input_ids = batch["input_ids"]
        is_syllable = self.output.has_candidates(input_ids)  # [B, T]
        states = None
        if self.encoder is not None:
            states = self.encoder(input_ids, batch["attention_mask"])[is_syllable]  # [N, D]
        return Readings(self.output(states, input_ids[is_syllable]), is_syllable)

    def loss(self, outputs: Readings, batch: Batch) -> tuple[Tensor, int]:
        """Return the mean nats per character, and the number of characters."""
        return self._losses(outputs, batch).sum() / max(1, batch["num_targets"]), batch["num_targets"]

    def decode(self, outputs: Readings, batch: Batch) -> Mapping[str, Sequence[Any]]:
        """Return sentences and edits; the score is the probability that all is right, with characters independent."""
        confidences = self._per_sentence(outputs.logits.log_softmax(-1).amax(-1), outputs)
        predictions = self.sentences(outputs, batch)
        columns: dict[str, Sequence[Any]] = {
            "pinyin": [" ".join(tokens) for tokens in batch["tokens"]],
            "prediction": predictions,
            "score": [math.exp(sum(own)) for own in confidences],
        }
        if all(batch["text"]):
            losses = self._per_sentence(self._losses(outputs, batch), outputs)
            are_targets = self._per_sentence(batch["labels"][outputs.is_syllable] >= 0, outputs)
            means = [sum(own) / max(1, sum(counted)) for own, counted in zip(losses, are_targets, strict=True)]
            columns |= {"target": batch["text"], "loss": means, "num_targets": [sum(own) for own in are_targets]}
            hanzi = [
                (only_hanzi(one), only_hanzi(other)) for one, other in zip(predictions, batch["text"], strict=True)
            ]
            columns["num_edits"] = [num_edits(predicted, target) for predicted, target in hanzi]
            columns["num_hanzi"] = [len(target) for _, target in hanzi]
        return columns

    def scores(self) -> Mapping[str, Score]:
        """Return accuracy and error rate by character, sentence accuracy and loss."""
        rate = SumRatio(numerator="num_edits", denominator="num_hanzi", higher_is_better=False)
        return {
            "character_accuracy": replace(rate, is_complement=True, higher_is_better=True),
            "character_error_rate": rate,
            "sentence_accuracy": ShareZero(column="num_edits"),
            "loss": WeightedMean(column="loss", weight="num_targets", higher_is_better=False),
        }

    def sentences(self, outputs: Readings, batch: Batch) -> list[str]:
        """Return the most probable sentence of each example; a token without candidates stays as it is."""
        places = iter(outputs.logits.argmax(-1).tolist())
        return [
            "".join(
                self.characters[number][next(places)] if self.characters[number] else token
                for number, token in zip(numbers, tokens, strict=False)  # the rest of the numbers is padding
            )
            for numbers, tokens in zip(batch["input_ids"].tolist(), batch["tokens"], strict=True)
        ]

    def _losses(self, outputs: Readings, batch: Batch) -> Tensor:
        """Return the nats of each syllable, [N]; 0 where there is no target or it is no candidate."""
        return F.cross_entropy(
            outputs.logits, batch["labels"][outputs.is_syllable].clamp(min=-1), ignore_index=-1, reduction="none"
        )

    def _per_sentence(self, values: Tensor, outputs: Readings) -> list[list[float]]:
        """Divide values of syllables, [N], into a list for each sentence."""
        return [own.tolist() for own in torch.split(values, outputs.is_syllable.sum(1).tolist())]
