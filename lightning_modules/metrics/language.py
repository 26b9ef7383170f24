"""The loss of a language model by the number of tokens read before. Shapes: N targets, P ranges of positions."""

import torch
from torch import Tensor
from torchmetrics import Metric

RANGES_PER_OCTAVE = 4
NUM_RANGES = 30 * RANGES_PER_OCTAVE
"""P: up to 2^30 positions."""


class LossByPosition(Metric):
    """Mean nats of targets by how many positions came before them.

    It has a row for each range of positions that holds a target, [P, 3]: mean position (the first one is 1), mean nats,
    number of targets. Ranges are quarters of an octave, so that each of the first positions has its own.
    """

    full_state_update = False
    sums: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(NUM_RANGES, 3, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, losses: Tensor, positions: Tensor) -> None:
        """Add the nats of targets, [N], and the position, from 0, of the token that each follows, [N]."""
        ordinals = positions.double() + 1
        ranges = (RANGES_PER_OCTAVE * ordinals.log2()).long().clamp(max=NUM_RANGES - 1)
        self.sums.index_add_(0, ranges, torch.stack([ordinals, losses.double(), torch.ones_like(ordinals)], dim=1))

    def compute(self) -> Tensor:
        """Return mean position, mean nats and number of targets of each range with a target, [P, 3]."""
        some = self.sums[self.sums[:, 2] > 0]  # [P, 3]
        counts = some[:, 2:]
        return torch.cat([some[:, :2] / counts, counts], dim=1)
