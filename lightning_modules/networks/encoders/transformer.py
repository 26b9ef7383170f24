"""A Transformer encoder from scratch: pre-norm blocks, rotary positions, hashed n-grams at the input.

Shapes: B examples, T positions, D width, H heads, E = D / H.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightrail.lightning_modules.networks.attention import rotary_angles, rotate
from lightrail.lightning_modules.networks.encoders.embedding import FromScratchConfig, TokenEmbedding
from lightrail.lightning_modules.networks.encoders.encoder import Encoder, Spelling
from lightrail.project.basics.annotations import PositiveInt
from lightrail.project.basics.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(FromScratchConfig):
    """A Transformer encoder trained from scratch."""

    width: PositiveInt = 192
    """Size of a position's vector; a multiple of 2 x `num_heads`."""
    depth: PositiveInt = 2
    """Number of blocks, at least 1."""
    num_heads: PositiveInt = 4
    """Attention heads."""
    hidden_factor: PositiveInt = 4
    """Width of a block's hidden layer, in widths."""

    def build(self, vocabulary: Sequence[str], alphabet: Sequence[str] | None = None) -> "TransformerEncoder":
        """Build the network. Raises: ConfigError when `width` is no multiple of 2 x `num_heads`."""
        if self.width % (2 * self.num_heads):
            raise ConfigError(
                f"encoder.width is {self.width}. Give a multiple of 2 x num_heads = {2 * self.num_heads}."
            )
        return TransformerEncoder(vocabulary, self, alphabet)


class TransformerEncoder(Encoder):
    """Embeds tokens with their n-grams, and lets all positions attend to each other."""

    def __init__(
        self, vocabulary: Sequence[str], config: TransformerConfig, alphabet: Sequence[str] | None = None
    ) -> None:
        super().__init__()
        self.embedding = TokenEmbedding(vocabulary, config, alphabet)
        self.width, self.config = config.width, config.loaded(self.embedding.vector_size)
        self.head_width = config.width // config.num_heads
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)

    def forward(
        self,
        input_ids: Tensor,
        is_token: Tensor,
        segment_ids: Tensor | None = None,
        spelling: Spelling | None = None,
    ) -> Tensor:
        """Encode tokens, [B, T] to [B, T, D]."""
        states = self.embedding(input_ids, spelling)  # [B, T, D]
        rotation = rotary_angles(torch.arange(input_ids.shape[1], device=states.device), self.head_width)
        mask = attention_mask(is_token)
        for block in self.blocks:
            states = block(states, mask, rotation)
        normed: Tensor = self.norm(states)
        return normed


def attention_mask(is_token: Tensor) -> Tensor | None:
    """Return where attention may look, [B, 1, 1, T]; None for everywhere: faster on a CPU, and cheap to find out."""
    if not torch.compiler.is_exporting() and is_token.device.type == "cpu" and bool(is_token.all()):
        return None
    return is_token[:, None, None, :]


class Block(nn.Module):
    """Self-attention and a hidden layer, each on normed input and added to its input."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width = config.width
        self.num_heads, self.head_width = config.num_heads, width // config.num_heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.hidden_norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, config.hidden_factor * width)
        self.hidden_out = nn.Linear(config.hidden_factor * width, width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, states: Tensor, mask: Tensor | None, rotation: tuple[Tensor, Tensor]) -> Tensor:
        """Add attention and hidden layer to states, [B, T, D] to the same."""
        states = states + self.dropout(self._attend(self.attention_norm(states), mask, rotation))
        hidden = F.gelu(self.hidden(self.hidden_norm(states)), approximate="tanh")  # [B, T, 4D]
        out: Tensor = states + self.dropout(self.hidden_out(hidden))
        return out

    def _attend(self, states: Tensor, mask: Tensor | None, rotation: tuple[Tensor, Tensor]) -> Tensor:
        batch, length, width = states.shape
        heads = self.query_key_value(states).view(batch, length, 3, self.num_heads, self.head_width)
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # each [B, H, T, E]
        query, key = rotate(query, rotation), rotate(key, rotation)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        out: Tensor = self.attention_out(attended.transpose(1, 2).reshape(batch, length, width))
        return out
