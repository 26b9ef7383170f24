"""Image classification.

Shapes: B pictures, C channels, H and W their height and width, D width, L labels.
"""

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor
from torchmetrics import MetricCollection

from lightrail.lightning_modules.base import Batch, TaskModule
from lightrail.lightning_modules.label_head import LabelHead
from lightrail.lightning_modules.label_loss import LabelLossConfig
from lightrail.lightning_modules.metrics.scores import StoredScore
from lightrail.lightning_modules.networks.augmentation import Augmentation, AugmentConfig
from lightrail.lightning_modules.networks.images import ConvNetConfig, ImageEncoderConfig
from lightrail.lightning_modules.optimization import OptimConfig
from lightrail.project.basics.annotations import ShareBelowOne


@final
class ImageClassifier(TaskModule):
    """Gives each picture one label.

    Args:
        labels: names of the labels; from the data.
        label_counts: how often the training split has each; from the data.
        image_shape: C, H, W of every picture; from the data.
        pixel_mean, pixel_std: of each channel, C numbers with white as 1; from the data.
        encoder: the network that sees the picture.
        dropout: share of its vector zeroed in training, in [0, 1).
        augment: how pictures are changed in training.
        loss: what changes the training loss.
    """

    monitor = "val/accuracy"

    def __init__(
        self,
        labels: list[str],
        label_counts: list[int],
        image_shape: list[int],
        pixel_mean: list[float],
        pixel_std: list[float],
        *,
        encoder: ImageEncoderConfig = ConvNetConfig(),
        dropout: ShareBelowOne = 0.0,
        augment: AugmentConfig = AugmentConfig(),
        loss: LabelLossConfig = LabelLossConfig(),
        optim: OptimConfig = OptimConfig(lr=1e-3),
    ) -> None:
        network = encoder.build(image_shape)
        head = LabelHead(network.width, labels, label_counts, has_many=False, dropout=dropout, loss=loss)
        super().__init__(metrics=MetricCollection([head.metrics()]), optim=optim)
        self.save_hyperparameters()
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            self.register_buffer(name, 255 * torch.tensor(values)[:, None, None], persistent=False)  # [C, 1, 1]
        self.augmentation = Augmentation(augment, image_shape)
        self.encoder, self.head = network, head

    def forward(self, batch: Batch) -> Tensor:
        pixels = self.augmentation(batch["pixels"])  # [B, C, H, W]
        images = ((pixels - self.pixel_mean) / self.pixel_std).to(self.dtype)
        return self.head.passes(lambda: self.encoder(images))  # [B, L]

    def loss(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, int]:
        return self.head.loss(outputs, batch["labels"])

    def update(self, metrics: MetricCollection, outputs: Tensor, batch: Batch) -> None:
        self.head.update(metrics, outputs, batch["labels"])

    def decode(self, outputs: Tensor, batch: Batch) -> Mapping[str, Sequence[Any]]:
        return {"image": batch["image"], **self.head.decode(outputs, batch.get("labels"))}

    def scores(self) -> Mapping[str, StoredScore]:
        return self.head.scores()

    def calibration_rows(self, outputs: Tensor, batch: Batch) -> Sequence[Any]:
        return self.head.calibration_rows(outputs, batch["labels"])

    def calibrate(self, rows: list[Any]) -> Mapping[str, float]:
        return self.head.calibrate(rows)

    def column_labels(self) -> Mapping[str, Sequence[str]]:
        return self.head.column_labels()
