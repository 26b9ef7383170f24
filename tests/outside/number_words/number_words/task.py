"""Writes numbers out in words, character by character.

Shapes: B examples, T positions, D width, V characters.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightrail.lightning_modules.arguments import FromData
from lightrail.lightning_modules.base import Batch, TaskModule
from lightrail.lightning_modules.figures.figure import Figure, Scatter
from lightrail.lightning_modules.metrics.scores import Columns, Score, WeightedMean
from lightrail.lightning_modules.networks.decoders.generation import GenerationConfig
from lightrail.lightning_modules.optimization import OptimConfig
from lightrail.project.basics.annotations import PositiveInt, ShareBelowOne
from lightrail.project.basics.tokens.numbering import LanguageTokenizer
from number_words.data import NO_TARGET
from number_words.metric import WeightedAccuracy


@final
class NumberSpeller(TaskModule):
    """Writes a number out in words.

    Args:
        tokenizer: what the data's tokenizer is made of; from the data.
        mean_weight: of the training examples; from the data.
        width: of each position's vector, D.
        dropout: fraction of the vectors zeroed in training.
    """

    monitor = "val/weighted_accuracy"

    def __init__(
        self,
        tokenizer: FromData[dict[str, Any]],
        mean_weight: FromData[float],
        *,
        width: PositiveInt = 64,
        dropout: ShareBelowOne = 0.1,
        optim: OptimConfig = OptimConfig(lr=3e-3),
    ) -> None:
        super().__init__(optim)
        self.save_hyperparameters()
        self.mean_weight = mean_weight
        self.characters = LanguageTokenizer.from_facts(tokenizer)
        self.embedding = nn.Embedding(self.characters.size, width)
        self.layers = nn.ModuleList(nn.Conv1d(width, width, kernel_size=8) for _ in range(2))
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(width, self.characters.size)

    def forward(self, batch: Batch) -> Tensor:
        states = self.embedding(batch["input_ids"]).transpose(1, 2)  # [B, D, T]
        for layer in self.layers:  # padded on the left: nothing sees what follows
            states = states + self.dropout(F.gelu(layer(F.pad(states, (7, 0)))))
        logits: Tensor = self.output(states.transpose(1, 2))
        return logits.float() if logits.dtype == torch.bfloat16 else logits  # [B, T, V]

    def loss(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, int]:
        weights = outputs.new_tensor(batch["weight"]) / self.mean_weight  # [B]
        total = (self._losses(outputs, batch) * weights[:, None]).sum()
        return total / max(1, batch["num_targets"]), batch["num_targets"]

    def decode(self, outputs: Tensor, batch: Batch) -> Mapping[str, Sequence[Any]]:
        """The prediction is what the likeliest character after each of the right ones spells."""
        is_target = batch["labels"] != NO_TARGET  # [B, T]
        best = outputs.argmax(-1)  # [B, T]
        columns: dict[str, Sequence[Any]] = {
            "text": batch["text"],
            "prediction": [self._spelled(own[kept]) for own, kept in zip(best, is_target, strict=True)],
        }
        if "weight" in batch:
            counts = is_target.sum(1)
            losses = self._losses(outputs, batch).sum(1) / counts
            weights = losses.new_tensor(batch["weight"]) / self.mean_weight
            columns |= {"target": batch["words"], "weight": batch["weight"], "num_targets": counts.tolist()}
            columns |= {"loss": (losses * weights).tolist(), "score": torch.exp(-losses).tolist()}
        return columns

    def scores(self) -> Mapping[str, Score]:
        loss = WeightedMean(column="loss", weight="num_targets", higher_is_better=False)
        return {"weighted_accuracy": WeightedAccuracy(), "loss": loss}

    def figures(self, columns: Columns, example: Callable[[int], Mapping[str, Any]]) -> Iterator[Figure]:
        """How long each answer is, and how long it should be."""
        lengths = [[len(text) for text in columns[name]] for name in ("target", "prediction")]
        yield Scatter(name="lengths_of_answers", title="Characters of each answer", x=lengths[0], y=lengths[1])

    def tokenizer_facts(self) -> Mapping[str, Any]:
        return dict(self.hparams["tokenizer"])

    @torch.no_grad()
    def write(
        self, prompt_ids: Sequence[int], config: GenerationConfig, *, num_samples: int, end_id: int | None
    ) -> Generator[list[int | None]]:
        """Give the likeliest character, step by step: every sample is the same."""
        ids = list(prompt_ids)
        for _ in range(config.max_tokens):
            token = int(self.eval()({"input_ids": torch.tensor([ids], device=self.device)})[0, -1].argmax())
            if token == end_id:
                return
            ids.append(token)
            yield [token] * num_samples

    def _losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Nats of each target, 0 elsewhere, [B, T]."""
        losses: Tensor = F.cross_entropy(
            outputs.flatten(0, 1), batch["labels"].flatten(), ignore_index=NO_TARGET, reduction="none"
        )
        return losses.view(batch["labels"].shape)

    def _spelled(self, ids: Tensor) -> str:
        return self.characters.decode([number for number in ids.tolist() if number != self.characters.end_id])
