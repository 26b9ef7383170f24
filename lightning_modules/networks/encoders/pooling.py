"""Pooling: one vector for a text from those of its positions.

Shapes: N texts, T positions, D width.
"""

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

from lightrail.lightning_modules.networks.number_formats import at_least_float32

PoolingName = Literal["mean", "first", "max", "attention"]


class Pooling(nn.Module, ABC):
    """Pools the states of each text; padding does not count."""

    @abstractmethod
    def forward(self, states: Tensor, is_token: Tensor) -> Tensor:
        """Pool states [N, T, D], where `is_token` [N, T] is true, to [N, D]."""


class MeanPooling(Pooling):
    """The mean over positions."""

    def forward(self, states: Tensor, is_token: Tensor) -> Tensor:
        """Average the states of tokens, [N, T, D] to [N, D]."""
        weights = is_token.to(states.dtype)[..., None]  # [N, T, 1]
        return (states * weights).sum(1) / weights.sum(1)


class FirstPooling(Pooling):
    """The first position, where BERT's tokenizers put [CLS]."""

    def forward(self, states: Tensor, is_token: Tensor) -> Tensor:
        """Return the first state, [N, T, D] to [N, D]."""
        return states[:, 0]


class MaxPooling(Pooling):
    """The largest value of each component, as in a TextCNN."""

    def forward(self, states: Tensor, is_token: Tensor) -> Tensor:
        """Return the largest values over tokens, [N, T, D] to [N, D]."""
        return states.masked_fill(~is_token[..., None], torch.finfo(states.dtype).min).amax(1)


class AttentionPooling(Pooling):
    """A mean over positions weighted by a learned score of each.

    Source: Z. Yang et al. (2016), "Hierarchical Attention Networks for Document Classification".
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, width)
        self.score = nn.Linear(width, 1, bias=False)

    def forward(self, states: Tensor, is_token: Tensor) -> Tensor:
        """Average the states of tokens by learned weights, [N, T, D] to [N, D]."""
        scores = at_least_float32(self.score(torch.tanh(self.hidden(states))).squeeze(-1))  # [N, T]
        weights = scores.masked_fill(~is_token, -torch.inf).softmax(-1)
        return torch.einsum("nt,ntd->nd", weights.to(states.dtype), states)


def build_pooling(name: PoolingName, width: int) -> Pooling:
    """Build the pooling of that name for states of a width."""
    if name == "attention":
        return AttentionPooling(width)
    types: dict[str, type[Pooling]] = {"mean": MeanPooling, "first": FirstPooling, "max": MaxPooling}
    return types[name]()
