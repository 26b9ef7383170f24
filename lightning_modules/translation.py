"""Sequence to sequence: a text is read, and another one is written.

Shapes: B examples, S positions of the source, T positions of the target, N positions with a target, V tokens of the
target.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import pyarrow as pa
import torch
from torch import Tensor

from lightrail.lightning_modules.arguments import FromData
from lightrail.lightning_modules.base import Batch, TaskModule
from lightrail.lightning_modules.explaining.attention import encoder_decoder_attention
from lightrail.lightning_modules.explaining.explanation import Explanation, Question, refuse_label
from lightrail.lightning_modules.heads.next_tokens import NO_TARGET, NextTokens
from lightrail.lightning_modules.metrics.evaluation import ScoreSums
from lightrail.lightning_modules.metrics.language_scores import Perplexity
from lightrail.lightning_modules.metrics.scores import Score, ShareEqual, SumRatio, WeightedMean
from lightrail.lightning_modules.metrics.translation_scores import TranslationMetricsConfig
from lightrail.lightning_modules.networks.modes import evaluating
from lightrail.lightning_modules.networks.row_names import RowNames, token_rows
from lightrail.lightning_modules.networks.seq2seq.decoding import DecodingConfig, Hypothesis
from lightrail.lightning_modules.networks.seq2seq.network import Memory, Seq2SeqConfig, Vocabulary
from lightrail.lightning_modules.networks.seq2seq.search import search
from lightrail.lightning_modules.networks.seq2seq.teacher_forcing import TeacherForcingConfig
from lightrail.lightning_modules.networks.seq2seq.transformer import TransformerSeq2SeqConfig
from lightrail.lightning_modules.optimization import OptimConfig
from lightrail.project.basics.annotations import PositiveInt, ShareBelowOne, check_range
from lightrail.project.basics.errors import ConfigError
from lightrail.project.basics.tokens.framing import framed
from lightrail.project.basics.tokens.numbering import LanguageTokenizer
from lightrail.project.basics.tokens.showing import shown_ids


@dataclass(frozen=True)
class Translated:
    """What a network has read, for a search, and the scores of given targets."""

    memory: Memory | None
    """None in training."""
    next_tokens: NextTokens | None
    """None without targets."""


@final
class Translation(TaskModule):
    """Reads a source text and writes a target text: translation, or any other text in, text out.

    Args:
        source: facts that rebuild the tokenizer of the texts that are read, the tokens around them, and their prefix;
            from the data.
        target: facts that rebuild the tokenizer of the texts that are written, and the tokens around them; from the
            data.
        network: the encoder-decoder.
        decoding: how targets are searched in tests and predictions.
        validation_beams: prefixes that are followed at a time in a validation, which is repeated often.
        metrics: which metrics of texts are computed, and how.
        label_smoothing: fraction of the target's probability that training spreads over all tokens, in [0, 1).
        teacher_forcing: how often training reads the given token of a target.
    """

    monitor = "val/bleu"
    transformers_class = "AutoModelForSeq2SeqLM"
    pipeline_tag = "translation"

    def __init__(
        self,
        source: FromData[dict[str, Any]],
        target: FromData[dict[str, Any]],
        *,
        network: Seq2SeqConfig = TransformerSeq2SeqConfig(),
        decoding: DecodingConfig = DecodingConfig(),
        validation_beams: PositiveInt = 1,
        metrics: TranslationMetricsConfig = TranslationMetricsConfig(),
        label_smoothing: ShareBelowOne = 0.1,
        teacher_forcing: TeacherForcingConfig = TeacherForcingConfig(),
        optim: OptimConfig = OptimConfig(lr=1e-3, schedule="cosine"),
    ) -> None:
        check_range(label_smoothing, ShareBelowOne, "model.label_smoothing")
        check_range(validation_beams, PositiveInt, "model.validation_beams")
        _check(network, decoding, teacher_forcing)
        super().__init__(optim)
        self.save_hyperparameters()
        self.source_tokenizer = LanguageTokenizer.from_facts(source["tokenizer"])
        self.target_tokenizer = LanguageTokenizer.from_facts(target["tokenizer"])
        self.network = network.build(
            _vocabulary(self.source_tokenizer, source["frame"]),
            _vocabulary(self.target_tokenizer, target["frame"]),
            is_shared=self.source_tokenizer.has_ids_of(self.target_tokenizer),
        )
        self.hparams["network"] = self.network.config  # with what was loaded: no files are needed again
        self.decoding, self.validation_beams, self.metrics = decoding, validation_beams, metrics
        self.label_smoothing, self.teacher_forcing = label_smoothing, teacher_forcing

    def row_names(self) -> Mapping[str, RowNames]:
        """Return the tokens that rows of the network stand for."""
        source, target = (
            token_rows(own.token_ids(), own.size) for own in (self.source_tokenizer, self.target_tokenizer)
        )
        rows = self.network.rows_of_tokens(source=source, target=target)
        return {f"network.{name}": names for name, names in rows.items()}

    def forward(self, batch: Batch) -> Translated:
        """Read the sources, and score the targets where there are any."""
        if "labels" not in batch:
            return Translated(self.network.encode(batch["input_ids"], batch["attention_mask"]), None)
        labels = batch["labels"]
        is_target = labels != NO_TARGET  # [B, T]
        given, memory = self.network.decoder_ids(labels), None
        if self.training:
            sources = batch["input_ids"], batch["attention_mask"]
            logits = self.network(*sources, given, forced_fraction=self.teacher_forcing.current(self))  # [B, T, V]
        else:
            memory = self.network.encode(batch["input_ids"], batch["attention_mask"])
            logits = self.network.score(memory, given)
        return Translated(memory, NextTokens(logits[is_target], labels[is_target], is_target))

    def loss(self, outputs: Translated, batch: Batch) -> tuple[Tensor, int]:
        """Return the mean nats per target, smoothed in training, and the number of targets."""
        assert outputs.next_tokens is not None, "a loss needs targets"
        smoothing = self.label_smoothing if self.training else 0.0
        return outputs.next_tokens.mean_loss(batch["num_targets"], smoothing), batch["num_targets"]

    def update(self, sums: ScoreSums, outputs: Translated, batch: Batch) -> None:
        """Add a validation batch to the scores, decoded with `validation_beams`."""
        sums.update(self._columns(outputs, batch, replace(self.decoding, num_beams=self.validation_beams, num_best=1)))

    def decode(self, outputs: Translated, batch: Batch) -> Mapping[str, Sequence[Any]]:
        """Return sources, texts found, and their scores: the geometric mean of their tokens' probabilities."""
        return {"text": batch["text"], **self._columns(outputs, batch, self.decoding)}

    def scores(self) -> Mapping[str, Score]:
        """Return BLEU, chrF and TER of the texts, exact matches, texts that were cut, loss and perplexity."""
        return {
            **self.metrics.scores(),
            "exact_match": ShareEqual(),
            "cut_fraction": SumRatio(numerator="num_cut", denominator="num_texts", higher_is_better=False),
            "loss": WeightedMean(column="loss", weight="num_targets", higher_is_better=False),
            "perplexity": Perplexity(higher_is_better=False),
        }

    def column_types(self) -> Mapping[str, pa.DataType]:
        """Return the types of the lists of the best texts and their scores."""
        return {"predictions": pa.list_(pa.string()), "scores": pa.list_(pa.float64())}

    def tokenizer_facts(self) -> Mapping[str, Any]:
        """Return the facts that rebuild the tokenizer of what is written."""
        return self.target_tokenizer.facts()

    def to_transformers(self) -> Any:
        """Return the same network as an encoder-decoder of transformers. Raises: ConfigError for one from scratch."""
        return self.network.to_transformers()

    def transformers_inputs(self, input_ids: Tensor) -> dict[str, Tensor]:
        """Return the arguments with which that network reads token ids, [1, T], as source and as target."""
        return {"input_ids": input_ids, "decoder_input_ids": input_ids}

    def logits(self, **inputs: Tensor) -> Tensor:
        """Return the logits of a target, [1, T, V]."""
        memory = self.network.encode(inputs["input_ids"], torch.ones_like(inputs["input_ids"], dtype=torch.bool))
        return self.network.score(memory, inputs["decoder_input_ids"])

    @torch.no_grad()
    def respond(
        self, texts: Sequence[str], *, num_best: int = 1, max_tokens: int | None = None
    ) -> list[list[tuple[str, float]]]:
        """Return the best targets of sources, [B] lists of text and score; see `TextResponder.respond`."""
        input_ids, is_token = self._sources(texts)
        decoding = replace(self.decoding, num_best=num_best, num_beams=max(num_best, self.decoding.num_beams))
        decoding = decoding if max_tokens is None else replace(decoding, max_tokens=max_tokens)
        with evaluating(self.network):
            found = search(self.network, self.network.encode(input_ids, is_token), decoding)
        return [[(self._text(one), one.score) for one in own] for own in found]

    def explain_text(self, text: str, question: Question) -> Iterator[Explanation]:
        """Yield the alignment of a source with a target, the one asked for or the best that is found, and all heads."""
        refuse_label(question)
        input_ids, is_token = self._sources([text])
        target = question.target
        if target is None:
            ((target, _),) = self.respond([text])[0][:1]
        before, after = self.hparams["target"]["frame"][:2]
        labels = [*before, *self.target_tokenizer.encode(target).tolist(), *after]
        yield from encoder_decoder_attention(
            self.network,
            (input_ids, is_token),
            self.network.decoder_ids(torch.tensor([labels], device=self.device)),
            shown_ids(self.target_tokenizer, labels, target),
            shown_ids(self.source_tokenizer, input_ids[0].tolist(), self.hparams["source"]["prefix"] + text),
            f"Target: {target}" if question.target is None else f"Target as given: {target}",
        )

    def _sources(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Encode sources: token ids, and where there are tokens, [B, S] each."""
        source = self.hparams["source"]
        most = source.get("max_length", sys.maxsize)  # checkpoints of before have none
        encoded = [self.source_tokenizer.encode(source["prefix"] + text) for text in texts]
        ids = [framed(own, source["frame"], most)[0].tolist() for own in encoded]
        longest = max(map(len, ids))
        is_token = torch.tensor([[place < len(own) for place in range(longest)] for own in ids], device=self.device)
        return torch.tensor([own + [0] * (longest - len(own)) for own in ids], device=self.device), is_token

    def _columns(self, outputs: Translated, batch: Batch, decoding: DecodingConfig) -> dict[str, Sequence[Any]]:
        assert outputs.memory is not None, "nothing is searched in training"
        found = search(self.network, outputs.memory, decoding)
        best = [own[0] for own in found]
        columns: dict[str, Sequence[Any]] = {
            "prediction": [self._text(own) for own in best],
            "score": [own.score for own in best],
            "num_cut": [int(own.is_cut) for own in best],
            "num_texts": [1] * len(best),
        }
        if decoding.num_best > 1:
            columns["predictions"] = [[self._text(one) for one in own] for own in found]
            columns["scores"] = [[one.score for one in own] for own in found]
        if outputs.next_tokens is not None:
            means, counts = outputs.next_tokens.row_means()
            columns |= {"target": batch["target"], "loss": means, "num_targets": counts}
        return columns

    def _text(self, found: Hypothesis) -> str:
        return self.target_tokenizer.decode(found.ids)


def _vocabulary(tokenizer: LanguageTokenizer, frame: list[list[int]]) -> Vocabulary:
    before, _, *start = frame
    start_id = start[0][0] if start and start[0] else tokenizer.start_id
    pad = tokenizer.facts()["special_tokens"].get("pad_token")
    never = {start_id, *([] if pad is None else [tokenizer.token_ids()[pad]])} - {tokenizer.end_id, *before}
    return Vocabulary(
        size=tokenizer.size,
        start_id=start_id,
        end_id=tokenizer.end_id,
        never=tuple(sorted(never)),
        before=tuple(before),
    )


def _check(network: Seq2SeqConfig, decoding: DecodingConfig, teacher_forcing: TeacherForcingConfig) -> None:
    if decoding.num_best > decoding.num_beams:
        raise ConfigError(
            f"model.decoding.num_best is {decoding.num_best}, and num_beams {decoding.num_beams}. Give at most as many."
        )
    teacher_forcing.check(network)
