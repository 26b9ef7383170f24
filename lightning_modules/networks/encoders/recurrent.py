"""A bidirectional LSTM from scratch, with the input that all networks from scratch share.

Shapes: B examples, T positions, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, MultipleOf
from torch import Tensor, nn

from lightrail.lightning_modules.networks.encoders.embedding import FromScratchConfig, TokenEmbedding, reverse_each
from lightrail.lightning_modules.networks.encoders.encoder import Encoder
from lightrail.lightning_modules.networks.number_formats import run_lstm
from lightrail.project.basics.annotations import PositiveInt


@dataclass(frozen=True, kw_only=True)
class LstmConfig(FromScratchConfig):
    """A bidirectional LSTM trained from scratch."""

    width: Annotated[int, Ge(2), MultipleOf(2)] = 256
    """Size of a position's vector, half of it from each direction; an even number."""
    depth: PositiveInt = 1
    """Number of layers, at least 1."""

    def build(self, vocabulary: Sequence[str]) -> "LstmEncoder":
        """Build the network for the tokens of a vocabulary; see `EncoderConfig.build`."""
        return LstmEncoder(vocabulary, self)


class LstmEncoder(Encoder):
    """Embeds tokens and reads them in both directions, layer upon layer."""

    def __init__(self, vocabulary: Sequence[str], config: LstmConfig) -> None:
        super().__init__()
        self.embedding = TokenEmbedding(vocabulary, config)
        self.width, self.config = config.width, config.loaded(self.embedding.vector_size)
        self.layers = nn.ModuleList(LstmLayer(config.width) for _ in range(config.depth))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, input_ids: Tensor, is_token: Tensor, segment_ids: Tensor | None = None) -> Tensor:
        """Encode tokens, [B, T] to [B, T, D]."""
        states: Tensor = self.embedding(input_ids)  # [B, T, D]
        lengths = is_token.sum(1)
        for layer in self.layers:
            states = self.dropout(layer(states, lengths))
        return states


class LstmLayer(nn.Module):
    """A bidirectional LSTM layer, [B, T, D] to [B, T, D].

    The second direction reads each example reversed within its own length: padding comes last for both and reaches no
    state of a token. Padded tensors are several times faster on a CPU than packed sequences, which oneDNN refuses.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.rightward = nn.LSTM(width, width // 2, batch_first=True)
        self.leftward = nn.LSTM(width, width // 2, batch_first=True)

    def forward(self, states: Tensor, lengths: Tensor) -> Tensor:
        """Read states, [B, T, D], in both directions; `lengths`, [B], are without padding."""
        right = run_lstm(self.rightward, states)  # [B, T, D / 2]
        left = run_lstm(self.leftward, reverse_each(states, lengths))
        return torch.cat([right, reverse_each(left, lengths)], dim=-1)
