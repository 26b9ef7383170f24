"""Poolings, each against the same computed for one text without padding."""

import pytest
import torch
from torch import Tensor, nn

from lightrail.lightning_modules.networks.encoders.pooling import AttentionPooling, Pooling, PoolingName, build_pooling

LENGTHS = [5, 1, 3, 5]


def states() -> tuple[Tensor, Tensor]:
    """Texts of several lengths; what stands at padding is large, and would be seen if it counted."""
    torch.manual_seed(8)
    values = torch.randn(len(LENGTHS), 7, 6) - 1
    is_token = torch.arange(7) < torch.tensor(LENGTHS)[:, None]
    return torch.where(is_token[..., None], values, 1000.0), is_token


@torch.no_grad()
def by_hand(network: Pooling, name: PoolingName, own: Tensor) -> Tensor:
    """The vector of one text without padding, [T, D] to [D]."""
    if isinstance(network, AttentionPooling):
        scores = torch.stack([network.score(network.hidden(state).tanh())[0] for state in own])
        return (scores.exp() / scores.exp().sum()) @ own
    if name == "max":
        return torch.tensor([max(column) for column in own.T.tolist()])
    return own[0] if name == "first" else torch.stack(list(own)).sum(0) / len(own)


@pytest.mark.parametrize("name", ["mean", "first", "max", "attention"])
def test_a_text_is_summarised_from_its_own_positions(name: PoolingName) -> None:
    values, is_token = states()
    network = build_pooling(name, 6)
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    pooled = network(values, is_token)
    assert pooled.shape == (len(LENGTHS), 6)
    for found, text, length in zip(pooled, values, LENGTHS, strict=True):
        torch.testing.assert_close(found, by_hand(network, name, text[:length]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mean", "first", "max", "attention"])
def test_padding_gets_no_gradient(name: PoolingName) -> None:
    values, is_token = states()
    values.requires_grad_()
    build_pooling(name, 6)(values, is_token).square().sum().backward()
    gradient = values.grad
    assert gradient is not None
    assert gradient.isfinite().all()
    assert not gradient[~is_token].any()
    assert gradient[is_token].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["mean", "first", "max", "attention"])
def test_half_precision_stays_finite_and_close(name: PoolingName, dtype: torch.dtype) -> None:
    values, is_token = states()
    network = build_pooling(name, 6)
    halved = network.to(dtype)(values.to(dtype), is_token)
    assert halved.dtype == dtype
    torch.testing.assert_close(halved.float(), network.float()(values, is_token), rtol=0.05, atol=0.05)


def test_attention_can_prefer_one_position_whatever_the_number_of_others() -> None:
    network = AttentionPooling(2)
    with torch.no_grad():
        network.hidden.weight.copy_(torch.eye(2))
        network.hidden.bias.zero_()
        network.score.weight.copy_(torch.tensor([[50.0, 0.0]]))
    values = torch.tensor([[-1.0, 3.0]] * 9 + [[1.0, 7.0]])[None]
    pooled = network(values, torch.ones(1, 10, dtype=torch.bool))
    torch.testing.assert_close(pooled, torch.tensor([[1.0, 7.0]]))
