"""Image classification.

Shapes: B images, C channels, H and W their height and width, D width, L labels.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightrail.lightning_modules.arguments import FromData
from lightrail.lightning_modules.base import Batch, TaskModule
from lightrail.lightning_modules.conversion.onnx_forms import called
from lightrail.lightning_modules.conversion.protocols import OnnxForm
from lightrail.lightning_modules.figures.figure import Figure, Images
from lightrail.lightning_modules.heads.label_head import LabelHead
from lightrail.lightning_modules.heads.label_loss import LabelLossConfig
from lightrail.lightning_modules.metrics.scores import Columns
from lightrail.lightning_modules.networks.augmentation import Augmentation, AugmentConfig
from lightrail.lightning_modules.networks.images import ConvNetConfig, ImageEncoderConfig
from lightrail.lightning_modules.optimization import OptimConfig
from lightrail.project.basics.annotations import ShareBelowOne

NUM_SHOWN = 36
"""Images in the sheet of mistakes."""


@final
class ImageClassifier(TaskModule):
    """Assigns one label to each image.

    Args:
        labels: names of the labels; from the data.
        label_counts: how often the training split has each; from the data.
        image_shape: C, H, W of every image; from the data.
        pixel_mean, pixel_std: of each channel, C numbers with white as 1; from the data.
        encoder: the network that reads the image.
        dropout: fraction of its vector zeroed in training, in [0, 1).
        augment: how images are changed in training.
        loss: options of the training loss.
    """

    pixel_mean: Tensor
    pixel_std: Tensor
    pipeline_tag = "image-classification"
    monitor = "val/accuracy"
    input_columns = ("image",)

    def __init__(
        self,
        labels: FromData[list[str]],
        label_counts: FromData[list[int]],
        image_shape: FromData[list[int]],
        pixel_mean: FromData[list[float]],
        pixel_std: FromData[list[float]],
        *,
        encoder: ImageEncoderConfig = ConvNetConfig(),
        dropout: ShareBelowOne = 0.0,
        augment: AugmentConfig = AugmentConfig(),
        loss: LabelLossConfig = LabelLossConfig(),
        optim: OptimConfig = OptimConfig(lr=1e-3),
    ) -> None:
        network = encoder.build(image_shape)
        head = LabelHead(network.width, labels, label_counts, has_many=False, dropout=dropout, loss=loss)
        super().__init__(optim)
        self.save_hyperparameters()
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            self.register_buffer(name, 255 * torch.tensor(values)[:, None, None], persistent=False)  # [C, 1, 1]
        self.augmentation = Augmentation(augment, image_shape)
        self.encoder, self.head = network, head

    def forward(self, batch: Batch) -> Tensor:
        """Return logits, [B, L]; in training with R-Drop of two passes, [2, B, L]."""
        images = self._normalized(self.augmentation(batch["pixels"]))  # [B, C, H, W]
        return self.head.passes(lambda: self.encoder(images))  # [B, L]

    def onnx_form(self, *, has_segments: bool) -> OnnxForm:
        """Return the network from pixels, 0 to 255, to calibrated logits."""

        def logits(pixels: Tensor) -> Tensor:
            scores: Tensor = self.head(self.encoder(self._normalized(pixels))) / self.head.temperature
            return scores

        shape = self.hparams["image_shape"]
        pixels = torch.arange(2 * math.prod(shape)).remainder(256).view(2, *shape).float()
        return OnnxForm(called(self, logits, "pixels"), {"pixels": pixels}, (), "logits")

    def _normalized(self, pixels: Tensor) -> Tensor:
        return ((pixels - self.pixel_mean) / self.pixel_std).to(self.dtype)

    def figures(self, columns: Columns, example: Callable[[int], Mapping[str, Any]]) -> Iterator[Figure]:
        """Yield the figures of the labels, and the wrong predictions with the greatest loss, the worst first."""
        yield from self.head.figures(columns)
        is_wrong = columns["prediction"] != columns["target"]
        worst = np.flatnonzero(is_wrong)[np.argsort(-columns["loss"][is_wrong], kind="stable")][:NUM_SHOWN]
        if len(worst):
            yield Images(
                name="worst_mistakes",
                title="Worst mistakes: target, and prediction with its score",
                note=f"{is_wrong.sum():,} of {len(is_wrong):,} wrong; the {len(worst)} whose loss is greatest",
                images=[self._image(example(int(columns["id"][number]))) for number in worst],
                captions=[
                    f"{columns['target'][number]}\n{columns['prediction'][number]} {columns['score'][number]:.2f}"
                    for number in worst
                ],
            )

    def _image(self, row: Mapping[str, Any]) -> NDArray[np.uint8]:
        """Return the pixels of a row, [H, W], or [H, W, 3] of a coloured image."""
        pixels = np.moveaxis(np.asarray(row["pixels"]).reshape(self.hparams["image_shape"]), 0, -1)
        return pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels
