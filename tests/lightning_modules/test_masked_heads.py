"""Heads of masked language models: those of transformers on selected positions, exports, and what a run starts from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer

from lightrail.lightning_modules.base import TaskModule
from lightrail.lightning_modules.checkpoint import read_checkpoint
from lightrail.lightning_modules.entities import EntityTagger
from lightrail.lightning_modules.masked_lm import MaskedLM
from lightrail.lightning_modules.networks.adapters import LoraConfig
from lightrail.lightning_modules.networks.encoders.convolutional import TextCnnConfig
from lightrail.lightning_modules.networks.encoders.encoder import Encoder, EncoderConfig, TokenHead
from lightrail.lightning_modules.networks.encoders.pretrained import PretrainedConfig
from lightrail.lightning_modules.networks.encoders.recurrent import LstmConfig
from lightrail.lightning_modules.networks.encoders.transformer import TransformerConfig
from lightrail.lightning_modules.text_classification import TextClassifier
from lightrail.lightning_modules.transfer.matching import NamedWeights, take_weights
from lightrail.project.basics.errors import ConfigError
from lightrail.project.exporting.writing import export
from lightrail.project.models.stored_model import StoredModel
from tests.support.pretrained import ARCHITECTURES, IDS, IS_TOKEN
from tests.support.running import lightrail
from tests.support.tasks.masked_lm import write_bert


def written(folder: Path, name: str) -> str:
    """A folder with a tiny masked language model of an architecture."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **ARCHITECTURES[name], initializer_range=0.5)
    AutoModelForMaskedLM.from_config(config).save_pretrained(folder)
    return str(folder)


def built(checkpoint: str, **settings: Any) -> tuple[Encoder, TokenHead]:
    encoder, head = PretrainedConfig(checkpoint=checkpoint, **settings).build_with_token_head([])
    return encoder.eval(), head.eval()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_pretrained_head_scores_chosen_positions_as_the_whole_model_does(name: str, tmp_path: Path) -> None:
    checkpoint = written(tmp_path / name, name)
    encoder, head = built(checkpoint)
    expected = AutoModelForMaskedLM.from_pretrained(checkpoint).eval()(input_ids=IDS, attention_mask=IS_TOKEN.long())
    chosen = torch.tensor([[0, 1, 0, 0, 1], [1, 0, 0, 0, 0]]).bool()
    with torch.inference_mode():
        scores = head(encoder(IDS, IS_TOKEN)[chosen], encoder)
        none = head(encoder(IDS, IS_TOKEN)[chosen & False], encoder)
    torch.testing.assert_close(scores, expected.logits[chosen], rtol=1e-4, atol=1e-5)
    assert none.shape == (0, expected.logits.shape[-1])


@pytest.mark.parametrize("name", ["bert", "modernbert"])
def test_encoder_and_head_share_the_vectors_of_tokens_also_when_rebuilt(name: str, tmp_path: Path) -> None:
    encoder, head = built(written(tmp_path / name, name))
    again, head_again = encoder.config.build_with_token_head([])  # of its architecture: no file is read
    for own, other in ((encoder, head), (again, head_again)):
        table = own.input_embedding().get_parameter("weight")
        assert any(parameter is table for parameter in other.parameters())
        assert sum(parameter.numel() for parameter in other.parameters()) < 30 * 8 + 500  # nothing of the network
    whole: Any = head.to_transformers(encoder)
    assert whole.get_output_embeddings().weight is whole.get_input_embeddings().weight


def test_names_of_weights_are_those_of_the_encoder_alone(tmp_path: Path) -> None:
    checkpoint = written(tmp_path / "bert", "bert")
    alone = PretrainedConfig(checkpoint=checkpoint).build([])
    encoder, _ = built(checkpoint)
    assert encoder.state_dict().keys() == alone.state_dict().keys()
    assert all(torch.equal(own, alone.state_dict()[name]) for name, own in encoder.state_dict().items())


def test_an_export_has_adapters_merged(tmp_path: Path) -> None:
    encoder, head = built(written(tmp_path / "bert", "bert"), lora=LoraConfig(rank=2))
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
        expected = head(encoder(IDS, IS_TOKEN)[0], encoder)
        whole: Any = head.to_transformers(encoder)
        found = whole(input_ids=IDS, attention_mask=IS_TOKEN.long()).logits[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not any("lora" in name for name, _ in whole.named_parameters())


@pytest.mark.parametrize(
    "config",
    [TransformerConfig(width=8, num_heads=2, depth=1), LstmConfig(width=8), TextCnnConfig(width=8, num_filters=4)],
)
def test_every_network_from_scratch_scores_tokens_by_their_vectors(config: EncoderConfig) -> None:
    encoder, head = config.build_with_token_head(["a", "b", "c"])
    states = torch.randn(3, encoder.width)
    assert head(states, encoder).shape == (3, 5)
    table = encoder.input_embedding().get_parameter("tokens.weight")
    with torch.no_grad():
        table[3] = table[4]
    assert torch.equal(head(states, encoder)[:, 3], head(states, encoder)[:, 4])
    with pytest.raises(ConfigError, match="transformers has no network like"):
        head.to_transformers(encoder)


def test_a_network_without_a_masked_language_model_is_refused(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 16, "vocab_size": 30}
    GPT2LMHeadModel(GPT2Config(**sizes)).save_pretrained(tmp_path / "gpt2")
    with pytest.raises(ConfigError, match=r"cannot be loaded"):
        built(str(tmp_path / "gpt2"))


VOCABULARY, OTHER = ["[MASK]", "ma", "wo", "shi", "ni"], ["ni", "hao", "wo", "ma"]
SMALL = TransformerConfig(width=8, depth=1, num_heads=2)


def pretrained(encoder: EncoderConfig, vocabulary: Sequence[str], **more: Any) -> MaskedLM:
    model = MaskedLM(list(vocabulary), None, "[MASK]", [0, 1, 2], encoder=encoder, **more)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter.data, std=0.3)
    return model


def started(encoder: EncoderConfig, vocabulary: Sequence[str]) -> list[TaskModule]:
    """A classifier and a tagger with this encoder."""
    return [
        TextClassifier(list(vocabulary), ["+", "-"], [1, 1], encoder=encoder),
        EntityTagger(list(vocabulary), ["PER"], False, encoder=encoder),
    ]


@pytest.mark.parametrize("next_sentence", [False, True])
def test_a_classifier_and_a_tagger_start_from_masked_tokens_by_name(next_sentence: bool) -> None:
    before = pretrained(SMALL, VOCABULARY, next_sentence=next_sentence)
    for task in started(SMALL, OTHER):
        found = take_weights(task, NamedWeights.of(before))
        assert {name.partition(".")[0] for name in found.taken} == {"encoder"}
        assert found.in_part == {"encoder.embedding.tokens.weight": "5 of 6 rows"}  # of "hao" nothing is known
        heads = {"head", "next_sentence_head"} if next_sentence else {"head"}
        assert {name.partition(".")[0] for name in found.left} == heads
        assert "head" in {name.partition(".")[0] for name in found.new}
        ids = [torch.tensor([[own.index(token) + 2 for token in ("wo", "ni")]]) for own in (VOCABULARY, OTHER)]
        is_token = torch.ones(1, 2, dtype=torch.bool)
        networks = [before.eval().encoder, task.eval().get_submodule("encoder")]
        old, new = (network(own, is_token) for network, own in zip(networks, ids, strict=True))
        torch.testing.assert_close(new, old)


def test_further_pretraining_takes_head_and_bias_by_token() -> None:
    before, now = pretrained(SMALL, VOCABULARY), pretrained(SMALL, ["[MASK]", *OTHER])
    found = take_weights(now, NamedWeights.of(before))
    assert found.in_part == {"encoder.embedding.tokens.weight": "6 of 7 rows", "head.bias": "6 of 7 rows"}
    assert not found.new + found.left
    assert now.head.get_parameter("bias")[3] == before.head.get_parameter("bias")[6]  # of "ni"


def test_a_pretrained_network_is_carried_on_whole(tmp_path: Path) -> None:
    folder = write_bert(tmp_path / "bert", ["ma", "wo", "shi", "ni"])
    encoder = PretrainedConfig(checkpoint=str(folder))
    before = pretrained(encoder, [])
    for task in started(encoder, []):
        found = take_weights(task, NamedWeights.of(before))
        assert {name.partition(".")[0] for name in found.left} == {"head"}
        assert not [name for name in found.new if name.startswith("encoder.")]
        own, other = task.get_submodule("encoder").state_dict(), before.encoder.state_dict()
        assert own.keys() == other.keys()
        assert all(torch.equal(own[name], other[name]) for name in own)


SENTENCES = [
    f"{who} {verb} {what}"
    for who, verb in (("we", "see"), ("they", "hear"), ("you", "know"), ("cats", "eat"), ("dogs", "like"))
    for what in ("a bird", "no fish", "red leaves", "old songs")
]


def test_a_bert_that_knows_twenty_sentences_is_exported_with_equal_logits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIGHTRAIL_CACHE", str(tmp_path / "cache"))
    assert len(SENTENCES) == 20
    write_bert(tmp_path / "bert", [word for sentence in SENTENCES for word in sentence.split()])
    Path("texts.txt").write_text("".join(f"{sentence}\n" for sentence in SENTENCES), encoding="utf-8")
    paths = [f"--data.{name}=texts.txt" for name in ("path", "validation_path", "test_path")]
    network = ["--model.encoder=PretrainedConfig", "--model.encoder.checkpoint=bert", "--model.encoder.dropout=0"]
    data = ["--data=MaskedLMData", *paths, "--data.tokenizer=bert", "--data.split.drop_repeats=false"]
    steps = ["--trainer.max_steps=150", "--trainer.val_check_interval=150", "--trainer.check_val_every_n_epoch=null"]
    quiet = ["--trainer.accelerator=cpu", "--trainer.precision=32-true", "--trainer.enable_progress_bar=false"]
    optim = ["--model.optim.lr=0.01", "--data.batch.size=20", "--trainer.log_every_n_steps=1"]
    outcome = lightrail("fit", "--model=MaskedLM", *network, *data, *steps, *optim, *quiet)
    assert outcome.status == 0, outcome.err
    assert outcome.metrics["test/token_accuracy"] > 0.5  # what is seen is not known, of what "we see a bird" is made
    (best,) = Path("mlruns").glob("*/*/artifacts/checkpoints/best.ckpt")
    stored = StoredModel(read_checkpoint(best), str(best))
    export(stored, tmp_path / "out", "hf")
    model = AutoModelForMaskedLM.from_pretrained("out").eval()
    tokenizer = AutoTokenizer.from_pretrained("out")
    inputs = tokenizer("cats [MASK] no fish", return_tensors="pt")
    with torch.inference_mode():
        best_id = int(model(**inputs).logits[0, 2].argmax())
    assert tokenizer.decode([best_id]) == "eat"
    Path("new.txt").write_text("cats [MASK] no fish\n", encoding="utf-8")
    answer = lightrail("predict", str(best), "--data.path=new.txt", *quiet)
    assert '"prediction": "cats eat no fish"' in answer.out
