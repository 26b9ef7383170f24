"""Which layer a parameter belongs to in each kind of network, and what layer decay and unfreezing make of it."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, T5Config, T5ForConditionalGeneration

from lightrail.lightning_modules.networks.encoders.encoder import Encoder
from lightrail.lightning_modules.networks.encoders.recurrent import LstmConfig
from lightrail.lightning_modules.networks.encoders.transformer import TransformerConfig
from lightrail.lightning_modules.optimization import (
    OptimConfig,
    build_optimizer,
    drop_frozen_gradients,
    freeze,
    layer_numbers,
    parameter_groups,
)
from lightrail.project.basics.errors import ConfigError

SIZES = {"vocab_size": 30, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
ARCHITECTURES: dict[str, tuple[dict[str, Any], str]] = {
    "bert": (SIZES, "encoder.layer"),
    "roberta": (SIZES, "encoder.layer"),
    "electra": (SIZES, "encoder.layer"),
    "deberta-v2": ({**SIZES, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}, "encoder.layer"),
    "modernbert": ({**SIZES, **SPECIAL, "pad_token_id": 0}, "layers"),
    "distilbert": ({"vocab_size": 30, "dim": 8, "n_layers": 2, "n_heads": 2, "hidden_dim": 8}, "transformer.layer"),
}


class Wrapped(nn.Module):
    """A network as a task holds it, with a head."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(8, 2)


def transformer() -> Wrapped:
    config = TransformerConfig(width=8, depth=3, num_heads=2, hidden_factor=1, ngram_orders=[2], ngram_buckets=4)
    return Wrapped(config.build(["a", "b"]))


def numbers_of(module: nn.Module, part: str) -> set[int]:
    numbers = {number for name, number in layer_numbers(module).items() if name.startswith(part)}
    assert numbers, part
    return numbers


def test_a_transformer_from_scratch_has_its_blocks() -> None:
    module = transformer()
    assert [numbers_of(module, f"encoder.blocks.{block}.") for block in range(3)] == [{1}, {2}, {3}]
    assert numbers_of(module, "encoder.embedding.") == {0}
    assert numbers_of(module, "encoder.norm.") == numbers_of(module, "head.") == {4}


def test_an_lstm_has_its_layers() -> None:
    module = Wrapped(LstmConfig(width=8, depth=2).build(["a", "b"]))
    assert numbers_of(module, "encoder.embedding.") == {0}
    assert [numbers_of(module, f"encoder.layers.{layer}.") for layer in range(2)] == [{1}, {2}]
    assert numbers_of(module, "head.") == {3}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_layers_of_pretrained_encoders_are_found(name: str) -> None:
    sizes, layers = ARCHITECTURES[name]
    network = AutoModel.from_config(AutoConfig.for_model(name, **sizes))
    network.pooler = None
    module = Wrapped(nn.ModuleDict({"model": network}))
    assert [numbers_of(module, f"encoder.model.{layers}.{layer}.") for layer in range(2)] == [{1}, {2}]
    assert numbers_of(module, "encoder.model.embeddings.") == {0}
    assert numbers_of(module, "head.") == {3}
    if name == "deberta-v2":
        assert numbers_of(module, "encoder.model.encoder.rel_embeddings.") == {0}


def test_layers_shared_by_all_blocks_are_one() -> None:
    settings = AutoConfig.for_model("albert", **SIZES, embedding_size=4)
    module = Wrapped(AutoModel.from_config(settings, add_pooling_layer=False))
    assert numbers_of(module, "encoder.encoder.albert_layer_groups.") == {1}
    assert numbers_of(module, "encoder.encoder.embedding_hidden_mapping_in.") == {0}


class SideBySide(Encoder):
    """Convolutions of several widths, none above another."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv1d(8, 8, width) for width in (2, 3))

    def forward(self, *inputs: Any, **more: Any) -> torch.Tensor:
        raise NotImplementedError


@pytest.mark.parametrize("settings", [{"layer_decay": 0.5}, {"unfreeze_fraction": 0.1}])
def test_a_network_without_layers_cannot_have_them_told_apart(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"SideBySide has no blocks one above the other"):
        parameter_groups(Wrapped(SideBySide()), OptimConfig(**settings))
    assert len(parameter_groups(Wrapped(SideBySide()), OptimConfig())) == 2


def test_each_layer_learns_at_a_share_of_the_rate_of_the_one_above() -> None:
    module = transformer()
    layers = layer_numbers(module)
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    groups = build_optimizer(module, OptimConfig(lr=1.0, layer_decay=0.5, weight_decay=0.1)).param_groups
    rates = {names[id(parameter)]: group["lr"] for group in groups for parameter in group["params"]}
    assert rates == {name: 0.5 ** (4 - layer) for name, layer in layers.items()}
    assert groups[-1]["lr"] == 1.0, "what is logged is the rate of the head"
    decays = {names[id(parameter)]: group["weight_decay"] for group in groups for parameter in group["params"]}
    plain = build_optimizer(module, OptimConfig(weight_decay=0.1)).param_groups
    assert decays == {names[id(parameter)]: group["weight_decay"] for group in plain for parameter in group["params"]}


def test_updates_are_smaller_the_deeper_a_layer() -> None:
    module = transformer()
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    build_optimizer(module, OptimConfig(optimizer="sgd", lr=1.0, layer_decay=0.5, weight_decay=0)).step()
    layers = layer_numbers(module)
    for name, parameter in module.named_parameters():
        moved = before[name] - 0.5 ** (4 - layers[name])
        torch.testing.assert_close(parameter.detach(), moved, msg=name)


def trained_at(module: nn.Module, step: int, steps_per_layer: float) -> set[int]:
    optimizer = build_optimizer(module, OptimConfig(unfreeze_fraction=0.1))
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    drop_frozen_gradients(optimizer, step, steps_per_layer)
    layers = layer_numbers(module)
    return {layers[name] for name, parameter in module.named_parameters() if parameter.grad is not None}


def test_layers_are_unfrozen_from_the_head_down() -> None:
    trained = [trained_at(transformer(), step, steps_per_layer=2.5) for step in (0, 2, 3, 5, 7, 8, 9, 10, 20)]
    top = [{4}, {4}, {3, 4}, {2, 3, 4}, {2, 3, 4}, {1, 2, 3, 4}, {1, 2, 3, 4}]
    assert trained == [*top, {0, 1, 2, 3, 4}, {0, 1, 2, 3, 4}]


def test_layers_frozen_for_good_are_not_waited_for() -> None:
    module = transformer()
    freeze(module, ["head", r"encoder\.norm", r"encoder\.blocks\.2"])
    groups = parameter_groups(module, OptimConfig(unfreeze_fraction=0.1))
    assert {group["layers_above"] for group in groups} == {0, 1, 2}
    assert groups[-1]["layers_above"] == 0, "something is trained from the first step on"


def test_a_layer_not_yet_unfrozen_keeps_weights_and_moments() -> None:
    module = transformer()
    optimizer = build_optimizer(module, OptimConfig(unfreeze_fraction=0.1, weight_decay=0.5, l1=0.5, lr=0.1))
    block = module.get_submodule("encoder.blocks.0")
    before = {name: parameter.detach().clone() for name, parameter in block.named_parameters()}
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    drop_frozen_gradients(optimizer, step=0, steps_per_layer=1)
    optimizer.step()
    for name, parameter in block.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter not in optimizer.state
    assert module.head.weight in optimizer.state


def test_unfreezing_that_would_not_reach_the_lowest_layer_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"lowest of 5 layers .* reached after 1\.00 of the run\. Give less than 1/4"):
        parameter_groups(transformer(), OptimConfig(unfreeze_fraction=0.25))
    parameter_groups(transformer(), OptimConfig(unfreeze_fraction=0.24))


def stack(depth: int) -> nn.Module:
    part = nn.Module()
    part.embedding = nn.Embedding(5, 4)
    part.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4)) for _ in range(depth))
    part.norm = nn.LayerNorm(4)
    return part


def test_an_encoder_and_a_decoder_are_two_stacks_whose_ends_are_level() -> None:
    module = nn.Module()
    module.shared, module.encoder, module.decoder = nn.Embedding(5, 4), stack(3), stack(2)
    module.head = nn.Linear(4, 5)
    numbers = layer_numbers(module)
    assert [numbers[f"encoder.blocks.{place}.0.weight"] for place in range(3)] == [1, 2, 3]
    assert [numbers[f"decoder.blocks.{place}.0.weight"] for place in range(2)] == [2, 3]
    found = [numbers[f"{name}.weight"] for name in ("shared", "encoder.embedding", "decoder.embedding", "head")]
    assert found == [0, 0, 1, 4]
    assert numbers["encoder.norm.weight"] == numbers["decoder.norm.weight"] == 4


def test_the_stacks_of_a_network_of_transformers_are_found() -> None:
    sizes = {"d_model": 8, "d_ff": 8, "d_kv": 4, "num_heads": 2, "vocab_size": 20}
    module = nn.Module()
    module.network = T5ForConditionalGeneration(T5Config(**sizes, num_layers=2, num_decoder_layers=3))
    numbers = layer_numbers(module)
    first, last = "block.0.layer.0.layer_norm.weight", "block.2.layer.0.layer_norm.weight"
    assert (numbers[f"network.encoder.{first}"], numbers[f"network.decoder.{first}"]) == (2, 1)
    assert (numbers[f"network.decoder.{last}"], numbers["network.shared.weight"]) == (3, 0)
