"""Parts of networks with attention: rotary positions, attention, and the cache of keys and values.

Shapes: B rows, T positions of queries, S positions of keys, D width, H heads, K key/value heads, E = D / H.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_SHORT_ON_CPU = 256
"""Most positions at which a CPU attends in steps in bfloat16. Forward and backward take a fifth of the time of torch's
fused kernel at 64 positions, a third at 128, two thirds at 256 and as much at 512, where the kernel saves memory."""


def rotary_angles(positions: Tensor, head_width: int, theta: float = 10000.0) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of each position's rotation, [T] to [T, E / 2] or [B, T] to [B, T, E / 2].

    Source: J. Su et al. (2021), "RoFormer: Enhanced Transformer with Rotary Position Embedding".
    """
    frequencies = theta ** (-torch.arange(0, head_width, 2, device=positions.device) / head_width)
    angles = positions[..., None] * frequencies
    return angles.cos(), angles.sin()


def rotate(heads: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate each pair of a head's components by its position's angle, [B, H, T, E] to the same."""
    cosine, sine = (part.to(heads.dtype) for part in rotation)
    first, second = heads.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], dim=-1)


def rotary_tables(rotation: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return cosine and sine, [..., T, E / 2], in the form that `turn` takes: [..., T, 1, E] each."""
    cosine, sine = (part.unsqueeze(-2) for part in rotation)  # over the heads
    return torch.cat([cosine, cosine], dim=-1), torch.cat([-sine, sine], dim=-1)


def turn(heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotate heads whose axis follows the positions, [B, T, H, E], like `rotate`, by the tables of `rotary_tables`."""
    tables = cosine.to(heads.dtype), sine.to(heads.dtype)
    turned: Tensor = _Turn.apply(heads, *tables)  # type: ignore[no-untyped-call]
    return turned


class _Turn(torch.autograd.Function):
    """A rotation in three operations either way, where autograd needs sixteen: gradients take the opposite rotation."""

    @staticmethod
    def forward(ctx: Any, heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        ctx.save_for_backward(cosine, sine)
        return (heads * cosine).addcmul_(heads.roll(heads.shape[-1] // 2, dims=-1), sine)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        cosine, sine = ctx.saved_tensors
        swapped = gradient.roll(gradient.shape[-1] // 2, dims=-1)
        return (gradient * cosine).addcmul_(swapped, sine, value=-1), None, None


def attend(query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor | None, is_causal: bool) -> Tensor:
    """Compute scaled dot-product attention.

    Args:
        query: [B, H, T, E].
        key, value: [B, K, S, E]; H / K neighbouring heads of the query share one.
        mask: true where a key may be seen, broadcast to [B, H, T, S]. None: everywhere.
        is_causal: position t sees the positions 0 to t alone. Takes the place of a mask.

    Returns: [B, H, T, E].
    """
    num_shared = query.shape[1] // key.shape[1]
    if query.dtype == torch.bfloat16 and query.device.type == "cpu" and key.shape[2] <= _SHORT_ON_CPU:
        key, value = (part.repeat_interleave(num_shared, dim=1) if num_shared > 1 else part for part in (key, value))
        return _attend_in_steps(query, key, value, mask, is_causal)
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=is_causal, enable_gqa=num_shared > 1
    )


def _attend_in_steps(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, is_causal: bool) -> Tensor:
    batch, num_heads, length, width = query.shape
    shape = (length, key.shape[2])
    if is_causal:
        mask = torch.ones(shape, dtype=torch.bool).tril_()
    # What may not be seen is added rather than filled in, which costs the backward pass nothing.
    added = torch.zeros((), dtype=query.dtype)
    if mask is not None:
        added = torch.zeros(mask.shape, dtype=query.dtype).masked_fill_(~mask, -math.inf)
    added = added.expand(batch, num_heads, *shape).flatten(0, 1)
    query, key, value = (part.flatten(0, 1) for part in (query, key, value))
    scores = torch.baddbmm(added, query, key.transpose(1, 2), alpha=width**-0.5)  # [B x H, T, S]
    attended = scores.softmax(-1).to(value.dtype) @ value
    return attended.view(batch, num_heads, length, -1)


class KeyValueCache:
    """Keys and values of the positions read so far, one `BlockCache` for each block."""

    def __init__(self, depth: int) -> None:
        self.blocks = [BlockCache() for _ in range(depth)]

    @property
    def length(self) -> int:
        """Number of positions read so far."""
        return 0 if self.blocks[0].key is None else self.blocks[0].key.shape[2]


class BlockCache:
    """Keys and values of the positions that one block has read, [B, K, S, E] each."""

    def __init__(self) -> None:
        self.key: Tensor | None = None
        self.value: Tensor | None = None

    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append the newest positions and return keys and values of all."""
        if self.key is not None and self.value is not None:
            key, value = torch.cat([self.key, key], dim=2), torch.cat([self.value, value], dim=2)
        self.key, self.value = key, value
        return key, value


class SelfAttention(nn.Module):
    """Self-attention with rotary positions and grouped keys and values, without biases.

    Source: J. Ainslie et al. (2023), "GQA: Training Generalized Multi-Query Transformer Models from Multi-Head
    Checkpoints".
    """

    def __init__(self, width: int, num_heads: int, num_key_value_heads: int) -> None:
        super().__init__()
        self.num_heads, self.num_key_value_heads = num_heads, num_key_value_heads
        self.head_width = width // num_heads
        self.query_key_value = nn.Linear(width, (num_heads + 2 * num_key_value_heads) * self.head_width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(
        self,
        states: Tensor,
        tables: tuple[Tensor, Tensor],
        mask: Tensor | None,
        is_causal: bool,
        cache: BlockCache | None = None,
    ) -> Tensor:
        """Attend, [B, T, D] to the same; `tables` are those of `rotary_tables`, other arguments those of `attend`."""
        batch, length, width = states.shape
        heads = self.query_key_value(states).view(batch, length, -1, self.head_width)  # [B, T, H + 2K, E]
        asking, asked = self.num_heads, self.num_key_value_heads
        # Queries and keys are rotated as one tensor: half as many small operations.
        turned, value = torch.split(heads, [asking + asked, asked], dim=2)
        query, key = torch.split(turn(turned, *tables).transpose(1, 2), [asking, asked], dim=1)
        value = value.transpose(1, 2)  # [B, K, T, E]
        if cache is not None:
            key, value = cache.extend(key, value)
        attended = attend(query, key, value, mask=mask, is_causal=is_causal)
        out: Tensor = self.out(attended.transpose(1, 2).reshape(batch, length, width))
        return out
