"""What turns token numbers into vectors, whichever network does it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn


class Encoder(nn.Module, ABC):
    """A network that gives each position a vector."""

    width: int
    """Size D of the vectors."""
    config: "EncoderConfig"
    """Settings that build this network again; a checkpoint then brings the weights."""

    @abstractmethod
    def forward(self, input_ids: Tensor, is_token: Tensor) -> Tensor:
        """Encode.

        Args:
            input_ids: token numbers, [B, T]; padding is 0 unless a tokenizer says otherwise.
            is_token: False at padding, [B, T].

        Returns: [B, T, D]; rows of padding hold nothing of use.
        """


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(ABC):
    """Which encoder, and its size."""

    @abstractmethod
    def build(self, num_tokens: int) -> Encoder:
        """Make the network for token numbers below `num_tokens`."""
