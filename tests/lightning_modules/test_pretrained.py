"""Encoders of the Hugging Face hub, of every usual kind: built, restored without their files, and given a dropout."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel

from lightrail.lightning_modules.arguments import from_plain, to_plain
from lightrail.lightning_modules.networks.encoders.pretrained import PretrainedConfig
from lightrail.project.basics.errors import ConfigError
from tests.support.pretrained import ARCHITECTURES, IDS, IS_TOKEN, encoded, written

TELLS_SEGMENTS_APART = {"bert", "albert", "electra"}
SEGMENTS = torch.tensor([[0, 0, 1, 1, 1], [0, 1, 1, 0, 0]])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_network_is_restored_without_its_files(tmp_path: Path, name: str) -> None:
    encoder = PretrainedConfig(checkpoint=written(tmp_path, name), dropout=0.25).build([]).eval()
    config = from_plain(to_plain(replace(encoder.config, checkpoint="gone")))
    restored = config.build([]).eval()
    restored.load_state_dict(encoder.state_dict())
    assert encoder.width == restored.width == 8
    assert torch.equal(encoded(restored), encoded(encoder))
    assert dropouts(restored) == {0.25}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_its_states_are_those_of_transformers(tmp_path: Path, name: str) -> None:
    encoder = PretrainedConfig(checkpoint=written(tmp_path, name)).build([]).eval()
    reference = AutoModel.from_pretrained(tmp_path).eval()
    with torch.inference_mode():
        states = reference(input_ids=IDS, attention_mask=IS_TOKEN.long()).last_hidden_state
    torch.testing.assert_close(encoded(encoder), states[IS_TOKEN])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_parameter_gets_a_gradient(tmp_path: Path, name: str) -> None:
    encoder = PretrainedConfig(checkpoint=written(tmp_path, name)).build([])
    encoder(IDS, IS_TOKEN).square().sum().backward()
    assert [key for key, own in encoder.named_parameters() if own.requires_grad and own.grad is None] == []


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_segments_count_where_the_network_knows_them(tmp_path: Path, name: str) -> None:
    encoder = PretrainedConfig(checkpoint=written(tmp_path, name)).build([]).eval()
    assert torch.equal(encoded(encoder, SEGMENTS), encoded(encoder)) == (name not in TELLS_SEGMENTS_APART)


def dropouts(module: nn.Module) -> set[float]:
    return {part.p for part in module.modules() if isinstance(part, nn.Dropout)}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_dropout_is_set_whatever_the_architecture_calls_it(tmp_path: Path, name: str) -> None:
    written(tmp_path, name)
    build = PretrainedConfig(checkpoint=str(tmp_path), dropout=0.5).build
    encoder = build([]).train()
    assert dropouts(encoder) == {0.5}
    assert not torch.equal(encoded(encoder), encoded(encoder))
    still = PretrainedConfig(checkpoint=str(tmp_path), dropout=0.0).build([]).train()
    assert torch.equal(encoded(still), encoded(still.eval()))


def test_the_dropout_of_the_checkpoint_counts_where_none_is_given(tmp_path: Path) -> None:
    written(tmp_path, "bert", hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3)
    assert dropouts(PretrainedConfig(checkpoint=str(tmp_path)).build([])) == {0.3}


def test_a_dropout_that_nothing_would_read_is_refused(tmp_path: Path) -> None:
    sizes = {"vocab_size": 30, "hidden_size": 8, "num_hidden_layers": 1, "state_size": 2}
    AutoModel.from_config(AutoConfig.for_model("mamba", **sizes)).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"encoder\.dropout: mamba has no dropout of its own"):
        PretrainedConfig(checkpoint=str(tmp_path), dropout=0.1).build([])


@pytest.mark.parametrize("dropout", [1.0, -0.1])
def test_a_dropout_out_of_range_is_refused(tmp_path: Path, dropout: float) -> None:
    with pytest.raises(ConfigError, match=rf"PretrainedConfig\.dropout: expected .* or null, found {dropout}\."):
        PretrainedConfig(checkpoint=str(tmp_path), dropout=dropout).build([])


def test_a_folder_without_a_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be loaded"):
        PretrainedConfig(checkpoint=str(tmp_path)).build([])
