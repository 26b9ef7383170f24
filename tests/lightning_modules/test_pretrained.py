"""Encoders of the Hugging Face hub, of every usual kind: built, restored without their files, and given a dropout."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, T5Config, T5Model

from lightrail.lightning_modules.arguments import from_plain, to_plain
from lightrail.lightning_modules.networks.encoders.pretrained import PretrainedConfig
from lightrail.project.basics.errors import ConfigError
from tests.support.pretrained import ARCHITECTURES, IDS, IS_TOKEN, ODD_POSITIONS, encoded, write_tiny_bert, written

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


@pytest.mark.parametrize("name", ARCHITECTURES | ODD_POSITIONS)
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


@pytest.mark.parametrize("name", ARCHITECTURES | ODD_POSITIONS)
def test_a_text_may_have_as_many_tokens_as_the_network_has_positions(tmp_path: Path, name: str) -> None:
    encoder = PretrainedConfig(checkpoint=written(tmp_path, name, max_position_embeddings=16)).build([]).eval()
    first = {"roberta": 2, "mpnet": 2, "longformer": 2}.get(name, 0)  # row of its table for the first position
    limit = None if name == "modernbert" else 16 - first
    assert encoder.max_length == limit
    ids = torch.full((2, limit or 40), 5)
    assert encoder(ids, torch.ones_like(ids, dtype=torch.bool)).shape == (*ids.shape, 8)
    if limit is not None:
        ids = torch.full((1, limit + 1), 5)
        with pytest.raises(ConfigError, match=rf"{limit + 1} tokens .* network that reads {limit} .*data\.max_length"):
            encoder(ids, torch.ones_like(ids, dtype=torch.bool))


def test_a_learned_vocabulary_is_refused(tmp_path: Path) -> None:
    config = PretrainedConfig(checkpoint=written(tmp_path, "bert"))
    with pytest.raises(ConfigError, match=r"own tokenizer, and the data has learned 2 tokens of its own\. Name"):
        config.build(["a", "b"])
    replace(config, architecture=config.build([]).config.architecture).build(["a", "b"])  # from a checkpoint of earlier


@pytest.mark.parametrize("name", ["t5", "vit"])
def test_what_encodes_no_tokens_is_refused(tmp_path: Path, name: str) -> None:
    if name == "t5":
        T5Model(T5Config(vocab_size=30, d_model=8, d_kv=4, num_layers=1, num_heads=2, d_ff=8)).save_pretrained(tmp_path)
    else:
        sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
        AutoModel.from_config(AutoConfig.for_model("vit", **sizes, image_size=32)).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=rf"encoder\.checkpoint: .* \({name}\) is no encoder of token ids: "):
        PretrainedConfig(checkpoint=str(tmp_path)).build([])


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bert(tmp_path_factory.mktemp("tiny") / "bert", ["the room was warm", "rooms were cold"])


Damage = Callable[[Path], object]


def changed(**settings: Any) -> Damage:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        (folder / "config.json").write_text(json.dumps({**config, **settings}))

    return change


def pointer(folder: Path) -> None:
    (folder / "model.safetensors").write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\n")


def cut_short(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-7])


def shard_is_missing(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"embeddings.word_embeddings.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def weights_of_another_network(folder: Path) -> None:
    from safetensors.torch import save_file

    save_file({"weight": torch.ones(3)}, folder / "model.safetensors", metadata={"format": "pt"})


class Attack:
    def __reduce__(self) -> Any:
        return pytest.fail, ("a pickle was run",)


def pickle_with_code(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"embeddings.word_embeddings.weight": Attack()}, folder / "pytorch_model.bin")


def own_code(folder: Path) -> None:
    changed(model_type="mine", auto_map={"AutoConfig": "a.B", "AutoModel": "a.C"})(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (pointer, r"model\.safetensors is a pointer of git-lfs.*git lfs pull"),
        (cut_short, r"model\.safetensors has [\d,]+ of [\d,]+ bytes\."),
        (shard_is_missing, r"index\.json names model-00001-of-00002\.safetensors, which is missing"),
        (weights_of_another_network, r"weights are not in the file, which holds those of another network"),
        (pickle_with_code, r"its weights are a pickle that is damaged or would run code"),
        (own_code, r"contains custom code|needs code of its own"),
        (lambda folder: (folder / "config.json").write_text("{"), r"config\.json is damaged"),
        (lambda folder: (folder / "config.json").write_text("[]"), r"cannot be loaded: "),
        (lambda folder: (folder / "config.json").unlink(), r"cannot be loaded: "),
        (changed(hidden_size="wide"), r"'hidden_size': TypeError: .* 'wide'"),
        (changed(hidden_size=-4), r"negative dimension"),
        (changed(hidden_size=10**9), r"other sizes than its config\.json states"),
        (changed(vocab_size=10**12), r"other sizes than its config\.json states"),
        (changed(num_hidden_layers=10**9), r"num_hidden_layers of bert is 1000000000\. Give 0 to 10000\."),
        (changed(num_hidden_layers=-1), r"num_hidden_layers of bert is -1\. Give 0 to 10000\."),
        (
            changed(num_hidden_layers=3),
            r"layer\.2\.\S+ and 15 further weights are not in the file, whose other layers have",
        ),
        (changed(num_attention_heads=0), r"cannot be loaded: "),
        (changed(hidden_act="none such"), r"cannot be loaded: there is no 'none such'\."),
        (changed(model_type="none such"), r"does not recognize this architecture"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line(
    tiny_bert: Path, tmp_path: Path, damage: Damage, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda _: pytest.fail("a question"))
    folder = tmp_path / "bert"
    shutil.copytree(tiny_bert, folder)
    damage(folder)
    with pytest.raises(ConfigError, match=message) as refused:
        PretrainedConfig(checkpoint=str(folder)).build([])
    text = str(refused.value)
    assert ("\n" not in text and "encoder.checkpoint" in text) or "num_hidden_layers" in text


def test_a_pipe_in_a_folder_is_refused_before_it_is_opened(tiny_bert: Path, tmp_path: Path) -> None:
    import os

    shutil.copytree(tiny_bert, tmp_path / "bert")
    (tmp_path / "bert" / "config.json").unlink()
    os.mkfifo(tmp_path / "bert" / "config.json")
    with pytest.raises(ConfigError, match=r"config\.json is a pipe"):
        PretrainedConfig(checkpoint=str(tmp_path / "bert")).build([])


def test_a_token_added_to_the_tokenizer_alone_gets_a_vector(tiny_bert: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_bert, tmp_path / "bert")
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    size = len(tokenizer)
    tokenizer.add_tokens(["<place>"])
    tokenizer.save_pretrained(tmp_path / "bert")
    states = []
    for folder in (tiny_bert, tmp_path / "bert"):
        torch.manual_seed(0)
        encoder = PretrainedConfig(checkpoint=str(folder)).build([])
        states.append(torch.random.get_rng_state())
    assert torch.equal(*states), "it draws none of the random numbers of what is built after it"
    assert encoder.num_vectors == size + 1
    restored = from_plain(to_plain(replace(encoder.config, checkpoint="gone"))).build([])
    restored.load_state_dict(encoder.state_dict())


def test_tokens_are_those_of_the_network(tiny_bert: Path) -> None:
    encoder = PretrainedConfig(checkpoint=str(tiny_bert)).build([])
    own = dict(AutoTokenizer.from_pretrained(tiny_bert).get_vocab())
    encoder.check_tokens(own)
    encoder.check_tokens({**own, "<added>": len(own)})
    encoder.check_tokens({("renamed" if token == "room" else token): number for token, number in own.items()})
    for other in ({}, {token: number + 1 for token, number in own.items()}, {"unheard": 0}):
        with pytest.raises(ConfigError, match=r"is not the pretrained network's.* data\.tokenizer\."):
            encoder.check_tokens(other)
    encoder.check_ids(len(own) - 1)
    with pytest.raises(ConfigError, match=rf"ids up to {len(own)}, and the pretrained network {len(own)} vectors"):
        encoder.check_ids(len(own))


def test_a_folder_without_a_tokenizer_fits_any(tmp_path: Path) -> None:
    PretrainedConfig(checkpoint=written(tmp_path, "bert")).build([]).check_tokens({"unheard": 0})
