"""The loss of classification: the one that training minimises, and the plain one that an evaluation reports.

Shapes: P passes through the network, B examples, L labels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightrail.project.basics.annotations import NotNegative, Ranged, ShareBelowOne
from lightrail.project.basics.did_you_mean import first_names
from lightrail.project.basics.errors import ConfigError

ClassWeights = Literal["none", "balanced"] | dict[str, NotNegative]


@dataclass(frozen=True, kw_only=True)
class LabelLossConfig(Ranged):
    """Options of the training loss; an evaluation reports the plain one."""

    label_smoothing: ShareBelowOne = 0.0
    """Fraction of the target's probability that is spread over all labels, in [0, 1)."""
    class_weights: ClassWeights = "none"
    """`balanced` weighs a label by the inverse of how often the training split has it; or weights by label, 1 for those
    left out. They are scaled so that the mean over the training split is 1. Where a text may have several labels, they
    count where a label is present."""
    focal_gamma: NotNegative = 0.0
    """An example weighs (1 - p)^gamma with p its target's probability, so that easy ones count less; 0 or more."""
    r_drop: NotNegative = 0.0
    """Weight of the divergence of two passes with different dropout, 0 or more; above 0 a step takes twice as long."""


class LabelLoss(nn.Module):
    """Loss of each example, in nats.

    Where an example has one label that is the cross-entropy; where it may have several, or none, the binary
    cross-entropies of all labels added up, which is the cross-entropy of the whole set with labels independent.

    Args:
        label_counts: how often the training split has each label.
        has_many: whether an example may have several labels.

    Sources: T.-Y. Lin et al. (2017), "Focal Loss for Dense Object Detection"; X. Liang et al. (2021), "R-Drop:
    Regularized Dropout for Neural Networks"; C. Szegedy et al. (2016), "Rethinking the Inception Architecture for
    Computer Vision" (label smoothing).
    """

    weights: Tensor

    def __init__(
        self, config: LabelLossConfig, labels: Sequence[str], label_counts: Sequence[int], *, has_many: bool
    ) -> None:
        super().__init__()
        self.config, self.has_many = config, has_many
        weights = label_weights(config.class_weights, labels, label_counts)
        self.register_buffer("weights", torch.tensor(weights), persistent=False)  # [L]

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the plain loss of each example, [B], of logits [B, L] and labels, [B] or, with several, [B, L]."""
        if self.has_many:
            return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none").sum(-1)
        return F.cross_entropy(logits, labels, reduction="none")

    def training_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each example that training minimises, [P, B, L] of one or two passes to [B]."""
        losses = torch.stack([self._many(own, labels) if self.has_many else self._one(own, labels) for own in logits])
        loss = losses.mean(0)
        if len(logits) == 2:
            loss = loss + self.config.r_drop * self.divergence(logits[0], logits[1])
        return loss

    def divergence(self, one: Tensor, other: Tensor) -> Tensor:
        """Return the mean of the two Kullback-Leibler divergences between the predictions of two passes, [B]."""
        if self.has_many:
            return 0.5 * ((one.sigmoid() - other.sigmoid()) * (one - other)).sum(-1)
        return 0.5 * ((one.softmax(-1) - other.softmax(-1)) * (one.log_softmax(-1) - other.log_softmax(-1))).sum(-1)

    def _one(self, logits: Tensor, labels: Tensor) -> Tensor:
        loss = F.cross_entropy(logits, labels, label_smoothing=self.config.label_smoothing, reduction="none")
        if self.config.focal_gamma:
            loss = loss * self._focus(logits.softmax(-1).gather(-1, labels[:, None]).squeeze(-1))
        return loss * self.weights[labels]

    def _many(self, logits: Tensor, labels: Tensor) -> Tensor:
        smoothing = self.config.label_smoothing
        labels = labels.to(logits.dtype)  # 0 and 1 in any format, but what smoothing makes of them is not
        smoothed = labels * (1 - smoothing) + smoothing / 2
        losses = F.binary_cross_entropy_with_logits(logits, smoothed, reduction="none")  # [B, L]
        if self.config.focal_gamma:
            losses = losses * self._focus((logits * (2 * labels - 1)).sigmoid())
        return (losses * torch.where(labels > 0, self.weights, 1)).sum(-1)

    def _focus(self, probabilities: Tensor) -> Tensor:
        # The slope of x^gamma is infinite at 0 for a gamma below 1: a probability of exactly 1 would give NaN.
        missed: Tensor = (1 - probabilities).clamp(min=1e-6)
        return missed**self.config.focal_gamma


def label_weights(config: ClassWeights, labels: Sequence[str], label_counts: Sequence[int]) -> list[float]:
    """Return the weight of each label, scaled so that the mean over all labels of the training split is 1.

    Raises: ConfigError when a weight is negative, all are 0, or a label is unknown.

    >>> label_weights("balanced", ["rare", "frequent"], [1, 3])
    [2.0, 0.6666666666666666]
    """
    if config == "none":
        return [1.0] * len(labels)
    weights = [1 / max(count, 1) for count in label_counts] if config == "balanced" else _given(config, labels)
    total = sum(weight * count for weight, count in zip(weights, label_counts, strict=True))
    if not total > 0:
        raise ConfigError("model.loss.class_weights: all labels weigh 0. Give at least one a weight above 0.")
    return [weight * sum(label_counts) / total for weight in weights]


def _given(weights: Mapping[str, float] | str, labels: Sequence[str]) -> list[float]:
    assert not isinstance(weights, str)
    unknown = sorted(weights.keys() - set(labels))
    if unknown:
        known = first_names(labels)
        raise ConfigError(f"model.loss.class_weights: {unknown[0]!r} is none of the labels ({known}). Correct it.")
    return [float(weights.get(label, 1.0)) for label in labels]
