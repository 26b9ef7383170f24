"""`lightrail export`: the folder holds the same model, is whole or not there, and says what it is."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from lightrail.lightning_modules.causal_lm import CausalLM
from lightrail.lightning_modules.model_folder import separate_weights
from lightrail.lightning_modules.networks.adapters import LoraConfig
from lightrail.lightning_modules.networks.decoders.decoder import DecoderConfig
from lightrail.lightning_modules.networks.decoders.plain_decoder import PlainDecoderConfig
from lightrail.lightning_modules.networks.decoders.pretrained_decoder import ArchitectureConfig, PretrainedDecoderConfig
from lightrail.lightning_modules.networks.decoders.transformer_decoder import (
    TransformerDecoder,
    TransformerDecoderConfig,
)
from lightrail.lightning_modules.transfer.exported import load_exported
from lightrail.project.basics.errors import ConfigError
from lightrail.project.basics.tokens.learning import load_language_tokenizer
from lightrail.project.exporting.card import model_card
from lightrail.project.exporting.writing import export
from lightrail.project.models.stored_model import StoredModel, stored_model
from lightrail.project.tracking.settings import TrackingConfig
from tests.support.language_model import TEXTS, TINY_DECODER, language_model, write_checkpoint
from tests.support.running import Fitted, lightrail

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
DECODERS = {
    "ours": TransformerDecoderConfig(width=16, depth=2, num_heads=4, num_key_value_heads=2),
    "ours, untied": TransformerDecoderConfig(width=16, depth=1, num_heads=2, is_tied=False, max_length=40),
    "plain": PlainDecoderConfig(width=16, depth=2, num_heads=2, max_length=32),
    "an architecture": ArchitectureConfig(model_type="llama", settings={**SIZES, "num_key_value_heads": 1}),
}


def stored(folder: Path, decoder: DecoderConfig = TINY_DECODER, vocabulary: str = "characters") -> StoredModel:
    """A checkpoint of a language model, as it is read for export."""
    tokenizer = load_language_tokenizer(vocabulary, TEXTS, max_vocabulary=300)
    path = write_checkpoint(language_model(tokenizer, decoder), folder / "best.ckpt")
    return stored_model(str(path), TrackingConfig(uri=f"sqlite:///{folder}/none.db"))


@torch.no_grad()
def check_transformers(folder: Path, model: StoredModel, texts: list[str]) -> None:
    """See that plain transformers gives the logits of the checkpoint and begins and ends where it does."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    read, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    decoder = language_model_of(model).decoder
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        torch.testing.assert_close(read(ids).logits, decoder(ids), rtol=1e-4, atol=1e-4)
        assert tokenizer.decode(ids[0]) == text
    facts = model.checkpoint["hyper_parameters"]["tokenizer"]
    assert (read.generation_config.bos_token_id, read.config.bos_token_id) == (facts["start_id"],) * 2
    assert (read.generation_config.eos_token_id, read.config.eos_token_id) == (facts["end_id"],) * 2


def language_model_of(model: StoredModel) -> CausalLM:
    return CausalLM.from_checkpoint(model.checkpoint, model.name).eval()


@pytest.mark.parametrize("decoder", DECODERS)
def test_transformers_reads_the_same_network(tmp_path: Path, decoder: str) -> None:
    model = stored(tmp_path, DECODERS[decoder])
    export(model, tmp_path / "out", "hf")
    check_transformers(tmp_path / "out", model, ["to be", "春天来了"])


@pytest.mark.parametrize("vocabulary", ["characters", "bytes", "subwords"])
def test_transformers_reads_the_same_tokenizer(tmp_path: Path, vocabulary: str) -> None:
    model = stored(tmp_path, vocabulary=vocabulary)
    export(model, tmp_path / "out", "hf")
    check_transformers(tmp_path / "out", model, TEXTS)


def test_adapters_are_merged_into_the_weights(tmp_path: Path) -> None:
    from peft.tuners.lora import LoraLayer

    base = stored(tmp_path, DECODERS["an architecture"])
    export(base, tmp_path / "base", "hf")
    lora = PretrainedDecoderConfig(checkpoint=str(tmp_path / "base"), lora=LoraConfig(rank=2))
    (tmp_path / "tuned").mkdir()
    model = stored(tmp_path / "tuned", lora)
    layers = [part for part in language_model_of(model).modules() if isinstance(part, LoraLayer)]
    assert layers
    assert all(matrix.weight.abs().sum() > 0 for layer in layers for matrix in layer.lora_A.values())
    for name, value in model.checkpoint["state_dict"].items():
        if "lora_B" in name:
            value.normal_(generator=torch.Generator().manual_seed(1))
    export(model, tmp_path / "out", "hf")
    check_transformers(tmp_path / "out", model, ["to be", "春天来了"])
    assert not [name for name in load_file(tmp_path / "out" / "model.safetensors") if "lora" in name]
    expected = load_file(tmp_path / "base" / "model.safetensors")
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == expected.keys()


def test_the_folder_holds_one_model_and_its_card(tmp_path: Path) -> None:
    export(stored(tmp_path), tmp_path / "out", "hf")
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert names >= {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "README.md"}
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl", ".ckpt"))]
    assert len({file.stat().st_mode for file in (tmp_path / "out").iterdir()}) == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["best.ckpt", "out"]


@pytest.mark.parametrize("export_format", ["hf", "safetensors"])
def test_generate_writes_the_same_from_the_folder(tmp_path: Path, export_format: str) -> None:
    path = write_checkpoint(language_model(), tmp_path / "best.ckpt")
    arguments = [
        f"--format={export_format}",
        f"--output={tmp_path}/out",
        f"--tracking.uri=sqlite:///{tmp_path}/none.db",
    ]
    outcome = lightrail("export", str(path), *arguments)
    assert outcome.status == 0, outcome.err
    written = [
        lightrail("generate", named, "--prompt=春", "--temperature=0") for named in (str(path), f"{tmp_path}/out")
    ]
    assert written[0].out == written[1].out
    assert len(written[0].out) > 100


def test_a_run_is_exported_by_a_prefix_of_its_id(fitted_classifier: Fitted, tmp_path: Path) -> None:
    named = [fitted_classifier.run_id[:12], f"--tracking.uri={fitted_classifier.store}"]
    outcome = lightrail("export", *named, f"--output={tmp_path}/new/out")
    assert outcome.status == 0, outcome.err
    assert outcome.out == f"exported {named[0]} to {tmp_path}/new/out; README.md there shows how to load it\n"
    read = load_exported(tmp_path / "new" / "out")
    assert not read.training
    best = fitted_classifier.weights("best")
    assert read.state_dict().keys() == best.keys()
    assert all(torch.equal(value, best[name]) for name, value in read.state_dict().items())
    card = (tmp_path / "new" / "out" / "README.md").read_text("utf-8")
    assert 'model = lightrail.load("out")\nprint(model("TEXT"))' in card
    value = fitted_classifier.metrics["test/accuracy"]
    for told in ("lightrail predict out --data.path FILE", "lightrail serve out", "Labels (2): `+`, `-`"):
        assert told in card
    (results,) = ModelCard(card).data.to_dict()["model-index"][0]["results"]  # type: ignore[no-untyped-call]
    assert results["task"]["type"] == "text-classification"
    (result,) = [own for own in results["metrics"] if own["name"] == "accuracy"]
    assert result["value"] == pytest.approx(value)
    low, high = (result["args"][end] for end in ("low", "high"))
    assert 0 <= low <= value <= high <= 1
    assert low < high
    assert f"| {value:.6g} " in card
    assert f"{low:.6g} to {high:.6g}" in card
    for told in (fitted_classifier.run_id, fitted_classifier.tags["lightrail.data_digest"]):
        assert told in card


def test_the_card_has_only_the_name_of_private_files(tmp_path: Path) -> None:
    model = stored(tmp_path)
    arguments = model.checkpoint["configuration"]["data"]["init_args"]
    arguments["path"] = str(tmp_path / "secret" / "letters.txt")
    card = model_card(model, language_model_of(model), "out", None)
    assert "- data: letters.txt\n" in card
    assert str(tmp_path) not in card
    arguments["path"] = "owner/set"
    assert "- data: owner/set\n" in model_card(model, language_model_of(model), "out", None)


def test_what_transformers_does_not_know_is_refused(fitted_classifier: Fitted, tmp_path: Path) -> None:
    store = f"--tracking.uri={fitted_classifier.store}"
    outcome = lightrail("export", fitted_classifier.run_id, "--format=hf", f"--output={tmp_path}/out", store)
    assert (outcome.status, outcome.out) == (2, "")
    assert "transformers has no TransformerEncoder" in outcome.err
    assert "Use --format safetensors or onnx" in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_files_is_left_alone(tmp_path: Path) -> None:
    path = str(write_checkpoint(language_model(), tmp_path / "best.ckpt"))
    target = tmp_path / "out"
    target.mkdir()
    (target / "mine.txt").write_text("mine")
    store = f"--tracking.uri=sqlite:///{tmp_path}/none.db"
    for options, message in (
        ([f"--output={target}"], "is not empty. Name a new folder, or add --overwrite."),
        ([f"--output={target}", "--overwrite"], "lightrail did not write it, and --overwrite does not remove it"),
        ([f"--output={path}"], "best.ckpt is a file. Name a folder."),
        ([], "--output is required"),
        ([f"--output={target}", "--format=pickle"], "argument --format: invalid choice: 'pickle'"),
        ([f"--output={target}", "another"], "takes one run, found 2"),
    ):
        outcome = lightrail("export", path, *options, store)
        assert (outcome.status, outcome.out) == (2, "")
        assert message in outcome.err
    assert [file.name for file in target.iterdir()] == ["mine.txt"]


def test_an_earlier_export_is_replaced_when_asked(tmp_path: Path) -> None:
    model = stored(tmp_path)
    export(model, tmp_path / "out", "safetensors")
    (tmp_path / "out" / "older.txt").touch()
    with pytest.raises(ConfigError, match="is not empty"):
        export(model, tmp_path / "out", "safetensors")
    export(model, tmp_path / "out", "hf", overwrite=True)
    assert (tmp_path / "out" / "config.json").is_file()
    assert not (tmp_path / "out" / "older.txt").exists()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["best.ckpt", "out"]


@pytest.mark.parametrize("export_format", ["hf", "safetensors"])
def test_a_full_disk_leaves_no_half_of_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, export_format: str
) -> None:
    model = stored(tmp_path)
    export(model, tmp_path / "out", "safetensors")
    before = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    monkeypatch.setattr("lightrail.project.exporting.writing.sync", fail)
    with pytest.raises(ConfigError, match=r"--output .*out: No space left on device\. Name a folder that may be"):
        export(model, tmp_path / "out", export_format, overwrite=True)  # type: ignore[arg-type]
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["best.ckpt", "out"]


def fail(*_: object) -> Any:
    raise OSError(28, "No space left on device")


def test_what_cannot_be_put_in_place_leaves_the_earlier_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = stored(tmp_path)
    export(model, tmp_path / "out", "safetensors")
    rename = Path.rename

    def rename_all_but_the_new(self: Path, target: Path) -> Path:
        return rename(self, target) if "unfinished" not in self.name else fail()

    monkeypatch.setattr("pathlib.Path.rename", rename_all_but_the_new)
    with pytest.raises(ConfigError, match="No space left on device"):
        export(model, tmp_path / "out", "hf", overwrite=True)
    assert (tmp_path / "out" / "lightrail.json").is_file()
    assert not (tmp_path / "out" / "config.json").exists()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["best.ckpt", "out"]


def test_another_tokenizer_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = load_language_tokenizer("bytes")._of_transformers()
    monkeypatch.setattr("lightrail.project.basics.tokens.numbering.LanguageTokenizer._of_transformers", lambda _: other)
    with pytest.raises(ConfigError, match=r"the tokenizer that transformers reads splits .* Nothing was written"):
        export(stored(tmp_path), tmp_path / "out", "hf")
    assert not (tmp_path / "out").exists()


def test_a_model_with_tied_weights_is_read_again(tmp_path: Path) -> None:
    tied = {**SIZES, "num_key_value_heads": 1, "tie_word_embeddings": True}
    model = stored(tmp_path, ArchitectureConfig(model_type="llama", settings=tied))
    export(model, tmp_path / "out", "safetensors")
    assert len(json.loads((tmp_path / "out" / "lightrail.json").read_text("utf-8"))["shared"]) == 1
    read = load_exported(tmp_path / "out").state_dict()
    assert all(torch.equal(read[name], value) for name, value in model.checkpoint["state_dict"].items())


def test_other_logits_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = TransformerDecoder.to_transformers

    def wrong(self: TransformerDecoder) -> Any:
        model = right(self)
        model.get_input_embeddings().weight.data[5] += 1
        return model

    monkeypatch.setattr(TransformerDecoder, "to_transformers", wrong)
    with pytest.raises(ConfigError, match=r"has other logits \(they differ by up to .* Nothing was written"):
        export(stored(tmp_path), tmp_path / "out", "hf")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_export_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no exported model: lightrail\.json cannot be read"):
        load_exported(tmp_path)
    export(stored(tmp_path), tmp_path / "hf", "hf")
    with pytest.raises(ConfigError, match=r"lightrail\.json describes no task"):
        load_exported(tmp_path / "hf")
    export(stored(tmp_path), tmp_path / "out", "safetensors")
    description = json.loads((tmp_path / "out" / "lightrail.json").read_text("utf-8"))
    for task, message in (
        ("nowhere.Task", "which cannot be imported"),
        ("pathlib.Path", "which is not derived from TaskModule of lightrail"),
        ("lightrail.lightning_modules.x.Y", "version of lightr"),
    ):
        (tmp_path / "out" / "lightrail.json").write_text(json.dumps({**description, "task": task}))
        with pytest.raises(ConfigError, match=message):
            load_exported(tmp_path / "out")
    (tmp_path / "out" / "lightrail.json").write_text(json.dumps(description))
    (tmp_path / "out" / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(
        ConfigError, match=r"model\.safetensors is not as it was exported: its SHA-256 begins with c814"
    ):
        load_exported(tmp_path / "out")
    description.pop("files")
    (tmp_path / "out" / "lightrail.json").write_text(json.dumps(description))
    with pytest.raises(ConfigError, match=r"model\.safetensors cannot be read"):
        load_exported(tmp_path / "out")


def test_tied_weights_are_written_once(tmp_path: Path) -> None:
    table = torch.arange(6.0).reshape(2, 3)
    state = {"a": table, "b": table, "row": table[0], "turned": table.t()}
    weights, shared = separate_weights(state)
    assert shared == {"b": "a"}
    save_file(weights, tmp_path / "weights")
    read = load_file(tmp_path / "weights")
    assert all(torch.equal(read[shared.get(name, name)], value) for name, value in state.items())
