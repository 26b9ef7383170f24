"""The bidirectional LSTM, against PyTorch's own with packed sequences."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from lightrail.lightning_modules.networks.encoders.lstm_layer import LstmLayer, reverse_each
from lightrail.lightning_modules.networks.encoders.recurrent import LstmConfig, LstmEncoder
from lightrail.project.basics.errors import ConfigError

ROWS = [[5, 6], [3, 4, 5, 6, 7, 8], [9], [10, 11, 12]]


def encoder(**settings: Any) -> LstmEncoder:
    torch.manual_seed(9)
    network = LstmConfig(**{"width": 8, **settings}).build(list(map(str, range(18)))).eval()
    nn.init.normal_(network.embedding.tokens.weight)
    return network


def batch(rows: list[list[int]], padding: int = 0) -> tuple[Tensor, Tensor]:
    longest = max(map(len, rows)) + padding
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    return ids, torch.tensor([[True] * len(row) + [False] * (longest - len(row)) for row in rows])


def torch_lstm(network: LstmEncoder) -> nn.LSTM:
    """PyTorch's bidirectional LSTM with the encoder's weights."""
    depth = len(network.layers)
    reference = nn.LSTM(network.width, network.width // 2, depth, batch_first=True, bidirectional=True).eval()
    weights = {}
    for number, layer in enumerate(network.layers):
        assert isinstance(layer, LstmLayer)
        for direction, ending in ((layer.rightward, ""), (layer.leftward, "_reverse")):
            for name, value in direction.state_dict().items():
                weights[f"{name.removesuffix('_l0')}_l{number}{ending}"] = value
    reference.load_state_dict(weights)
    return reference


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("padding", [0, 4])
def test_states_are_those_of_pytorchs_lstm_on_packed_sequences(depth: int, padding: int) -> None:
    network = encoder(depth=depth)
    ids, is_token = batch(ROWS, padding)
    packed = pack_padded_sequence(network.embedding(ids), is_token.sum(1), batch_first=True, enforce_sorted=False)
    expected, _ = pad_packed_sequence(torch_lstm(network)(packed)[0], batch_first=True)
    found = network(ids, is_token)[:, : expected.shape[1]]
    kept = is_token[:, : expected.shape[1]]
    torch.testing.assert_close(found[kept], expected[kept], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("settings", [{"depth": 2}, {"ngram_orders": [2, 3], "ngram_buckets": 64}])
@pytest.mark.parametrize("padding", [0, 1, 7])
def test_padding_and_neighbours_in_the_batch_change_no_state(settings: dict[str, Any], padding: int) -> None:
    network = encoder(**settings)
    together = network(*batch(ROWS, padding))
    for states, row in zip(together, ROWS, strict=True):
        torch.testing.assert_close(states[: len(row)], network(*batch([row]))[0], rtol=1e-4, atol=1e-5)


def test_half_of_a_state_knows_what_stands_before_and_half_what_stands_after() -> None:
    network = encoder()
    before, after = network(*batch([[3, 4, 5, 6, 7]]))[0], network(*batch([[3, 4, 9, 6, 7]]))[0]
    differs = (before - after).abs() > 1e-7
    assert differs[:, :4].any(-1).tolist() == [False, False, True, True, True]
    assert differs[:, 4:].any(-1).tolist() == [True, True, True, False, False]


def test_no_gradient_flows_from_padding() -> None:
    network = encoder(depth=2)
    ids, is_token = batch([[3, 4, 5], [6]])
    network(ids, is_token)[is_token].square().sum().backward()
    gradient = network.embedding.tokens.weight.grad
    assert gradient is not None
    assert gradient.any(-1).nonzero().flatten().tolist() == [3, 4, 5, 6]


def test_each_example_is_turned_round_within_its_length() -> None:
    values = torch.tensor([[1, 2, 3, 4], [1, 2, 7, 8], [1, 2, 3, 9]])
    lengths = torch.tensor([4, 2, 3])
    turned = [[4, 3, 2, 1], [2, 1, 7, 8], [3, 2, 1, 9]]
    assert reverse_each(values, lengths).tolist() == turned
    deep = torch.stack([values, values * 10], dim=-1)
    assert reverse_each(deep, lengths)[..., 1].tolist() == [[10 * value for value in row] for row in turned]
    torch.testing.assert_close(reverse_each(reverse_each(deep, lengths), lengths), deep)


def test_dropout_acts_in_training_only() -> None:
    network, tokens = encoder(dropout=0.5), batch(ROWS)
    assert torch.equal(network(*tokens), network(*tokens))
    network.train()
    assert not torch.equal(network(*tokens), network(*tokens))


@pytest.mark.parametrize("settings", [{"width": 7}, {"depth": 0}])
def test_impossible_sizes_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"LstmConfig\.(width: .* a multiple of 2, found 7|depth: .* found 0)"):
        encoder(**settings)
