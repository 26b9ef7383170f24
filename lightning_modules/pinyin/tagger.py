"""Pinyin to hanzi by tagging: a character for each syllable, chosen from the whole sentence.

Shapes: B sentences, T positions, D width, N positions whose token is a syllable, K most candidates of a syllable.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor

from lightrail.lightning_modules.arguments import FromData
from lightrail.lightning_modules.base import Batch, TaskModule
from lightrail.lightning_modules.explaining.attention import attention_heads
from lightrail.lightning_modules.explaining.explanation import (
    Copies,
    Explanation,
    Question,
    refuse_label,
    refuse_target,
)
from lightrail.lightning_modules.explaining.gradients import integrated_gradients
from lightrail.lightning_modules.figures.figure import Figure
from lightrail.lightning_modules.metrics.scores import Columns, Score
from lightrail.lightning_modules.networks.candidates import CandidateOutput
from lightrail.lightning_modules.networks.encoders.encoder import EncoderConfig
from lightrail.lightning_modules.networks.encoders.transformer import TransformerConfig
from lightrail.lightning_modules.networks.row_names import RowNames
from lightrail.lightning_modules.optimization import OptimConfig
from lightrail.lightning_modules.pinyin.readings import (
    Readings,
    conversion_figures,
    conversion_scores,
    prediction_columns,
)
from lightrail.lightning_modules.pinyin.search import Follower, Step


@final
class PinyinTagger(TaskModule):
    """Chooses a character for each syllable among those it can be read as, from the whole sentence.

    Args:
        vocabulary: the tokens of the network; from the data.
        candidates: for each syllable its characters and how often each was seen; from the data.
        encoder: the network that reads the sentence. null: every syllable becomes its most frequent character,
            the baseline that any network must beat.
    """

    pipeline_tag = "translation"
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
        self.candidates = {token: list(candidates.get(token, ())) for token in vocabulary}
        self.characters = ["", ""] + ["".join(candidates.get(token, ())) for token in vocabulary]
        self.encoder = None if encoder is None else encoder.build(vocabulary)
        self.output = CandidateOutput(
            width=0 if self.encoder is None else self.encoder.width,
            counts=[(), ()] + [list(candidates.get(token, {}).values()) for token in vocabulary],
        )

    def row_names(self) -> Mapping[str, RowNames]:
        """Return the syllable and the character of each row of the output."""
        rows = [(token, character) for token, own in self.candidates.items() for character in own]
        return dict.fromkeys(("output.weight", "output.bias"), (rows,))

    def forward(self, batch: Batch) -> Readings:
        """Score the candidates of each syllable, [N, K]."""
        input_ids = batch["input_ids"]
        is_syllable = self.output.has_candidates(input_ids)  # [B, T]
        states = None
        if self.encoder is not None:
            states = self.encoder(input_ids, batch["attention_mask"])[is_syllable]  # [N, D]
        return Readings(self.output(states, input_ids[is_syllable]), is_syllable)

    def follower(self, outputs: Readings) -> Follower:
        """Return its scores for a search, which do not depend on the characters chosen before."""
        return ReadingsFollower(outputs)

    def loss(self, outputs: Readings, batch: Batch) -> tuple[Tensor, int]:
        """Return the mean nats per character, and the number of characters."""
        return outputs.mean_loss(batch)

    def decode(self, outputs: Readings, batch: Batch) -> Mapping[str, Sequence[Any]]:
        """Return sentences and edits; the score is the probability that all is right, with characters independent."""
        confidences = outputs.per_sentence(outputs.logits.log_softmax(-1).amax(-1))
        scores = [math.exp(sum(own)) for own in confidences]
        return prediction_columns(self.sentences(outputs, batch), scores, outputs, batch)

    def scores(self) -> Mapping[str, Score]:
        """Return accuracy and error rate by character, sentence accuracy and loss."""
        return conversion_scores()

    def figures(self, columns: Columns, example: Callable[[int], Mapping[str, Any]]) -> Iterator[Figure]:
        """Yield how often sentences of each probability are right, and the characters that are confused most often."""
        return conversion_figures(columns)

    def explain_batch(self, copies: Copies, tokens: Sequence[str], question: Question) -> Iterator[Explanation]:
        """Yield the attributions of the character chosen for each syllable that has several, and the attention."""
        refuse_label(question)
        refuse_target(question)
        if self.encoder is None:
            return  # each syllable is read by itself
        batch = copies(1)
        (ids,), (tokens,) = batch["input_ids"].tolist(), batch["tokens"]
        with torch.no_grad():
            outputs: Readings = self(batch)
        (sentence,) = self.sentences(outputs, batch)
        places = outputs.is_syllable[0].nonzero()[:, 0].tolist()
        asked = [number for number, place in enumerate(places) if len(self.characters[ids[place]]) > 1]
        chosen = outputs.logits.argmax(-1)[asked].tolist()

        def scores(num: int) -> Tensor:
            logits: Tensor = self(copies(num)).logits.view(num, len(places), -1)
            return logits[:, asked].log_softmax(-1)[:, range(len(asked)), chosen]  # [K, E]

        titles = [
            f"Log probability of {self.characters[ids[place]][choice]} for {tokens[place]}, position {place + 1}"
            for place, choice in zip((places[number] for number in asked), chosen, strict=True)
        ]
        yield from integrated_gradients(
            self.encoder,
            scores,
            titles,
            tokens,
            batch["attention_mask"],
            question,
            neutral=self.encoder.neutral,
            note=f"In nats, among what the syllable can be read as. The sentence is {sentence}",
        )
        yield from attention_heads(self.encoder, lambda: self(batch), tokens)

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


class ReadingsFollower(Follower):
    """Scores the candidates of syllables alike behind all prefixes; 0 for what is copied."""

    def __init__(self, readings: Readings) -> None:
        is_syllable = readings.is_syllable
        self.scores = readings.logits.new_zeros(*is_syllable.shape, readings.logits.shape[1])  # [B, T, K]
        self.scores[is_syllable] = readings.logits.log_softmax(-1)

    def score(self, step: Step) -> Tensor:
        return self.scores[step.sentences, step.place].gather(1, step.columns)

    def follow(self, rows: Tensor, written: Tensor) -> None:
        """Nothing depends on the prefix."""

    def select(self, rows: Tensor) -> None:
        """Nothing depends on the prefix."""
