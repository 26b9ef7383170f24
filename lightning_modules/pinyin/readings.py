"""What syllables are read as: the scores of their characters, and how whole sentences are stored and scored.

Shapes: B sentences, T positions, N positions whose token is a syllable, K most candidates of a syllable.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightrail.lightning_modules.figures.figure import Bars, Figure, reliability
from lightrail.lightning_modules.metrics.scores import Columns, Score, ShareZero, SumRatio, WeightedMean
from lightrail.lightning_modules.metrics.sentence_errors import num_edits, only_hanzi


@dataclass(frozen=True)
class Readings:
    """Scores of the characters that each syllable can be read as."""

    logits: Tensor
    """[N, K], row by row of the batch."""
    is_syllable: Tensor
    """Which positions these are, [B, T]."""

    def losses(self, labels: Tensor) -> Tensor:
        """Return the nats of each syllable, [N]; 0 where `labels`, [B, T], has no target or it is no candidate."""
        return F.cross_entropy(self.logits, labels[self.is_syllable].clamp(min=-1), ignore_index=-1, reduction="none")

    def mean_loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, int]:
        """Return the mean nats per character, and the number of characters."""
        return self.losses(batch["labels"]).sum() / max(1, batch["num_targets"]), batch["num_targets"]

    def loss_columns(self, labels: Tensor) -> dict[str, list[Any]]:
        """Return the mean nats of each sentence, [B], and how many characters that is a mean over."""
        losses, are_targets = self.per_sentence(self.losses(labels)), self.per_sentence(labels[self.is_syllable] >= 0)
        counts = [sum(own) for own in are_targets]
        means = [sum(own) / max(1, count) for own, count in zip(losses, counts, strict=True)]
        return {"loss": means, "num_targets": counts}

    def per_sentence(self, values: Tensor) -> list[list[float]]:
        """Divide values of syllables, [N], into a list for each sentence."""
        return [own.tolist() for own in torch.split(values, self.is_syllable.sum(1).tolist())]


def prediction_columns(
    sentences: Sequence[str], scores: Sequence[float], readings: Readings | None, batch: Mapping[str, Any]
) -> dict[str, Sequence[Any]]:
    """Return the columns of stored predictions; those of targets where every example has its sentence."""
    columns: dict[str, Sequence[Any]] = {
        "pinyin": [typed or " ".join(tokens) for typed, tokens in zip(batch["typed"], batch["tokens"], strict=True)],
        "prediction": sentences,
        "score": scores,
    }
    if readings is not None and all(batch["text"]):
        columns |= {"target": batch["text"], **readings.loss_columns(batch["labels"])}
        hanzi = [(only_hanzi(one), only_hanzi(other)) for one, other in zip(sentences, batch["text"], strict=True)]
        columns["num_edits"] = [num_edits(predicted, target) for predicted, target in hanzi]
        columns["num_hanzi"] = [len(target) for _, target in hanzi]
        columns["num_text_edits"] = [num_edits(*own) for own in zip(sentences, batch["text"], strict=True)]
        columns["num_characters"] = [len(target) for target in batch["text"]]
    return columns


def conversion_scores() -> dict[str, Score]:
    """Return accuracy and error rate of hanzi, error rate of all characters, sentence accuracy and loss."""
    rate = SumRatio(numerator="num_edits", denominator="num_hanzi", higher_is_better=False)
    return {
        "character_accuracy": replace(rate, is_complement=True, higher_is_better=True),
        "character_error_rate": rate,
        "text_error_rate": replace(rate, numerator="num_text_edits", denominator="num_characters"),
        "sentence_accuracy": ShareZero(column="num_edits"),
        "loss": WeightedMean(column="loss", weight="num_targets", higher_is_better=False),
    }


def conversion_figures(columns: Columns) -> Iterator[Figure]:
    """Yield how often sentences of each probability are right, and the characters that are confused most often."""
    yield reliability(columns["score"], columns["prediction"], columns["target"])
    confused, seen = Counter[tuple[str, str, str]](), Counter[tuple[str, str]]()
    for typed, found, target in zip(columns["pinyin"], columns["prediction"], columns["target"], strict=True):
        syllables = typed.split(" ")
        if len(syllables) == len(found) == len(target):
            for syllable, own, expected in zip(syllables, found, target, strict=True):
                seen[syllable, expected] += 1
                confused[syllable, expected, own] += own != expected
    pairs = [pair for pair, count in confused.most_common() if count]
    if pairs:
        yield Bars(
            name="confusions",
            title="Characters confused most often",
            note=f"{sum(confused.values())} wrong of {sum(seen.values())}; {len(pairs)} pairs",
            labels=[f"{expected} → {own} ({syllable})" for syllable, expected, own in pairs],
            values={"fraction of the expected character": [confused[pair] / seen[pair[:2]] for pair in pairs]},
            counts=[confused[pair] for pair in pairs],
            table="confusions",
        )
