"""Masked language models: hidden tokens are predicted from all others; and whether one sentence follows another.

Shapes: B examples, T positions, N masked positions, D width, V tokens.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
from lightrail.lightning_modules.heads.next_tokens import NextTokens
from lightrail.lightning_modules.metrics.language_scores import JointLoss, Perplexity
from lightrail.lightning_modules.metrics.scores import Score, SumRatio, WeightedMean
from lightrail.lightning_modules.networks.encoders.encoder import FIRST_TOKEN, EncoderConfig
from lightrail.lightning_modules.networks.encoders.pooling import build_pooling
from lightrail.lightning_modules.networks.encoders.transformer import TransformerConfig
from lightrail.lightning_modules.networks.number_formats import at_least_float32
from lightrail.lightning_modules.optimization import OptimConfig
from lightrail.project.basics.annotations import PositiveInt, check_range
from lightrail.project.basics.tokens.numbering import LanguageTokenizer

_CONTINUES = "##"
"""Mark of a piece that continues a word."""


@dataclass(frozen=True)
class Unmasked:
    """Scores of the tokens at masked positions, and whether the second of two parts follows the first."""

    logits: Tensor
    """[N, V], row by row of the batch."""
    tokens: NextTokens | None
    """These scores with their targets; None to predict."""
    next_logits: Tensor | None
    """Logit of "the second part follows the first", [B]; None without next-sentence prediction."""


@final
class MaskedLM(TaskModule):
    """Predicts masked tokens of a text from the others, to pretrain an encoder.

    With next-sentence prediction in the data, it also learns whether the second part of an example follows the first:
    1 where it does, 0 where it is from another text. The loss is then a mean over masked tokens and such decisions, in
    which a decision counts as `next_sentence_weight` tokens; so it is the same however a batch is divided.

    Args:
        vocabulary: the tokens of a network from scratch, empty with a pretrained tokenizer; from the data.
        tokenizer: facts that rebuild a pretrained tokenizer, None for others; from the data.
        mask_token: the text that stands for a masked token; from the data.
        special_ids: ids of the tokens that are never predicted, such as padding; from the data.
        next_sentence: whether examples are two parts, of which the second may follow the first; from the data.
        encoder: the network that reads the text. One from scratch scores tokens by their vectors at its input, after a
            layer; a pretrained one keeps the head that it was pretrained with.
        next_sentence_weight: number of masked tokens that a decision on the next sentence counts as.
        num_best: number of tokens that a prediction gives for each mask, best first.
    """

    monitor = "val/loss"
    transformers_class = "AutoModelForMaskedLM"
    pipeline_tag = "fill-mask"

    def __init__(
        self,
        vocabulary: FromData[list[str]],
        tokenizer: FromData[dict[str, Any] | None],
        mask_token: FromData[str],
        special_ids: FromData[list[int]],
        next_sentence: FromData[bool] = False,
        *,
        encoder: EncoderConfig = TransformerConfig(),
        next_sentence_weight: PositiveInt = 10,
        num_best: PositiveInt = 5,
        optim: OptimConfig = OptimConfig(lr=1e-3, schedule="cosine", weight_decay=0.01),
    ) -> None:
        check_range(next_sentence_weight, PositiveInt, "model.next_sentence_weight")
        check_range(num_best, PositiveInt, "model.num_best")
        super().__init__(optim)
        self.save_hyperparameters()
        self.encoder, self.head = encoder.build_with_token_head(vocabulary)
        self.hparams["encoder"] = self.encoder.config  # with what was loaded: no files are needed again
        self.next_sentence_head = None
        if next_sentence:
            # The first token of a pretrained tokenizer stands for the whole; ours have none.
            self.pooling = build_pooling("mean" if vocabulary else "first", self.encoder.width)
            self.next_sentence_head = nn.Sequential(
                nn.Linear(self.encoder.width, self.encoder.width), nn.Tanh(), nn.Linear(self.encoder.width, 1)
            )
        self.vocabulary, self.tokenizer, self.mask_token = vocabulary, tokenizer, mask_token
        self.special_ids, self.next_sentence_weight, self.num_best = special_ids, next_sentence_weight, num_best
        self._reader: LanguageTokenizer | None = None

    def forward(self, batch: Batch) -> Unmasked:
        """Score the tokens at the masked positions, N of B x T."""
        is_token, is_target = batch["attention_mask"], batch["is_target"]
        states = self.encoder(batch["input_ids"], is_token, batch.get("segment_ids"))  # [B, T, D]
        logits = self.head(states[is_target], self.encoder)  # [N, V]
        tokens = NextTokens(logits, batch["labels"][is_target], is_target) if "labels" in batch else None
        next_logits = None
        if self.next_sentence_head is not None and "is_next" in batch:
            next_logits = self.next_sentence_head(self.pooling(states, is_token)).squeeze(-1)  # [B]
        return Unmasked(logits, tokens, next_logits)

    def loss(self, outputs: Unmasked, batch: Batch) -> tuple[Tensor, int]:
        """Return the mean nats per masked token, or per token and decision, and the weight of all of them."""
        assert outputs.tokens is not None, "a loss needs targets"
        num_targets, mean = batch["num_targets"], outputs.tokens.mean_loss(batch["num_targets"])
        if outputs.next_logits is None:
            return mean, num_targets
        weight = self.next_sentence_weight
        total = num_targets + weight * len(outputs.next_logits)
        return (mean * num_targets + weight * _next_losses(outputs, batch).sum()) / total, total

    def decode(self, outputs: Unmasked, batch: Batch) -> Mapping[str, Sequence[Any]]:
        """Return for each example mean nats, counts and score, the geometric mean of its masked tokens' probabilities.

        To predict, return its text with each mask replaced by the best token, and for each mask the `num_best` best
        tokens with their probabilities.
        """
        if outputs.tokens is None:
            return self._filled(outputs, batch)
        means, counts = outputs.tokens.row_means()
        columns = {
            "text": batch["text"],
            "loss": means,
            "num_targets": counts,
            "num_correct": outputs.tokens.per_row(outputs.tokens.shares_correct),
            "score": [math.exp(-mean) for mean in means],
        }
        if outputs.next_logits is not None:
            columns["next_sentence_loss"] = _next_losses(outputs, batch).tolist()
            # In logits, whose sign decides: a probability of a half is no decision.
            signs = outputs.next_logits.sign() * (2 * batch["is_next"] - 1)
            columns["next_sentence_correct"] = ((signs + 1) / 2).tolist()
            columns["num_examples"] = [1] * len(means)
        return columns

    def explain_batch(self, copies: Copies, tokens: Sequence[str], question: Question) -> Iterator[Explanation]:
        """Yield the attributions of the best token for each mask, and the attention of the encoder."""
        refuse_label(question)
        refuse_target(question)
        batch = copies(1)
        with torch.no_grad():
            best = self._shares(self(batch).logits).argmax(-1)  # [N]

        def scores(num: int) -> Tensor:
            nats = at_least_float32(self(copies(num)).logits).log_softmax(-1)  # [K x N, V]
            chosen: Tensor = nats.gather(-1, best.repeat(num)[:, None])
            return chosen.view(num, len(best))

        yield from integrated_gradients(
            self.encoder,
            scores,
            [f"Log probability of {self._token(token)}, mask {place}" for place, token in enumerate(best.tolist(), 1)],
            tokens,
            batch["attention_mask"],
            question,
            neutral=self.encoder.neutral,
            note="In nats.",
        )
        yield from attention_heads(self.encoder, lambda: self(batch), tokens)

    def scores(self) -> Mapping[str, Score]:
        """Return loss, pseudo-perplexity and token accuracy, in which a tie of the best tokens counts half.

        The pseudo-perplexity is the exponential of the nats per masked token, with all masked tokens of a text hidden
        at once. With next sentences, `loss` is of both, and `token_loss` of masked tokens.
        """
        token_loss = WeightedMean(column="loss", weight="num_targets", higher_is_better=False)
        of_tokens: dict[str, Score] = {
            "pseudo_perplexity": Perplexity(higher_is_better=False),
            "token_accuracy": SumRatio(numerator="num_correct", denominator="num_targets"),
        }
        if self.next_sentence_head is None:
            return {"loss": token_loss, **of_tokens}
        return {
            "loss": JointLoss(weight=self.next_sentence_weight, higher_is_better=False),
            "token_loss": token_loss,
            **of_tokens,
            "next_sentence_loss": WeightedMean(column="next_sentence_loss", higher_is_better=False),
            "next_sentence_accuracy": SumRatio(numerator="next_sentence_correct", denominator="num_examples"),
        }

    def baselines(self) -> Mapping[str, float]:
        """Return the loss of equal probabilities for all tokens, in nats, and the accuracy of no decision."""
        nats = math.log(self._num_tokens)
        if self.next_sentence_head is None:
            return {"loss": nats}
        return {"token_loss": nats, "next_sentence_accuracy": 0.5}

    def column_types(self) -> Mapping[str, pa.DataType]:
        """Return the types of the lists of tokens and probabilities, one list for each mask."""
        return {"fills": pa.list_(pa.list_(pa.string())), "probabilities": pa.list_(pa.list_(pa.float64()))}

    def tokenizer_facts(self) -> Mapping[str, Any]:
        """Return the facts that rebuild the pretrained tokenizer."""
        assert self.tokenizer is not None, "a pretrained network has a tokenizer of its own"
        return self.tokenizer

    def to_transformers(self) -> Any:
        """Return the same network as a masked language model of transformers. Raises: ConfigError from scratch."""
        return self.head.to_transformers(self.encoder)

    def transformers_inputs(self, input_ids: Tensor) -> dict[str, Tensor]:
        """Return the arguments with which that network reads token ids, [1, T]."""
        return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}

    def logits(self, **inputs: Tensor) -> Tensor:
        """Return the logits at all positions, [1, T, V]."""
        states = self.encoder(inputs["input_ids"], inputs["attention_mask"].bool())  # [1, T, D]
        logits: Tensor = self.head(states[0], self.encoder)
        return logits[None]

    @property
    def _num_tokens(self) -> int:
        size: int = self.tokenizer["size"] if self.tokenizer else FIRST_TOKEN + len(self.vocabulary)
        return size

    def _shares(self, logits: Tensor) -> Tensor:
        """Return the probability of each token, [N, V], and -1 for those that stand for no text."""
        shares = at_least_float32(logits).softmax(-1)
        # A pretrained network may score more than its tokenizer has.
        shares[:, [*self.special_ids, *range(self._num_tokens, shares.shape[1])]] = -1.0
        return shares

    def _filled(self, outputs: Unmasked, batch: Batch) -> Mapping[str, Sequence[Any]]:
        best = self._shares(outputs.logits).topk(min(self.num_best, self._num_tokens - len(self.special_ids)))
        found = [
            ([self._token(number) for number in numbers], values)
            for numbers, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
        ends = batch["is_target"].sum(1).cumsum(0).tolist()
        rows = [found[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        return {
            "text": batch["text"],
            "prediction": [
                _with_fills(text.split(self.mask_token), [tokens[0] for tokens, _ in row])
                for text, row in zip(batch["text"], rows, strict=True)
            ],
            "fills": [[tokens for tokens, _ in row] for row in rows],
            "probabilities": [[values for _, values in row] for row in rows],
            "score": [math.prod(values[0] for _, values in row) for row in rows],
        }

    def _token(self, number: int) -> str:
        if self.tokenizer is None:
            return self.vocabulary[number - FIRST_TOKEN]
        if self._reader is None:
            self._reader = LanguageTokenizer.from_facts(self.tokenizer)
        return self._reader.decode([number]).strip()


def _next_losses(outputs: Unmasked, batch: Batch) -> Tensor:
    """Nats of each decision on the next sentence, [B]."""
    assert outputs.next_logits is not None, "the data gives pairs"
    logits = at_least_float32(outputs.next_logits)
    return F.binary_cross_entropy_with_logits(logits, batch["is_next"].to(logits), reduction="none")


def _with_fills(parts: Sequence[str], fills: Sequence[str]) -> str:
    """Return a text whose masks are replaced by tokens, of which some continue a word.

    >>> _with_fills(["the ", " ", " is"], ["cat", "##s"])
    'the cats is'
    """
    text = parts[0]
    for part, fill in zip(parts[1:], fills, strict=False):  # pieces of a long text may have a mask at their edge
        text = text.rstrip() + fill.removeprefix(_CONTINUES) if fill.startswith(_CONTINUES) else text + fill
        text += part
    return text
