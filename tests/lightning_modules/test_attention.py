"""Attention and rotary positions, against PyTorch's own kernel and plain formulas."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightrail.lightning_modules.networks.attention import (
    KeyValueCache,
    attend,
    rotary_angles,
    rotary_tables,
    rotate,
    turn,
)


@pytest.mark.parametrize("positions", [torch.arange(5), torch.tensor([[0, 1, 2, 0, 1], [0, 0, 1, 2, 3]])])
def test_turning_heads_behind_positions_is_the_rotation(positions: Tensor) -> None:
    heads = torch.randn(2, 5, 3, 8)
    cosine, sine = rotary_angles(positions, 8)  # [..., T, E / 2]
    if positions.ndim == 2:
        cosine, sine = cosine[:, None], sine[:, None]  # over the heads
    expected = rotate(heads.transpose(1, 2), (cosine, sine)).transpose(1, 2)
    torch.testing.assert_close(turn(heads, *rotary_tables(rotary_angles(positions, 8))), expected)


def test_a_rotation_takes_gradients_back() -> None:
    heads = torch.randn(2, 5, 3, 8, dtype=torch.double, requires_grad=True)
    tables = rotary_tables(rotary_angles(torch.arange(5), 8, theta=100.0))
    assert torch.autograd.gradcheck(lambda own: turn(own, *tables), heads)


def test_only_the_distance_of_two_positions_counts() -> None:
    query, key = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)

    def score(of_query: int, of_key: int) -> float:
        both = zip((query, key), (of_query, of_key), strict=True)
        turned = [turn(heads, *rotary_tables(rotary_angles(torch.tensor([at]), 8))) for heads, at in both]
        return float((turned[0] * turned[1]).sum())

    assert score(3, 1) == pytest.approx(score(12, 10), abs=1e-5)
    assert score(3, 1) != pytest.approx(score(3, 2), abs=1e-3)


MASKS = {"all": None, "causal": None, "behind a cache": (4, 9), "documents": (2, 1, 9, 9)}


@pytest.mark.parametrize("num_key_value_heads", [1, 2, 4])
@pytest.mark.parametrize("name", MASKS)
def test_attention_is_that_of_pytorch_whichever_way_it_is_computed(name: str, num_key_value_heads: int) -> None:
    generator = torch.Generator().manual_seed(0)
    shape = MASKS[name]
    mask = None if shape is None else torch.rand(shape, generator=generator) < 0.5
    if mask is not None:
        mask[..., 0] = True
    length = 4 if name == "behind a cache" else 9
    query = torch.randn(2, 4, length, 16, generator=generator)
    key, value = (torch.randn(2, num_key_value_heads, 9, 16, generator=generator) for _ in range(2))
    repeated = (part.repeat_interleave(4 // num_key_value_heads, dim=1) for part in (key, value))
    scores = query @ next(repeated).transpose(2, 3) / 4
    hidden = ~torch.ones(length, 9, dtype=torch.bool).tril() if name == "causal" else torch.tensor(False)
    expected = scores.masked_fill(hidden if mask is None else ~mask, -torch.inf).softmax(-1) @ next(repeated)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 0.05)):
        own = attend(*(part.to(dtype) for part in (query, key, value)), mask=mask, is_causal=name == "causal")
        assert own.dtype == dtype
        torch.testing.assert_close(own.float(), expected, rtol=0, atol=tolerance)


def test_short_rows_go_step_by_step_on_a_cpu_in_bfloat16_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, calls = F.scaled_dot_product_attention, []

    def counted(*arguments: Tensor, **settings: object) -> Tensor:
        calls.append(arguments[0].shape[2])
        return kernel(*arguments, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(F, "scaled_dot_product_attention", counted)
    for length, dtype in ((256, torch.bfloat16), (257, torch.bfloat16), (5, torch.float32)):
        heads = torch.zeros(1, 1, length, 8, dtype=dtype)
        attend(heads, heads, heads, mask=None, is_causal=True)
    assert calls == [257, 5]


def test_a_cache_grows_by_what_it_is_given() -> None:
    cache, parts = KeyValueCache(2), torch.arange(10.0).view(1, 1, 5, 2)
    assert cache.length == 0
    for part in torch.split(parts, [3, 2], dim=2):
        key, value = cache.blocks[0].extend(part, -part)
    assert cache.length == 5
    assert torch.equal(key, parts)
    assert torch.equal(value, -parts)
    assert cache.blocks[1].key is None
