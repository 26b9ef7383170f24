"""The convolutional encoder: its filters, its padding, and the TextCNN that it is with max pooling."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightrail.lightning_modules.networks.encoders.convolutional import TextCnnConfig, TextCnnEncoder
from lightrail.lightning_modules.networks.encoders.pooling import build_pooling
from lightrail.project.basics.errors import ConfigError

ROWS = [[3, 4, 5, 6, 7, 8, 9], [10, 11], [12]]


def encoder(**settings: Any) -> TextCnnEncoder:
    torch.manual_seed(7)
    sizes: dict[str, Any] = {"width": 6, "filter_widths": [1, 2, 3, 4], "num_filters": 5}
    network = TextCnnConfig(**{**sizes, **settings}).build(list(map(str, range(18)))).eval()
    nn.init.normal_(network.embedding.tokens.weight)  # larger than at the start of training, so that errors show
    return network


def batch(rows: list[list[int]], padding: int = 0) -> tuple[Tensor, Tensor]:
    longest = max(map(len, rows)) + padding
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    return ids, torch.tensor([[True] * len(row) + [False] * (longest - len(row)) for row in rows])


def by_hand(network: TextCnnEncoder, row: list[int]) -> Tensor:
    """Each position's answers, one dot product at a time; tokens beyond the text are zeros."""
    embedded = network.embedding.tokens.weight[row]  # [T, E]
    states = []
    for place in range(len(row)):
        answers = []
        for filters in network.filters:
            assert isinstance(filters, nn.Conv1d)
            answer = torch.zeros(filters.out_channels) if filters.bias is None else filters.bias.clone()
            for tap in range(filters.kernel_size[0]):
                read = place + tap - (filters.kernel_size[0] - 1) // 2
                if 0 <= read < len(row):
                    answer = answer + filters.weight[:, :, tap] @ embedded[read]
            answers.append(answer.clamp(min=0))
        states.append(torch.cat(answers))
    return torch.stack(states)  # [T, D]


@pytest.mark.parametrize("padding", [0, 1, 9])
def test_states_are_those_computed_by_hand_whatever_stands_beside_a_text(padding: int) -> None:
    network = encoder()
    states = network(*batch(ROWS, padding))
    assert states.shape == (3, 7 + padding, 20)
    assert network.width == 20
    for own, row in zip(states, ROWS, strict=True):
        torch.testing.assert_close(own[: len(row)], by_hand(network, row), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"ngram_orders": [2], "ngram_buckets": 64}])
@pytest.mark.parametrize("row", ROWS)
def test_with_max_pooling_a_text_has_one_vector_however_it_is_padded(settings: dict[str, Any], row: list[int]) -> None:
    network, pooling = encoder(**settings), build_pooling("max", 20)
    alone = pooling(network(*batch([row])), batch([row])[1])[0]
    beside = batch([row, *ROWS], padding=3)
    torch.testing.assert_close(pooling(network(*beside), beside[1])[0], alone, rtol=1e-4, atol=1e-5)


def test_max_pooling_gives_each_filter_its_best_place_in_the_text() -> None:
    network, tokens = encoder(), batch(ROWS, padding=2)
    pooled = build_pooling("max", 20)(network(*tokens), tokens[1])
    expected = torch.stack([by_hand(network, row).amax(0) for row in ROWS])
    torch.testing.assert_close(pooled, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("filter_width", [1, 2, 3, 4])
def test_a_position_knows_as_many_tokens_as_its_filter_is_wide(filter_width: int) -> None:
    network = encoder(filter_widths=[filter_width], num_filters=200)
    row = list(range(2, 14))
    before = network(*batch([row]))[0]
    for place in range(12):
        changed = [*row]
        changed[place] = 17
        differs = (network(*batch([changed]))[0] != before).any(-1).nonzero().flatten().tolist()
        expected = range(place - filter_width // 2, place + (filter_width - 1) // 2 + 1)
        assert differs == [reader for reader in expected if 0 <= reader < 12]


def test_no_gradient_flows_from_padding() -> None:
    network = encoder()
    ids, is_token = batch([[3, 4, 5, 3, 4, 5], [6]])
    network(ids, is_token)[is_token].sum().backward()
    gradient = network.embedding.tokens.weight.grad
    assert gradient is not None
    assert gradient.any(-1).nonzero().flatten().tolist() == [3, 4, 5, 6]


@pytest.mark.parametrize(
    "settings",
    [{"filter_widths": []}, {"filter_widths": [3, 0]}, {"num_filters": 0}],
)
def test_impossible_filters_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^TextCnnConfig\.(filter_widths|num_filters): expected .* found "):
        encoder(**settings)
