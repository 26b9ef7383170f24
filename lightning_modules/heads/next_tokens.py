"""Scores of tokens at the positions that have a target: of next ones, as language models and translators learn, or
of hidden ones.

Shapes: B rows, T positions, N positions with a target, V tokens.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from lightrail.lightning_modules.networks.number_formats import at_least_float32

NO_TARGET = -100
"""The label of a position for which nothing is to be predicted."""


@dataclass(frozen=True)
class NextTokens:
    """Scores of the tokens that may come next, or be hidden, at the positions that have a target."""

    logits: Tensor
    """[N, V], row by row of the batch."""
    targets: Tensor
    """[N]"""
    is_target: Tensor
    """Which positions these are, [B, T]."""

    @cached_property
    def losses(self) -> Tensor:
        """Loss of each target in nats, [N]."""
        return F.cross_entropy(at_least_float32(self.logits), self.targets, reduction="none")

    @cached_property
    def are_correct(self) -> Tensor:
        """Whether the likeliest token is the target, [N]."""
        return self.logits.argmax(-1) == self.targets

    @cached_property
    def shares_correct(self) -> Tensor:
        """1 where the target alone is the likeliest token, a half where others are as likely, else 0, [N]."""
        best = self.logits.max(-1, keepdim=True).values  # [N, 1]
        is_best = self.logits.gather(-1, self.targets[:, None]) == best  # [N, 1]
        is_alone = (self.logits == best).sum(-1, keepdim=True) == 1
        return (is_best * (0.5 + 0.5 * is_alone)).squeeze(-1)

    def per_row(self, values: Tensor) -> list[float]:
        """Add up values of targets, [N], within each row, [B]."""
        rows = self.is_target.nonzero()[:, 0]  # [N]
        sums = torch.zeros(len(self.is_target), dtype=torch.float64, device=values.device)
        return sums.index_add_(0, rows, values.double()).tolist()

    def mean_loss(self, num_targets: int, smoothing: float = 0.0) -> Tensor:
        """Return the mean nats per target, of which a fraction is spread over all tokens (label smoothing)."""
        losses = self.losses
        if smoothing:
            even = -at_least_float32(self.logits).log_softmax(-1).mean(-1)  # [N]
            losses = torch.lerp(losses, even, smoothing)
        return losses.sum() / max(1, num_targets)

    def row_means(self) -> tuple[list[float], list[int]]:
        """Return the mean nats, 0 without a target, and the number of targets of each row, [B]."""
        counts = self.is_target.sum(1).tolist()
        sums = self.per_row(self.losses)
        return [total / max(1, count) for total, count in zip(sums, counts, strict=True)], counts
