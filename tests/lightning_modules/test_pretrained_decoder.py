"""Language models of transformers, of all usual kinds: packed without leaks, restored without their files, exported."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from lightrail.lightning_modules.arguments import from_plain, to_plain
from lightrail.lightning_modules.networks.adapters import LoraConfig
from lightrail.lightning_modules.networks.decoders.decoder import Decoder
from lightrail.lightning_modules.networks.decoders.pretrained_decoder import (
    ArchitectureConfig,
    PretrainedDecoder,
    PretrainedDecoderConfig,
)
from lightrail.project.basics.errors import ConfigError
from tests.support.packing import DOCUMENTS, assert_close, packed, rows

NUM_TOKENS = 11
SPECIAL: dict[str, Any] = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2},
    "llama": SIZES,
    "mistral": {**SIZES, "num_key_value_heads": 1, "sliding_window": 3},  # shorter than a document
    "gemma2": {**SIZES, "num_key_value_heads": 1, "head_dim": 8, "sliding_window": 3},  # eager attention, capped scores
    "opt": {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "ffn_dim": 16,
        "word_embed_proj_dim": 16,
    },
    "mpt": {"d_model": 16, "n_layers": 2, "n_heads": 2},  # ALiBi, no positions
}
CANNOT_CHECKPOINT = {"openai-gpt": {"n_embd": 16, "n_layer": 2, "n_head": 2}}
CANNOT_PACK: dict[str, dict[str, Any]] = {
    "bloom": {"hidden_size": 16, "n_layer": 2, "n_head": 2},
    "mamba": {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 2},
}


def written(folder: Path, name: str, num_tokens: int = NUM_TOKENS, **changes: Any) -> str:
    """A folder with a tiny network whose weights are large enough for every leak to show."""
    torch.manual_seed(0)
    settings = {**(ARCHITECTURES | CANNOT_PACK | CANNOT_CHECKPOINT)[name], **SPECIAL, **changes}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, vocab_size=num_tokens, **settings))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.2)
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(params=ARCHITECTURES)
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return written(tmp_path, request.param)


def built(checkpoint: str, **settings: Any) -> PretrainedDecoder:
    return PretrainedDecoderConfig(checkpoint=checkpoint, **settings).build(NUM_TOKENS).eval()


@torch.inference_mode()
def check_packing(decoder: Decoder) -> None:
    ids, numbers = packed()
    together, start = decoder(ids, numbers)[0], 0
    for document in DOCUMENTS:
        alone = decoder(torch.tensor([document]))[0]
        assert_close(together[start : start + len(document)], alone)
        start += len(document)
    assert not torch.allclose(decoder(ids)[0, 6:10], together[6:10], atol=1e-3)


def test_a_packed_document_has_the_scores_it_gets_alone(checkpoint: str) -> None:
    check_packing(built(checkpoint))
    check_packing(PretrainedDecoderConfig(checkpoint=checkpoint, dropout=0).build(NUM_TOKENS).train())


@pytest.mark.parametrize("name", CANNOT_PACK)
def test_a_network_that_would_mix_documents_up_is_refused(tmp_path: Path, name: str) -> None:
    decoder = built(written(tmp_path, name))
    assert decoder(rows()).shape == (3, 12, NUM_TOKENS)
    with pytest.raises(ConfigError, match=rf"decoder: {name} cannot read several documents in one row without mixing"):
        decoder(*packed())


def test_a_network_whose_positions_go_on_through_documents_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = built(written(tmp_path, "gpt2"))
    going_on = "lightrail.lightning_modules.networks.decoders.probing.document_positions"
    monkeypatch.setattr(going_on, lambda ids: torch.arange(ids.shape[1]).expand_as(ids))
    with pytest.raises(ConfigError, match=r"decoder: gpt2 cannot read several documents"):
        decoder(*packed())


def test_the_probe_leaves_the_network_and_random_numbers_as_they_were(tmp_path: Path) -> None:
    decoder = built(written(tmp_path, "gpt2", resid_pdrop=0.5)).train()
    decoder.model.transformer.h[0].eval()
    modes, state = [part.training for part in decoder.modules()], torch.get_rng_state()
    decoder._packed(packed()[1])
    assert [part.training for part in decoder.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)


@torch.inference_mode()
def test_its_scores_are_those_of_transformers(checkpoint: str) -> None:
    reference = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    torch.testing.assert_close(built(checkpoint)(rows()), reference(input_ids=rows()).logits)


@pytest.mark.parametrize("name", [*ARCHITECTURES, *CANNOT_PACK])
@torch.inference_mode()
def test_kept_positions_are_those_of_all(tmp_path: Path, name: str) -> None:
    decoder, ids = built(written(tmp_path, name)), rows()
    keep = torch.rand(ids.shape, generator=torch.Generator().manual_seed(2)) < 0.5
    assert_close(decoder(ids, keep=keep), decoder(ids)[keep])
    assert len(decoder.model.get_output_embeddings()._forward_pre_hooks) == 0


def test_the_output_matrix_sees_kept_positions_alone(tmp_path: Path) -> None:
    decoder, shapes = built(written(tmp_path, "llama")), []
    decoder.model.lm_head.register_forward_hook(lambda _, __, logits: shapes.append(tuple(logits.shape)))
    decoder(rows(), keep=torch.arange(12).expand(3, -1) < 2)
    assert shapes == [(6, NUM_TOKENS)]


@pytest.mark.parametrize("chunks", [[1] * 12, [5, 1, 6], [11, 1]])
@pytest.mark.parametrize("name", [*ARCHITECTURES, *CANNOT_PACK])
@torch.inference_mode()
def test_a_cache_changes_no_score(tmp_path: Path, name: str, chunks: list[int]) -> None:
    decoder, ids = built(written(tmp_path, name)), rows()
    cache = decoder.start_cache()
    parts = [decoder(part, cache=cache) for part in torch.split(ids, chunks, dim=1)]
    assert_close(torch.cat(parts, dim=1), decoder(ids))


def test_a_network_is_restored_without_its_files(checkpoint: str) -> None:
    decoder = built(checkpoint)
    assert isinstance(decoder.config, PretrainedDecoderConfig)
    restored = from_plain(to_plain(replace(decoder.config, checkpoint="gone"))).build(NUM_TOKENS).eval()
    restored.load_state_dict(decoder.state_dict())
    assert torch.equal(restored(rows()), decoder(rows()))


def test_every_parameter_gets_a_gradient(checkpoint: str) -> None:
    decoder = built(checkpoint).train()
    decoder(*packed()).square().sum().backward()
    assert [name for name, own in decoder.named_parameters() if own.grad is None] == []


def checkpoints(network: torch.nn.Module) -> bool:
    return any(getattr(part, "gradient_checkpointing", False) for part in network.modules())


def gradients(decoder: PretrainedDecoder) -> list[Tensor]:
    decoder(*packed()).square().sum().backward()
    return [own.grad for own in decoder.parameters() if own.grad is not None]


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=2)])
def test_gradient_checkpointing_changes_no_gradient(tmp_path: Path, lora: LoraConfig | None) -> None:
    folder, calls = written(tmp_path, "llama"), []
    torch.manual_seed(1)
    expected = gradients(built(folder, lora=lora).train())
    torch.manual_seed(1)
    decoder = built(folder, lora=lora, gradient_checkpointing=True).train()
    decoder(*packed())
    decoder.model.model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    torch.testing.assert_close(gradients(decoder), expected)
    assert len(calls) == 2  # and again in the backward pass


def adapted(folder: str, **settings: Any) -> PretrainedDecoder:
    """With adapters that change something, as after training."""
    decoder = built(folder, lora=LoraConfig(rank=2, alpha=6, **settings))
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in decoder.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight), alpha=0.2)
    return decoder


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_an_export_has_its_adapters_merged(tmp_path: Path, name: str, dora: bool) -> None:
    pytest.importorskip("peft", reason="needs lightrail[lora]")
    folder, ids = written(tmp_path / "checkpoint", name), rows()
    decoder = adapted(folder, dora=dora)
    before = {key: value.clone() for key, value in decoder.state_dict().items()}
    with torch.inference_mode():
        expected = decoder(ids)
        assert not torch.allclose(expected, built(folder)(ids), atol=0.1)
        decoder.to_transformers().save_pretrained(tmp_path / "export")
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "export").eval()
        assert_close(loaded(input_ids=ids).logits, expected)
        assert torch.equal(decoder(ids), expected)
    assert all(torch.equal(value, before[key]) for key, value in decoder.state_dict().items())
    assert {key for key, own in decoder.named_parameters() if own.requires_grad} == {
        key for key in before if "lora" in key
    }
    assert [key for key in loaded.state_dict() if "lora" in key] == []


def test_adapters_begin_by_changing_nothing_and_leave_the_output_alone(checkpoint: str) -> None:
    pytest.importorskip("peft", reason="needs lightrail[lora]")
    decoder = built(checkpoint, lora=LoraConfig(rank=1))
    torch.testing.assert_close(decoder(rows()), built(checkpoint)(rows()))
    trained = {name for name, own in decoder.named_parameters() if own.requires_grad}
    assert trained == {name for name, _ in decoder.named_parameters() if "lora_" in name}
    assert not any("lm_head" in name for name in trained)


def test_dora_trains_the_length_of_each_output(tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="needs lightrail[lora]")
    decoder = built(written(tmp_path, "llama"), lora=LoraConfig(rank=2, dora=True, target_modules=["q_proj"]))
    trained = [own for name, own in decoder.named_parameters() if "magnitude" in name and own.requires_grad]
    assert [own.numel() for own in trained] == [16, 16]


def test_an_export_of_all_weights_is_the_network(tmp_path: Path) -> None:
    decoder = built(written(tmp_path, "mistral"), gradient_checkpointing=True)
    exported = decoder.to_transformers()
    with torch.inference_mode():
        assert torch.equal(exported(input_ids=rows()).logits, decoder(rows()))
    assert [checkpoints(network) for network in (decoder, exported)] == [True, False]


def test_rows_beyond_the_tokenizer_are_scored_as_transformers_does(tmp_path: Path) -> None:
    folder = written(tmp_path, "llama", num_tokens=16)
    assert built(folder)(rows()).shape == (3, 12, 16)
    message = r"the data's tokenizer has 17 tokens, but '.*' has vectors for 16\. Name the checkpoint's own"
    with pytest.raises(ConfigError, match=message):
        PretrainedDecoderConfig(checkpoint=folder).build(17)


@pytest.mark.parametrize(
    ("model_type", "settings", "limit"),
    [
        ("gpt2", {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 12}, 12),
        ("gpt2", {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 7}, 7),
        ("roberta", {**SIZES, "is_decoder": True, "max_position_embeddings": 12, "pad_token_id": 1}, 10),
        ("mpt", {"d_model": 16, "n_layers": 1, "n_heads": 2, "max_seq_len": 12}, 12),
        ("bloom", {"hidden_size": 16, "n_layer": 1, "n_head": 2}, None),
    ],
)
def test_a_text_may_have_as_many_tokens_as_the_network_has_positions(
    model_type: str, settings: dict[str, Any], limit: int | None
) -> None:
    decoder = ArchitectureConfig(model_type=model_type, settings=settings).build(NUM_TOKENS)
    assert decoder.max_length == limit
    decoder(torch.full((1, limit or 40), 5))
    if limit is not None:
        with pytest.raises(ConfigError, match=rf"{limit + 1} tokens .* network that reads {limit} "):
            decoder(torch.full((1, limit + 1), 5))


def test_more_tokens_than_the_network_numbers_are_refused(tmp_path: Path) -> None:
    decoder = built(written(tmp_path, "gpt2", n_positions=6))
    assert decoder(*packed()).shape == (2, 12, NUM_TOKENS)
    with pytest.raises(ConfigError, match=r"a text of 12 tokens was given to a network that reads 6"):
        decoder(rows())


def test_a_network_that_sees_what_follows_in_any_order_is_refused(tmp_path: Path) -> None:
    settings = {"d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 16}
    AutoModelForCausalLM.from_config(AutoConfig.for_model("xlnet", vocab_size=30, **settings)).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"\(xlnet\) sees the tokens that it should predict"):
        PretrainedDecoderConfig(checkpoint=str(tmp_path)).build(NUM_TOKENS)


def test_a_network_that_sees_what_follows_is_refused(tmp_path: Path) -> None:
    from transformers import BertConfig, BertForMaskedLM

    BertForMaskedLM(BertConfig(vocab_size=NUM_TOKENS, **SIZES)).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"decoder\.checkpoint: .* \(bert\) sees the tokens that it should predict"):
        built(str(tmp_path))
    with pytest.raises(ConfigError, match=r"decoder\.model_type: bert .* Set is_decoder: true"):
        ArchitectureConfig(model_type="bert", settings=SIZES).build(NUM_TOKENS)
    assert (
        ArchitectureConfig(model_type="bert", settings={**SIZES, "is_decoder": True}).build(NUM_TOKENS).num_tokens == 11
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dropout": 1.0}, r"PretrainedDecoderConfig\.dropout: expected a number .* below 1 or null, found 1\.0"),
        ({"lora": LoraConfig(target_modules=["query"])}, r"decoder\.lora\.target_modules: no linear layer is called"),
        (
            {"gradient_checkpointing": True, "name": "openai-gpt"},
            r"decoder\.gradient_checkpointing: openai-gpt has none\. Leave it out",
        ),
        ({"gguf_file": "model.gguf"}, r"decoder\.checkpoint: .* cannot be loaded: .*(?i:gguf)"),
    ],
)
def test_settings_out_of_range_are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    checkpoint = written(tmp_path, settings.pop("name", "llama"))
    with pytest.raises(ConfigError, match=message):
        built(checkpoint, **settings)


def test_a_head_may_be_new_and_further_layers_unused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = AutoConfig.for_model("llama", vocab_size=NUM_TOKENS, **SIZES, **SPECIAL)
    AutoModel.from_config(config).save_pretrained(tmp_path)
    built(str(tmp_path))
    assert "begins with 1 untrained weights, which its file lacks, such as lm_head.weight" in caplog.text
    config.num_hidden_layers = 1
    config.save_pretrained(tmp_path)
    built(str(tmp_path))
    assert "layers of the file that config.json leaves out are not used, such as layers.1." in caplog.text


def test_layers_that_take_no_adapter_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"decoder\.lora cannot be added: .*mamba.* decoder\.lora\.target_modules"):
        built(written(tmp_path, "mamba"), lora=LoraConfig())


def test_a_folder_without_a_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"decoder\.checkpoint: .* cannot be loaded: "):
        built(str(tmp_path))


def test_the_dropout_is_set_whatever_the_architecture_calls_it(tmp_path: Path) -> None:
    decoder = built(written(tmp_path, "gpt2"), dropout=0.5).train()
    assert {part.p for part in decoder.modules() if isinstance(part, torch.nn.Dropout)} == {0.5}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_any_architecture_is_built_from_its_name(name: str) -> None:
    decoder = ArchitectureConfig(model_type=name, settings=ARCHITECTURES[name]).build(NUM_TOKENS)
    assert decoder.model.config.model_type == name
    assert decoder.model.get_input_embeddings().weight.shape == (NUM_TOKENS, 16)
    decoder(*packed())[..., 1:].square().sum().backward()
    gradient = decoder.model.get_input_embeddings().weight.grad
    assert gradient[[0, 3, 4, 5, 6, 7, 8, 9, 10]].any(-1).all()  # none of the tokens is taken for padding
    restored = from_plain(to_plain(decoder.config)).build(NUM_TOKENS).eval()
    restored.load_state_dict(decoder.state_dict())
    assert torch.equal(restored(rows()), decoder.eval()(rows()))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ArchitectureConfig(model_type="lama"), r"no causal language model called 'lama'\. Did you mean .*llama"),
        (
            ArchitectureConfig(model_type="llama", settings={"num_hidden_layer": 2}),
            r"decoder\.settings: llama has no setting 'num_hidden_layer'\. Did you mean num_hidden_layers",
        ),
        (
            ArchitectureConfig(model_type="gpt2", settings={"vocab_size": 5}),
            r"vocab_size comes from the data's tokenizer",
        ),
        (
            ArchitectureConfig(model_type="llama", settings={**SIZES, "num_attention_heads": 3}),
            r"decoder\.settings: llama cannot be built with .*hidden size \(16\) is not a multiple",
        ),
        (
            ArchitectureConfig(model_type="llama", settings={**SIZES, "hidden_size": "wide"}),
            r"decoder\.settings: llama cannot be built with .*expected int, got str",
        ),
    ],
)
def test_what_no_architecture_has_is_refused(config: ArchitectureConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config.build(NUM_TOKENS)
