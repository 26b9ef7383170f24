"""A task, its data and a trainer as small as they can be, for tests of what surrounds them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, final

import lightning.pytorch as pl
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightrail.datamodules.batches.batching import BatchConfig, BatchLoader, BucketSampler
from lightrail.lightning_modules.base import Batch, TaskModule
from lightrail.lightning_modules.metrics.scores import Score, ShareEqual, WeightedMean
from lightrail.lightning_modules.optimization import OptimConfig


@final
class Signs(TaskModule):
    """Tells which side of a line a point lies on; labels are given out by `labels`."""

    monitor = "val/accuracy"
    names: ClassVar[list[str]] = ["below", "above"]

    def __init__(self, *, width: int = 2, dropout: float = 0.0, optim: OptimConfig = OptimConfig()) -> None:
        super().__init__(optim)
        self.save_hyperparameters()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, 2)

    def forward(self, batch: Batch) -> Tensor:
        logits: Tensor = self.head(self.dropout(batch["points"]))
        return logits  # [B, 2]

    def loss(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, int]:
        return F.cross_entropy(outputs, batch["labels"]), len(outputs)

    def decode(self, outputs: Tensor, batch: Batch) -> Mapping[str, Sequence[Any]]:
        scores, numbers = outputs.softmax(-1).max(-1)
        return {
            "prediction": [self.names[number] for number in numbers.tolist()],
            "score": scores.tolist(),
            "target": [self.names[number] for number in batch["labels"].tolist()],
            "loss": F.cross_entropy(outputs, batch["labels"], reduction="none").tolist(),
        }

    def scores(self) -> Mapping[str, Score]:
        return {"accuracy": ShareEqual(), "loss": WeightedMean(column="loss", higher_is_better=False)}


class Points:
    """Points of the plane, and on which side of x = y they lie."""

    def __init__(self, number: int, seed: int = 0) -> None:
        self.points = np.random.default_rng(seed).normal(size=(number, 2)).astype(np.float32)
        self.labels = (self.points[:, 1] > self.points[:, 0]).astype(np.int64)

    def __len__(self) -> int:
        return len(self.points)

    def row(self, index: int) -> dict[str, Any]:
        return {"point": self.points[index], "label": int(self.labels[index])}


def collate_points(rows: Sequence[Mapping[str, Any]]) -> Batch:
    return {
        "id": [row["id"] for row in rows],
        "points": torch.from_numpy(np.stack([row["point"] for row in rows])),
        "labels": torch.tensor([row["label"] for row in rows]),
        "num_tokens": 2 * len(rows),
        "num_targets": len(rows),
    }


def points_loader(number: int = 12, *, size: int = 4, is_shuffled: bool = False) -> BatchLoader:
    rows = Points(number)
    sampler = BucketSampler(np.ones(number, np.int64), BatchConfig(size=size), is_shuffled=is_shuffled)
    return BatchLoader(rows, collate_points, sampler)


def quiet_trainer(**arguments: Any) -> pl.Trainer:
    """One process on the CPU that shows and logs nothing unless told to."""
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "use_distributed_sampler": False,
        "num_sanity_val_steps": 0,
        "limit_val_batches": 0,
        "log_every_n_steps": 1,
    }
    return pl.Trainer(**{**quiet, **arguments})


def fit(
    model: pl.LightningModule, loader: BatchLoader | None = None, *, resume_from: Path | None = None, **arguments: Any
) -> pl.Trainer:
    """Train with a quiet trainer, without validation unless `limit_val_batches` is given."""
    trainer = quiet_trainer(**arguments)
    train, validation = loader or points_loader(), points_loader(10)
    trainer.fit(model, train, validation, ckpt_path=resume_from, weights_only=True)
    return trainer
