"""Text classification.

Shapes: B texts, T positions, D width, L labels.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, final

import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from lightning_modules.base import Batch, TaskModule
from lightning_modules.metrics.scores import MacroF1, Score, ShareEqual, WeightedMean
from lightning_modules.networks.encoder import EncoderConfig
from lightning_modules.networks.transformer import TransformerConfig
from lightning_modules.optimization import OptimConfig
from project.errors import ConfigError


@final
class TextClassifier(TaskModule):
    """Gives each text one label.

    Args:
        vocabulary: the tokens a network from scratch can tell apart, empty with a pretrained tokenizer; from the data.
        labels: names of the labels; from the data.
        encoder: the network that reads the text.
        pooling: a text's vector is the mean of its positions' or the first position's.
        dropout: share of that vector zeroed in training, in [0, 1).
        label_smoothing: share of the target's probability spread over all labels in the training loss, in [0, 1).
    """

    monitor = "val/accuracy"

    def __init__(
        self,
        vocabulary: list[str],
        labels: list[str],
        *,
        encoder: EncoderConfig = TransformerConfig(),
        pooling: Literal["mean", "first"] = "mean",
        dropout: float = 0.1,
        label_smoothing: float = 0.0,
        optim: OptimConfig = OptimConfig(),
    ) -> None:
        super().__init__(metrics=label_metrics(len(labels)), optim=optim)
        self.save_hyperparameters()
        if not 0 <= label_smoothing < 1:
            raise ConfigError(f"model.label_smoothing is {label_smoothing}. Give a number in [0, 1).")
        self.labels, self.pooling, self.label_smoothing = labels, pooling, label_smoothing
        self.encoder = encoder.build(vocabulary)
        self.hparams["encoder"] = self.encoder.config
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.encoder.width, len(labels))

    def forward(self, batch: Batch) -> Tensor:
        states = self.encoder(batch["input_ids"], batch["attention_mask"])  # [B, T, D]
        logits: Tensor = self.head(self.dropout(self._pool(states, batch["attention_mask"])))
        return logits.float()  # [B, L]

    def loss(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, int]:
        smoothing = self.label_smoothing if self.training else 0.0
        return F.cross_entropy(outputs, batch["labels"], label_smoothing=smoothing), len(outputs)

    def update(self, metrics: MetricCollection, outputs: Tensor, batch: Batch) -> None:
        metrics.update(outputs.argmax(-1), batch["labels"])

    def decode(self, outputs: Tensor, batch: Batch) -> Mapping[str, Sequence[Any]]:
        scores, numbers = outputs.softmax(-1).max(-1)
        columns = {
            "text": batch["text"],
            "prediction": [self.labels[number] for number in numbers.tolist()],
            "score": scores.tolist(),
        }
        if "labels" in batch:
            losses = F.cross_entropy(outputs, batch["labels"], reduction="none")
            targets = [self.labels[number] for number in batch["labels"].tolist()]
            columns |= {"target": targets, "loss": losses.tolist()}
        return columns

    def scores(self) -> Mapping[str, Score]:
        return {
            "accuracy": ShareEqual(),
            "f1_macro": MacroF1(labels=tuple(self.labels)),
            "loss": WeightedMean(column="loss", higher_is_better=False),
        }

    def _pool(self, states: Tensor, is_token: Tensor) -> Tensor:
        if self.pooling == "first":
            return states[:, 0]  # [B, D]
        weights = is_token.to(states.dtype)[..., None]  # [B, T, 1]
        return (states * weights).sum(1) / weights.sum(1)


def label_metrics(num_labels: int) -> MetricCollection:
    """Accuracy over texts, and F1 as the mean over labels; both from counts."""
    return MetricCollection(
        {
            "accuracy": MulticlassAccuracy(num_labels, average="micro", validate_args=False),
            "f1_macro": MulticlassF1Score(num_labels, average="macro", validate_args=False),
        }
    )
