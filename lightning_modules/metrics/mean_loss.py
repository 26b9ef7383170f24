"""The mean of a loss over all targets of an evaluation."""

import torch
from torch import Tensor
from torchmetrics import Metric


class MeanLoss(Metric):
    """Adds up losses in float64 over batches and processes, each weighted by its number of targets.

    torchmetrics' MeanMetric (1.9) either waits for the device to look for NaN, or ignores the weights.
    """

    full_state_update = False
    total: Tensor
    num_targets: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("total", "num_targets"):
            self.add_state(name, torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, mean: Tensor, num_targets: int) -> None:
        """Count a batch: its mean loss, and how many targets that is a mean over."""
        if num_targets:
            self.total += mean.double() * num_targets
            self.num_targets += num_targets

    def compute(self) -> Tensor:
        return self.total / self.num_targets
