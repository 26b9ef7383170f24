"""Our decoders: nothing sees what follows or another document, a cache changes nothing, and neither does the export."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from lightrail.lightning_modules.arguments import from_plain, to_plain
from lightrail.lightning_modules.networks.decoders.decoder import Decoder, DecoderConfig
from lightrail.lightning_modules.networks.decoders.plain_decoder import PlainDecoderConfig
from lightrail.lightning_modules.networks.decoders.transformer_decoder import TransformerDecoderConfig
from lightrail.lightning_modules.networks.documents import document_mask, document_positions
from lightrail.project.basics.errors import ConfigError
from tests.support.packing import DOCUMENTS, NUM_TOKENS, assert_close, packed, rows

TINY = TransformerDecoderConfig(width=16, depth=2, num_heads=4, num_key_value_heads=2)
PLAIN = PlainDecoderConfig(width=16, depth=2, num_heads=4, max_length=24)
CONFIGS: dict[str, DecoderConfig] = {
    "grouped": TINY,
    "all heads": replace(TINY, num_key_value_heads=None, hidden_width=24, rope_theta=500.0),
    "untied": replace(TINY, num_key_value_heads=1, is_tied=False, max_length=24),
    "plain": PLAIN,
}


@pytest.fixture(params=CONFIGS)
def decoder(request: pytest.FixtureRequest) -> Decoder:
    return built(CONFIGS[request.param])


def built(config: DecoderConfig) -> Decoder:
    """A decoder whose weights are large enough for every leak to show."""
    torch.manual_seed(0)
    network = config.build(NUM_TOKENS).eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.3)
    return network


@torch.inference_mode()
def test_a_later_token_changes_no_earlier_score(decoder: Decoder) -> None:
    ids = rows()
    before = decoder(ids)
    changed = ids.clone()
    changed[:, 7] = (changed[:, 7] + 1) % NUM_TOKENS
    after = decoder(changed)
    assert_close(after[:, :7], before[:, :7])
    assert ((after - before)[:, 7:].abs().amax(-1) > 1e-3).all()


@torch.inference_mode()
def test_a_packed_document_has_the_scores_it_gets_alone(decoder: Decoder) -> None:
    ids, numbers = packed()
    together = decoder(ids, numbers)
    start = 0
    for document in DOCUMENTS:
        alone = decoder(torch.tensor([document]))[0]
        assert_close(together[0, start : start + len(document)], alone)
        start += len(document)
    assert_close(together[1, :4], together[0, 6:10])
    assert not torch.allclose(decoder(ids)[0, 6:10], together[0, 6:10], atol=1e-3)


@torch.inference_mode()
def test_kept_positions_are_those_of_all(decoder: Decoder) -> None:
    ids, numbers = packed()
    keep = torch.rand(ids.shape, generator=torch.Generator().manual_seed(2)) < 0.5
    assert_close(decoder(ids, numbers, keep=keep), decoder(ids, numbers)[keep])


@pytest.mark.parametrize("chunks", [[1] * 12, [5, 1, 1, 5], [3, 4, 5], [11, 1], [1, 11]])
@torch.inference_mode()
def test_a_cache_changes_no_score(decoder: Decoder, chunks: list[int]) -> None:
    ids, cache = rows(), decoder.start_cache()
    parts = [decoder(part, cache=cache) for part in torch.split(ids, chunks, dim=1)]
    assert_close(torch.cat(parts, dim=1), decoder(ids))


@torch.inference_mode()
def test_kept_positions_behind_a_cache_are_counted_from_the_new_ones(decoder: Decoder) -> None:
    ids, cache = rows(), decoder.start_cache()
    decoder(ids[:, :8], cache=cache)
    keep = torch.tensor([[False, False, True, True]] * 3)
    assert_close(decoder(ids[:, 8:], cache=cache, keep=keep), decoder(ids)[:, 10:].flatten(0, 1))


@torch.inference_mode()
def test_the_export_has_the_same_scores(decoder: Decoder) -> None:
    ids, weights = rows(length=24), {name: value.clone() for name, value in decoder.state_dict().items()}
    exported = decoder.to_transformers()
    torch.testing.assert_close(exported(input_ids=ids).logits, decoder(ids), rtol=1e-4, atol=1e-4)
    for weight in exported.parameters():
        weight.zero_()
    assert all(torch.equal(value, weights[name]) for name, value in decoder.state_dict().items())


def test_an_export_loads_from_its_folder(decoder: Decoder, tmp_path_factory: pytest.TempPathFactory) -> None:
    from transformers import AutoModelForCausalLM

    folder, ids = tmp_path_factory.mktemp("export"), rows()
    decoder.to_transformers().save_pretrained(folder)
    loaded = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.inference_mode():
        torch.testing.assert_close(loaded(input_ids=ids).logits, decoder(ids), rtol=1e-4, atol=1e-4)
    sizes = [sum(weight.numel() for weight in network.parameters()) for network in (loaded, decoder)]
    assert sizes[0] == sizes[1]


def test_every_parameter_gets_a_gradient(decoder: Decoder) -> None:
    decoder.train()(*packed()).square().sum().backward()
    assert [name for name, own in decoder.named_parameters() if own.grad is None or not own.grad.any()] == []


def test_no_gradient_comes_from_another_document() -> None:
    decoder = built(replace(TINY, is_tied=False))
    ids, numbers = packed()
    decoder(ids, numbers)[0, 6:10].square().sum().backward()
    gradient = decoder.get_parameter("embedding.weight").grad
    assert gradient is not None
    assert gradient.any(-1).nonzero().flatten().tolist() == sorted(DOCUMENTS[2])


def test_a_checkpoint_brings_the_weights_of_a_network_that_its_settings_build(decoder: Decoder) -> None:
    restored = from_plain(to_plain(decoder.config)).build(NUM_TOKENS).eval()
    restored.load_state_dict(decoder.state_dict())
    with torch.inference_mode():
        assert torch.equal(restored(rows()), decoder(rows()))


@torch.inference_mode()
def test_mixed_precision_stays_near(decoder: Decoder) -> None:
    ids, numbers = packed()
    exact = decoder(ids, numbers).softmax(-1)
    with torch.autocast("cpu", torch.bfloat16):
        near = decoder(ids, numbers).float().softmax(-1)
    assert (near - exact).abs().max() < 0.05


@pytest.mark.parametrize("config", [TINY, PLAIN])
def test_fresh_weights_know_nothing(config: DecoderConfig) -> None:
    scores = config.build(NUM_TOKENS)(rows())
    assert scores.softmax(-1).log().neg().mean().item() == pytest.approx(
        torch.tensor(NUM_TOKENS).log().item(), abs=0.02
    )


@pytest.mark.parametrize("config", [TINY, PLAIN])
def test_dropout_counts_in_training_alone(config: TransformerDecoderConfig | PlainDecoderConfig) -> None:
    decoder = built(replace(config, dropout=0.5))
    ids = rows()
    assert torch.equal(decoder(ids), decoder(ids))
    decoder.train()
    assert not torch.equal(decoder(ids), decoder(ids))


def test_layers_of_the_textbook_begin_with_weights_of_their_own() -> None:
    first, second = (layer.linear1.weight for layer in PLAIN.build(NUM_TOKENS).layers.layers)
    assert not torch.equal(first, second)


def test_positions_restart_in_each_document_and_none_sees_another() -> None:
    numbers = torch.tensor([[5, 5, 2, 2, 2], [0, 1, 1, 1, 0]])
    assert document_positions(numbers).tolist() == [[0, 1, 0, 1, 2], [0, 0, 1, 2, 0]]
    assert document_mask(numbers)[0, 0].long().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 1, 1, 1],
    ]


@pytest.mark.parametrize("config", [replace(TINY, max_length=6), replace(PLAIN, max_length=6)])
@torch.inference_mode()
def test_more_tokens_than_the_network_numbers_are_refused(config: DecoderConfig) -> None:
    decoder, (ids, numbers) = built(config), packed()
    assert decoder(ids, numbers).shape == (2, 12, NUM_TOKENS)  # no document has more than five
    with pytest.raises(ConfigError, match=r"a text of 12 tokens was given to a network that reads 6 \("):
        decoder(ids)
    with pytest.raises(ConfigError, match="a text of 12 tokens"):
        decoder(ids, torch.zeros_like(numbers))
    cache = decoder.start_cache()
    decoder(ids[:, :6], cache=cache)
    with pytest.raises(ConfigError, match="a text of 7 tokens"):
        decoder(ids[:, 6:7], cache=cache)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (replace(TINY, width=20), r"decoder\.width is 20\. Give a multiple of 2 x num_heads = 8"),
        (replace(TINY, num_key_value_heads=3), r"decoder\.num_key_value_heads is 3\. Give a number that divides"),
        (replace(PLAIN, width=18), r"decoder\.width is 18\. Give a multiple of 4"),
    ],
)
def test_sizes_that_do_not_go_together_are_refused(config: DecoderConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config.build(NUM_TOKENS)


@pytest.mark.parametrize("name", ["num_heads", "depth", "max_length", "width", "dropout"])
def test_settings_out_of_range_are_refused(name: str) -> None:
    wrong: dict[str, Any] = {name: -1}
    for config in (TransformerDecoderConfig, PlainDecoderConfig):
        with pytest.raises(ConfigError, match=rf"^{config.__name__}\.{name}: expected a .*number .*, found -1"):
            config(**wrong)
