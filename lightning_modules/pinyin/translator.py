"""Pinyin to hanzi by an encoder-decoder, which writes the sentence from left to right.

Shapes: B sentences, T positions, N positions whose token is a syllable, K most candidates of a syllable, R rows of a
search, V characters and other tokens that are written.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor

from lightrail.lightning_modules.arguments import FromData
from lightrail.lightning_modules.base import Batch, TaskModule
from lightrail.lightning_modules.explaining.attention import encoder_decoder_attention
from lightrail.lightning_modules.explaining.explanation import (
    Copies,
    Explanation,
    Question,
    refuse_label,
    refuse_target,
)
from lightrail.lightning_modules.figures.figure import Figure
from lightrail.lightning_modules.metrics.evaluation import ScoreSums
from lightrail.lightning_modules.metrics.scores import Columns, Score
from lightrail.lightning_modules.networks.encoders.encoder import FIRST_TOKEN
from lightrail.lightning_modules.networks.number_formats import at_least_float32
from lightrail.lightning_modules.networks.row_names import RowNames, vocabulary_rows
from lightrail.lightning_modules.networks.seq2seq.decoding import DecodingConfig, Hypothesis
from lightrail.lightning_modules.networks.seq2seq.network import Memory, Seq2SeqConfig, Vocabulary
from lightrail.lightning_modules.networks.seq2seq.pretrained import PretrainedSeq2SeqConfig
from lightrail.lightning_modules.networks.seq2seq.recurrent import RecurrentSeq2SeqConfig
from lightrail.lightning_modules.networks.seq2seq.search import search
from lightrail.lightning_modules.networks.seq2seq.teacher_forcing import TeacherForcingConfig
from lightrail.lightning_modules.optimization import OptimConfig
from lightrail.lightning_modules.pinyin.characters import END, PAD, START, UNKNOWN, CharacterTable
from lightrail.lightning_modules.pinyin.readings import (
    Readings,
    conversion_figures,
    conversion_scores,
    prediction_columns,
)
from lightrail.lightning_modules.pinyin.search import Follower, Step
from lightrail.project.basics.annotations import PositiveInt, check_range
from lightrail.project.basics.errors import ConfigError


@dataclass(frozen=True)
class Translated:
    """What an encoder-decoder has read, for a search, and the scores of given sentences."""

    memory: Memory | None
    """None in training."""
    readings: Readings | None
    """Each syllable's, behind the characters given before it; None without a sentence."""


@dataclass(frozen=True)
class AlignedTokens:
    """The tokens that were read and written, position by position, and what the decoder reads to write them."""

    sources: list[list[str]]
    targets: list[list[str]]
    decoder_ids: Tensor
    """[B, T]; `Seq2Seq.attention` takes it, and its row t is of the character at t."""
    probabilities: list[float]
    """Of the whole sentences."""


@final
class PinyinTranslator(TaskModule):
    """Writes a character for each syllable from left to right, so that each choice knows those before it.

    Only what a syllable can be read as is written for it, any other token is copied, and the end follows the last one.
    The loss is the tagger's: nats per character among the candidates of its syllable; here behind the expected
    characters before it. A hanzi that is no candidate has no loss, and is read as an unknown token.

    Args:
        vocabulary: the tokens that are read; from the data.
        candidates: for each syllable its characters and how often each was seen; from the data.
        network: the encoder-decoder.
        num_beams: prefixes that are followed at a time in tests and predictions, at least 1.
        validation_beams: the same in a validation, which is repeated often.
        teacher_forcing: how often training reads the given character of a sentence.
    """

    pipeline_tag = "translation"
    monitor = "val/character_accuracy"

    def __init__(
        self,
        vocabulary: FromData[list[str]],
        candidates: FromData[dict[str, dict[str, int]]],
        *,
        network: Seq2SeqConfig = RecurrentSeq2SeqConfig(),
        num_beams: PositiveInt = 4,
        validation_beams: PositiveInt = 1,
        teacher_forcing: TeacherForcingConfig = TeacherForcingConfig(),
        optim: OptimConfig = OptimConfig(lr=2e-3),
    ) -> None:
        check_range(num_beams, PositiveInt, "model.num_beams")
        check_range(validation_beams, PositiveInt, "model.validation_beams")
        if isinstance(network, PretrainedSeq2SeqConfig):
            raise ConfigError(
                "model.network: PretrainedSeq2SeqConfig reads and writes the tokens of its own tokenizer, and pinyin "
                "is syllables. Choose RecurrentSeq2SeqConfig or TransformerSeq2SeqConfig."
            )
        teacher_forcing.check(network)
        super().__init__(optim)
        self.save_hyperparameters()
        self.num_beams, self.validation_beams, self.vocabulary = num_beams, validation_beams, vocabulary
        self.teacher_forcing = teacher_forcing
        self.table = CharacterTable(vocabulary, candidates)
        self.network = network.build(
            Vocabulary(size=len(self.table.choices), start_id=PAD, end_id=PAD, never=(PAD,)),
            Vocabulary(size=len(self.table.written), start_id=START, end_id=END, never=(START,)),
            is_shared=False,
        )

    def row_names(self) -> Mapping[str, RowNames]:
        """Return the syllables that are read and the characters that are written."""
        source = vocabulary_rows(self.vocabulary, FIRST_TOKEN)
        target = vocabulary_rows(self.table.written[UNKNOWN + 1 :], UNKNOWN + 1)
        rows = self.network.rows_of_tokens(source=source, target=target)
        return {f"network.{name}": names for name, names in rows.items()}

    def forward(self, batch: Batch) -> Translated:
        """Read the syllables, and score the candidates of each behind the expected characters, where there are any."""
        source = batch["input_ids"], batch["attention_mask"]
        if self.training:
            given = self.network.decoder_ids(self.table.expected(batch))
            scores = self.network(*source, given, forced_fraction=self.teacher_forcing.current(self))
            return Translated(None, self._readings(scores, batch))
        memory = self.network.encode(*source)
        if not all(batch["text"]):
            return Translated(memory, None)
        scores = self.network.score(memory, self.network.decoder_ids(self.table.expected(batch)))
        return Translated(memory, self._readings(scores, batch))

    def follower(self, outputs: Translated) -> Follower:
        """Return the decoder for a search, with its scores of the candidates of each syllable."""
        assert outputs.memory is not None, "nothing is searched in training"
        return DecoderFollower(self, outputs.memory)

    def loss(self, outputs: Translated, batch: Batch) -> tuple[Tensor, int]:
        """Return the mean nats per character, and the number of characters."""
        assert outputs.readings is not None, "a loss needs sentences"
        return outputs.readings.mean_loss(batch)

    def update(self, sums: ScoreSums, outputs: Translated, batch: Batch) -> None:
        """Add a validation batch to the scores, decoded with `validation_beams`."""
        sums.update(self._columns(outputs, batch, self.validation_beams))

    def decode(self, outputs: Translated, batch: Batch) -> Mapping[str, Sequence[Any]]:
        """Return sentences and edits; the score is the probability of the whole sentence."""
        return self._columns(outputs, batch, self.num_beams)

    def scores(self) -> Mapping[str, Score]:
        """Return accuracy and error rate by character, sentence accuracy and loss."""
        return conversion_scores()

    def figures(self, columns: Columns, example: Callable[[int], Mapping[str, Any]]) -> Iterator[Figure]:
        """Yield how often sentences of each probability are right, and the characters that are confused most often."""
        return conversion_figures(columns)

    def aligned_tokens(self, outputs: Translated, batch: Batch) -> AlignedTokens:
        """Return the tokens read and those written for them, between which `Seq2Seq.attention` lies."""
        found = self._search(outputs, batch, self.num_beams)
        ids = torch.full_like(batch["input_ids"], -1, dtype=torch.int64)  # [B, T]
        for row, own in enumerate(found):
            ids[row, : len(own.ids)] = torch.tensor(own.ids, device=ids.device)
        targets = [self._tokens(own, tokens) for own, tokens in zip(found, batch["tokens"], strict=True)]
        probabilities = [math.exp(own.log_probability) for own in found]
        return AlignedTokens(batch["tokens"], targets, self.network.decoder_ids(ids), probabilities)

    def explain_batch(self, copies: Copies, tokens: Sequence[str], question: Question) -> Iterator[Explanation]:
        """Yield the alignment of the syllables with the characters written for them, and all heads."""
        refuse_label(question)
        refuse_target(question)
        batch = copies(1)
        source = batch["input_ids"], batch["attention_mask"]
        with torch.no_grad():
            found = self.aligned_tokens(Translated(self.network.encode(*source), None), batch)
        note = f"Sentence: {''.join(found.targets[0])}, with a probability of {found.probabilities[0]:.4f}."
        yield from encoder_decoder_attention(
            self.network, source, found.decoder_ids, found.targets[0], found.sources[0], note
        )

    def _readings(self, scores: Tensor, batch: Batch) -> Readings:
        """Return the scores of the candidates among those of all tokens, [B, T, V]."""
        choices, counts = (
            self.table.choices[batch["input_ids"]],
            self.table.num_candidates[batch["input_ids"]],
        )  # [B, T, K], [B, T]
        is_syllable = counts > 0
        logits = at_least_float32(scores.gather(-1, choices)[is_syllable])  # [N, K]
        is_candidate = torch.arange(choices.shape[-1], device=choices.device) < counts[is_syllable][:, None]
        return Readings(logits.masked_fill(~is_candidate, -torch.inf), is_syllable)

    def _search(self, outputs: Translated, batch: Batch, num_beams: int) -> list[Hypothesis]:
        assert outputs.memory is not None, "nothing is searched in training"
        input_ids = F.pad(batch["input_ids"], (0, 1), value=PAD)  # [B, T + 1]: after the last token is the end

        def allow(numbers: list[int], tokens: Tensor) -> Tensor:
            choices = self.table.choices[input_ids[numbers, tokens.shape[1]]]  # [R, K]
            is_allowed = choices.new_zeros(len(choices), len(self.table.written), dtype=torch.bool)
            return is_allowed.scatter_(1, choices, True)

        # As many tokens as are read, and the end.
        config = DecodingConfig(num_beams=num_beams, max_tokens=input_ids.shape[1], max_ratio=1, max_more=1)
        return [own[0] for own in search(self.network, outputs.memory, config, allow)]

    def _columns(self, outputs: Translated, batch: Batch, num_beams: int) -> dict[str, Sequence[Any]]:
        found = self._search(outputs, batch, num_beams)
        sentences = ["".join(self._tokens(own, tokens)) for own, tokens in zip(found, batch["tokens"], strict=True)]
        scores = [math.exp(own.log_probability) for own in found]
        return prediction_columns(sentences, scores, outputs.readings, batch)

    def _tokens(self, found: Hypothesis, tokens: Sequence[str]) -> list[str]:
        """Return what was written; an unknown token is copied."""
        return [self.table.written[number] or token for number, token in zip(found.ids, tokens, strict=True)]


class DecoderFollower(Follower):
    """Scores the candidates of syllables by the decoder behind each prefix; 0 for what is copied."""

    def __init__(self, task: PinyinTranslator, memory: Memory) -> None:
        self.task = task
        self.cache = task.network.start_cache(memory)
        self.newest = torch.full((len(memory.states),), START, device=memory.states.device)

    def score(self, step: Step) -> Tensor:
        table = self.task.table
        choices = table.choices[step.tokens]  # [R, K]
        scores = at_least_float32(self.task.network.step(self.newest, self.cache).gather(1, choices))
        is_choice = table.is_choice(step.tokens, choices.shape[1])
        return scores.masked_fill(~is_choice, -torch.inf).log_softmax(1).gather(1, step.columns)

    def follow(self, rows: Tensor, written: Tensor) -> None:
        self.cache, self.newest = self.cache.select(rows), written

    def select(self, rows: Tensor) -> None:
        self.cache, self.newest = self.cache.select(rows), self.newest[rows]
