"""Random changes of images in training that leave their label as it is.

Shapes: B images, C channels, H and W their height and width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightrail.project.basics.annotations import NaturalInt, Ranged
from lightrail.project.basics.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class AugmentConfig(Ranged):
    """Random changes of images in training; an evaluation makes none."""

    shift: NaturalInt = 0
    """Most pixels that an image is moved by, in each direction; its edge is repeated where nothing was. 0: none."""
    flip: bool = False
    """Whether half of the images are mirrored, left to right."""


class Augmentation(nn.Module):
    """Shifts and mirrors each image by itself, by random numbers that follow from the seed and the step."""

    def __init__(self, config: AugmentConfig, image_shape: Sequence[int]) -> None:
        super().__init__()
        if config.shift >= min(image_shape[1:]):
            raise ConfigError(
                f"model.augment.shift is {config.shift}. Give a number from 0 to below the images' size, "
                f"{image_shape[1]} x {image_shape[2]}."
            )
        self.config = config

    def forward(self, images: Tensor) -> Tensor:
        """Change images, [B, C, H, W] of any type; in evaluation they stay as they are."""
        if not self.training or self.config == AugmentConfig():
            return images
        num_images, _, height, width = images.shape
        rows = self._places(num_images, height, images.device)
        columns = self._places(num_images, width, images.device)
        if self.config.flip:
            is_flipped = torch.rand(num_images, 1, device=images.device) < 0.5
            columns = torch.where(is_flipped, columns.flip(1), columns)
        numbers = torch.arange(num_images, device=images.device)[:, None, None]
        # Indices around a slice put its axis last.
        return images[numbers, :, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)  # [B, C, H, W]

    def _places(self, num_images: int, size: int, device: torch.device) -> Tensor:
        """Return where each row, or column, of each image is taken from, [B, size]."""
        shift = self.config.shift
        shifts = torch.randint(-shift, shift + 1, (num_images, 1), device=device)
        return (torch.arange(size, device=device) + shifts).clamp(0, size - 1)
