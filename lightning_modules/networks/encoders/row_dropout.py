"""Dropout whose masks belong to examples rather than to the batch that they are in.

Shapes: N rows of a batch.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_STRIDES = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1)
"""Odd numbers that spread the indices of each dimension over 32 bits, the primes of xxHash."""


class RowDropout(TorchFunctionMode):
    """Within it, a dropout mask is a function of the row's key, the place in the row and the number of the call.

    So a row is dropped out equally in any batch, in any part of it, on any process and with any padding, and a second
    pass has the masks of the first. It replaces `dropout`, the dropout of scaled dot product attention and
    `torch.rand` where the first dimension is that of the rows; other random numbers, such as those inside of an LSTM,
    stay those of torch's generator.

    Args:
        keys: one number for each row, [N]; equal keys give equal masks.

    Source of the mixing function: C. Wellons (2018), "Prospecting for Hash Functions", lowbias32.
    """

    def __init__(self, keys: Tensor) -> None:
        super().__init__()
        self.keys = (keys ^ (keys >> 32)).to(torch.int32)
        self.num_calls = 0
        self._replaced: Mapping[Any, Callable[..., Tensor]] = {
            F.dropout: self._dropout,
            torch.dropout: self._dropout,
            F.scaled_dot_product_attention: self._attention,
            torch.rand: self._rand,
        }

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return self._replaced.get(func, func)(*args, **(kwargs or {}))

    def _dropout(self, values: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or p == 0 or len(values) != len(self.keys):
            return F.dropout(values, p, training)
        return self._dropped(values, p)

    def _dropped(self, values: Tensor, share: float) -> Tensor:
        is_kept = self._bits(values.shape) >= int(share * 2**32) - 2**31
        return values * (is_kept.to(values.dtype) / (1 - share) if share < 1 else is_kept.to(values.dtype))

    def _attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        **more: Any,
    ) -> Tensor:
        settings = {"attn_mask": attn_mask, "is_causal": is_causal, **more}
        if dropout_p == 0 or len(query) != len(self.keys) or is_causal or more.get("enable_gqa"):
            return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout_p, **settings)
        scale = more.get("scale") or 1 / math.sqrt(query.shape[-1])
        scores = query @ key.transpose(-2, -1) * scale
        if attn_mask is not None:
            scores = scores.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
        return self._dropped(scores.softmax(-1), dropout_p) @ value

    def _rand(self, *size: Any, **settings: Any) -> Tensor:
        shape = tuple(size[0]) if len(size) == 1 and isinstance(size[0], Sequence) else size
        if not shape or shape[0] != len(self.keys) or settings.keys() - {"device"}:
            return torch.rand(*size, **settings)
        return ((self._bits(shape) >> 8) & 0xFFFFFF) / 2.0**24

    def _bits(self, shape: Sequence[int]) -> Tensor:
        """Return 32 random bits for each place of a shape, as int32."""
        self.num_calls += 1
        dimensions = len(shape) - 1
        bits = self.keys.view(-1, *[1] * dimensions) + _signed(self.num_calls * _STRIDES[-1])
        for dimension, size in enumerate(shape[1:]):
            places = torch.arange(size, dtype=torch.int32, device=self.keys.device) * _signed(_STRIDES[dimension])
            bits = bits + places.view(-1, *[1] * (dimensions - dimension - 1))
        bits = bits.clone()
        bits ^= (bits >> 16) & 0xFFFF
        bits *= _signed(0x7FEB352D)
        bits ^= (bits >> 15) & 0x1FFFF
        bits *= _signed(0x846CA68B)
        bits ^= (bits >> 16) & 0xFFFF
        return bits


def _signed(number: int) -> int:
    """Return the 32 lowest bits of a number as those of a signed one."""
    return (number & 0xFFFFFFFF) - (number & 0x80000000) * 2
