"""Networks compute what plain, slow formulas do, and padding and edges change nothing."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightrail.lightning_modules.networks.attention import rotary_angles, rotate
from lightrail.lightning_modules.networks.candidates import CandidateOutput
from lightrail.lightning_modules.networks.encoders.embedding import HashedNgrams
from lightrail.lightning_modules.networks.encoders.transformer import TransformerConfig, TransformerEncoder
from lightrail.project.basics.errors import ConfigError

COUNTS = [(), (), (5, 3, 1), (7,), (), (2, 2), (9, 8, 7, 6, 1)]
TOKENS = torch.tensor([6, 2, 3, 2, 6, 5, 6, 3])
TARGETS = torch.tensor([4, 0, 0, 2, 1, 1, 0, 0])


def all_logits(output: CandidateOutput, states: Tensor | None, tokens: Tensor) -> Tensor:
    """Score the candidates of all tokens for each position in float64, and rule out those of other tokens."""
    starts = torch.tensor([0, *map(len, COUNTS)]).cumsum(0)
    scores = output.bias.double().expand(len(tokens), -1)
    if states is not None and output.weight is not None:
        scores = scores + states.double() @ output.weight.double().T  # [N, all]
    places = torch.arange(scores.shape[1])
    is_own = (places >= starts[tokens][:, None]) & (places < starts[tokens + 1][:, None])
    return scores.masked_fill(~is_own, -torch.inf)


def layer(width: int) -> CandidateOutput:
    torch.manual_seed(1)
    output = CandidateOutput(width, COUNTS)
    if output.weight is not None:
        nn.init.normal_(output.weight)
    return output


def inputs(width: int) -> Tensor | None:
    torch.manual_seed(2)
    return torch.randn(len(TOKENS), width, requires_grad=True) if width else None


@pytest.mark.parametrize("width", [0, 1, 6])
def test_scores_of_candidates_are_those_of_a_masked_softmax_over_all(width: int) -> None:
    output, states = layer(width), inputs(width)
    starts = torch.tensor([0, *map(len, COUNTS)]).cumsum(0)
    found = output(states, TOKENS)
    assert found.shape == (len(TOKENS), 5)
    assert found.dtype == torch.float32
    expected = all_logits(output, states, TOKENS).log_softmax(-1)
    for position, token in enumerate(TOKENS.tolist()):
        own = expected[position, starts[token] : starts[token + 1]].float()
        torch.testing.assert_close(found[position].log_softmax(-1)[: len(own)], own)
        assert (found[position, len(own) :] == -torch.inf).all()


@pytest.mark.parametrize("width", [0, 1, 6])
def test_gradients_of_candidates_are_those_of_a_masked_softmax_over_all(width: int) -> None:
    output, states = layer(width), inputs(width)
    trained = [*output.parameters(), *([] if states is None else [states])]
    starts = torch.tensor([0, *map(len, COUNTS)]).cumsum(0)
    found = torch.autograd.grad(F.cross_entropy(output(states, TOKENS), TARGETS), trained)
    reference = F.cross_entropy(all_logits(output, states, TOKENS), starts[TOKENS] + TARGETS)
    for own, expected in zip(found, torch.autograd.grad(reference, trained), strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-5, atol=1e-7)


def test_a_layer_without_states_knows_what_is_frequent() -> None:
    probabilities = layer(0)(None, torch.tensor([2, 5])).softmax(-1)
    torch.testing.assert_close(probabilities, torch.tensor([[5, 3, 1, 0, 0], [4.5, 4.5, 0, 0, 0]]) / 9)


def test_a_batch_without_syllables_has_no_scores_and_no_gradient() -> None:
    output = layer(3)
    scores = output(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))
    assert scores.shape == (0, 5)
    scores.sum().backward()
    assert output.bias.grad is not None
    assert not output.bias.grad.any()


def test_tokens_without_candidates_are_known() -> None:
    assert layer(0).has_candidates(torch.tensor([[0, 1, 2], [3, 4, 6]])).tolist() == [
        [False, False, True],
        [True, False, True],
    ]


def test_scores_stay_in_float32_under_autocast() -> None:
    output, states = layer(6), inputs(6)
    assert states is not None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = output(states.bfloat16(), TOKENS)
    torch.testing.assert_close(scores, output(states.bfloat16().float(), TOKENS))


def ngrams(**settings: Any) -> HashedNgrams:
    torch.manual_seed(3)
    sizes: dict[str, Any] = {"width": 8, "num_heads": 1, "ngram_buckets": 4096, "ngram_width": 4, "ngram_dropout": 0.0}
    return HashedNgrams(TransformerConfig(**{**sizes, **settings}))


@pytest.mark.parametrize("order", [1, 2000])  # each order takes as many tables: 2000 of them took minutes
def test_ngrams_of_one_token_or_of_a_whole_text_are_refused(order: int) -> None:
    with pytest.raises(ConfigError, match=rf"ngram_orders: .* at least 2 and up to 16\), found \[{order}\]"):
        ngrams(ngram_orders=[order])


@pytest.mark.parametrize("orders", [[2], [3], [2, 3]])
def test_a_position_knows_the_ngrams_that_contain_it_and_no_other(orders: list[int]) -> None:
    network = ngrams(ngram_orders=orders)
    tokens = torch.arange(2, 14)[None]
    before = network(tokens)
    for place in range(tokens.shape[1]):
        changed = tokens.clone()
        changed[0, place] = 50
        differs = (network(changed) != before).any(-1)[0].nonzero().flatten().tolist()
        reach = max(orders) - 1
        assert differs == list(range(max(0, place - reach), min(12, place + reach + 1)))


def test_each_ngram_of_a_position_is_added_once() -> None:
    network = ngrams(ngram_orders=[2, 3])
    assert network.projection.in_features == (2 + 3) * 4  # first or last of two; first, middle or last of three
    assert sum(isinstance(part, nn.Embedding) for part in network.modules()) <= 5


def test_the_same_ngram_has_the_same_vector_wherever_it_stands() -> None:
    network = ngrams(ngram_orders=[3])
    vectors = network(torch.tensor([[4, 5, 6, 7, 8, 4, 5, 6, 7, 8]]))
    torch.testing.assert_close(vectors[0, 2], vectors[0, 7])
    assert not torch.allclose(vectors[0, 1], vectors[0, 6])  # what stands two places before differs


def test_the_order_of_tokens_matters() -> None:
    network = ngrams(ngram_orders=[2])
    assert not torch.allclose(network(torch.tensor([[4, 5]])), network(torch.tensor([[5, 4]])))
    assert not torch.allclose(network(torch.tensor([[4, 5]]))[0, 0], network(torch.tensor([[4, 5]]))[0, 1])


@pytest.mark.parametrize("length", [1, 2, 5])
def test_ngrams_end_at_the_edges_as_at_padding(length: int) -> None:
    network = ngrams(ngram_orders=[2, 3])
    tokens = torch.arange(2, 2 + length)[None]
    padded = F.pad(tokens, (0, 4))
    torch.testing.assert_close(network(padded)[:, :length], network(tokens))
    beside_others = torch.cat([padded, torch.full_like(padded, 9)])
    torch.testing.assert_close(network(beside_others)[:1, :length], network(tokens))


def test_few_ngrams_share_a_table_row() -> None:
    network = ngrams(ngram_orders=[2], ngram_width=8, width=16)
    pairs = torch.cartesian_prod(torch.arange(2, 34), torch.arange(2, 34))  # 1,024 pairs in 4,096 rows
    vectors = network(pairs)[:, 0]
    first_tokens = vectors.detach().mul(1e4).round().unique(dim=0)
    assert len(first_tokens) > 0.98 * len(pairs)


def test_dropout_leaves_out_whole_ngrams_and_keeps_the_mean() -> None:
    network = ngrams(ngram_orders=[2], ngram_dropout=0.25, width=8).train()
    with torch.no_grad():
        network.projection.weight.copy_(torch.eye(8))  # two n-grams of width 4, side by side
        tokens = torch.tensor([[4, 5, 6]])
        kept = network.eval()(tokens)
        draws = torch.stack([network.train()(tokens) for _ in range(2000)])
    halves = (draws / (kept / 0.75)).unflatten(-1, (2, 4))
    assert halves.round().unique().tolist() == [0, 1]
    assert torch.equal(halves.round().amax(-1), halves.round().amin(-1))
    torch.testing.assert_close(draws.mean(0), kept, rtol=0.15, atol=0.01)


def rotated(heads: Tensor) -> Tensor:
    return rotate(heads, rotary_angles(torch.arange(heads.shape[-2]), heads.shape[-1]))


def test_rotated_products_depend_on_the_distance_alone() -> None:
    torch.manual_seed(4)
    query, key = (torch.randn(8).expand(1, 1, 40, 8) for _ in range(2))
    products = rotated(query)[0, 0] @ rotated(key)[0, 0].T  # [T, T]
    for distance in range(-20, 21):
        along = products.diagonal(distance)
        torch.testing.assert_close(along, along[:1].expand_as(along), rtol=1e-4, atol=1e-5)
    assert products.std() > 0.1


def test_rotation_is_multiplication_by_a_complex_number() -> None:
    torch.manual_seed(5)
    heads = torch.randn(2, 3, 30, 10)
    first, second = heads.double().chunk(2, dim=-1)
    angles = torch.outer(torch.arange(30), 10000.0 ** (-torch.arange(5, dtype=torch.float64) / 5))
    turned = torch.complex(first, second) * torch.polar(torch.ones_like(angles), angles)
    expected = torch.cat([turned.real, turned.imag], dim=-1)
    torch.testing.assert_close(rotated(heads).double(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(rotated(heads)[:, :, 0], heads[:, :, 0])


def encoder(**settings: Any) -> TransformerEncoder:
    torch.manual_seed(6)
    sizes: dict[str, Any] = {"width": 16, "depth": 2, "num_heads": 2, "ngram_orders": [2], "ngram_buckets": 64}
    return TransformerConfig(**{**sizes, **settings}).build(list(map(str, range(18)))).eval()


def batch(*rows: list[int], padding: int = 0) -> tuple[Tensor, Tensor]:
    longest = max(map(len, rows)) + padding
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    return ids, torch.tensor([[True] * len(row) + [False] * (longest - len(row)) for row in rows])


@pytest.mark.parametrize("padding", [0, 1, 7])
def test_padding_and_neighbours_in_the_batch_change_no_state(padding: int) -> None:
    network, rows = encoder(), [[3, 4, 5, 6, 7], [8, 9], [10]]
    together = network(*batch(*rows, padding=padding))
    for states, row in zip(together, rows, strict=True):
        torch.testing.assert_close(states[: len(row)], network(*batch(row))[0], rtol=1e-4, atol=1e-5)


def test_no_gradient_flows_from_padding() -> None:
    network = encoder(ngram_orders=[])
    ids, is_token = batch([3, 4, 5], [6])
    network(ids, is_token)[is_token].square().sum().backward()
    gradient = network.embedding.tokens.weight.grad
    assert gradient is not None
    assert gradient.any(-1).nonzero().flatten().tolist() == [3, 4, 5, 6]


def test_every_position_attends_to_every_other() -> None:
    network = encoder(ngram_orders=[])
    before, after = network(*batch([3, 4, 5, 6])), network(*batch([3, 4, 5, 7]))
    assert ((before - after).abs().amax(-1) > 1e-5).all()


def test_positions_are_told_apart() -> None:
    states = encoder(ngram_orders=[])(*batch([3, 3, 3, 4]))[0]
    assert not torch.allclose(states[0], states[1], atol=1e-5)


def test_without_rotation_a_block_is_the_layer_of_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightrail.lightning_modules.networks.encoders.transformer.rotate", lambda heads, _: heads)
    network = encoder(ngram_orders=[], depth=1)
    reference = nn.TransformerEncoderLayer(
        16, 2, 64, dropout=0, activation=lambda x: F.gelu(x, approximate="tanh"), batch_first=True, norm_first=True
    ).eval()
    names = {
        "self_attn.in_proj_": "query_key_value.",
        "self_attn.out_proj.": "attention_out.",
        "linear1.": "hidden.",
        "linear2.": "hidden_out.",
        "norm1.": "attention_norm.",
        "norm2.": "hidden_norm.",
    }
    own = network.blocks[0].state_dict()
    kinds = ("weight", "bias")
    reference.load_state_dict({f"{to}{kind}": own[f"{at}{kind}"] for to, at in names.items() for kind in kinds})
    ids, is_token = batch([5, 6, 7, 5], [8, 9])
    expected = network.norm(reference(network.embedding.tokens(ids), src_key_padding_mask=~is_token))
    torch.testing.assert_close(network(ids, is_token)[is_token], expected[is_token])


def test_the_same_text_has_the_same_states_in_evaluation_and_other_ones_in_training() -> None:
    network, tokens = encoder(dropout=0.5), batch([3, 4, 5])
    assert torch.equal(network(*tokens), network(*tokens))
    network.train()
    assert not torch.equal(network(*tokens), network(*tokens))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 20, "num_heads": 4}, r"encoder\.width is 20\. Give a multiple of 2 x num_heads = 8"),
        ({"depth": 0}, r"TransformerConfig\.depth: expected a whole number of at least 1, found 0"),
        (
            {"ngram_orders": [2, 1]},
            r"ngram_orders: expected a list \(each .* at least 2 and up to 16\), found \[2, 1\]",
        ),
    ],
)
def test_impossible_sizes_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TransformerConfig(**settings).build(["a", "b", "c"])
