"""A bidirectional LSTM from scratch, with the input that all networks from scratch share.

Shapes: B examples, T positions, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, MultipleOf
from torch import Tensor, nn

from lightrail.lightning_modules.networks.encoders.embedding import FromScratchConfig, TokenEmbedding
from lightrail.lightning_modules.networks.encoders.encoder import Encoder, Spelling
from lightrail.lightning_modules.networks.encoders.lstm_layer import LstmLayer
from lightrail.project.basics.annotations import PositiveInt


@dataclass(frozen=True, kw_only=True)
class LstmConfig(FromScratchConfig):
    """A bidirectional LSTM trained from scratch."""

    width: Annotated[int, Ge(2), MultipleOf(2)] = 256
    """Size of a position's vector, half of it from each direction; an even number."""
    depth: PositiveInt = 1
    """Number of layers, at least 1."""

    def build(self, vocabulary: Sequence[str], alphabet: Sequence[str] | None = None) -> "LstmEncoder":
        """Build the network for the tokens of a vocabulary; see `EncoderConfig.build`."""
        return LstmEncoder(vocabulary, self, alphabet)


class LstmEncoder(Encoder):
    """Embeds tokens and reads them in both directions, layer upon layer."""

    def __init__(self, vocabulary: Sequence[str], config: LstmConfig, alphabet: Sequence[str] | None = None) -> None:
        super().__init__()
        self.embedding = TokenEmbedding(vocabulary, config, alphabet)
        self.width, self.config = config.width, config.loaded(self.embedding.vector_size)
        self.layers = nn.ModuleList(LstmLayer(config.width) for _ in range(config.depth))
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        input_ids: Tensor,
        is_token: Tensor,
        segment_ids: Tensor | None = None,
        spelling: Spelling | None = None,
    ) -> Tensor:
        """Encode tokens, [B, T] to [B, T, D]."""
        states: Tensor = self.embedding(input_ids, spelling)  # [B, T, D]
        lengths = is_token.sum(1)
        for layer in self.layers:
            states = self.dropout(layer(states, lengths))
        return states
