"""Encoder-decoders of transformers: fine-tuned, generating and exported as transformers does it itself."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from lightrail.lightning_modules.checkpoint import read_checkpoint
from lightrail.lightning_modules.networks.seq2seq.decoding import DecodingConfig
from lightrail.lightning_modules.networks.seq2seq.network import Memory, Seq2Seq
from lightrail.lightning_modules.networks.seq2seq.search import beam_search
from lightrail.lightning_modules.translation import Translation
from lightrail.project.basics.logs import without_warning
from lightrail.project.basics.tokens.tokenizing import HINT_OF_MARIAN
from lightrail.project.exporting.writing import export
from lightrail.project.models.stored_model import StoredModel
from lightrail.testing.contract import NetworkContract
from tests.support.pretrained_seq2seq import write_seq2seq
from tests.support.tasks import translation

NAMES = ["t5", "marian", "opus", "bart"]
TEXTS = [text for number in range(14) for text in translation.pair(number)]
SOURCES = ["ab c", "ef", "g d ab c"]


def settings(folder: Path, name: str, scale: float = 1.0) -> list[str]:
    checkpoint = folder / name
    if not checkpoint.exists():
        write_seq2seq(checkpoint, name, TEXTS, scale)
    own = [
        "--model.network=lightrail.lightning_modules.networks.seq2seq.pretrained.PretrainedSeq2SeqConfig",
        f"--model.network.checkpoint={checkpoint}",
        f"--data.tokenizer={checkpoint}",
    ]
    removed = ("--data.tokenizer", "--data.min_count", "--model.network", "--model.label_smoothing")
    return [one for one in translation.settings(folder, []) if not one.startswith(removed)] + own


def reader(folder: Path) -> Any:
    with without_warning(HINT_OF_MARIAN):
        return AutoTokenizer.from_pretrained(folder)


class TestPretrainedTranslation(NetworkContract):
    name, scale = "t5", 1.0

    def settings(self, folder: Path) -> list[str]:
        return [
            *settings(folder, self.name, self.scale),
            "--model.label_smoothing=0",
            "--model.network.dropout=0.005",
        ]

    def without_dropout(self) -> list[str]:
        return ["--model.network.dropout=0"]


def built(folder: Path, name: str) -> Translation:
    contract = TestPretrainedTranslation()
    contract.name, contract.scale = name, 3.0
    model = contract.experiment(folder, "--trainer.max_steps=1").model.eval()
    assert isinstance(model, Translation)
    return model


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_beams", [1, 3])
def test_it_generates_what_transformers_generates(tmp_path: Path, name: str, num_beams: int) -> None:
    task = built(tmp_path, name)
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / name).eval()
    tokenizer = reader(tmp_path / name)
    limit = 9
    given = tokenizer(SOURCES, return_tensors="pt", padding=True)
    suppressed = sorted({0, model.config.decoder_start_token_id} - {model.config.eos_token_id})
    expected = model.generate(
        input_ids=given["input_ids"],
        attention_mask=given["attention_mask"],
        num_beams=num_beams,
        max_new_tokens=limit,
        suppress_tokens=suppressed,
    )
    task.decoding = DecodingConfig(num_beams=num_beams, max_tokens=limit, max_ratio=100.0)
    found = [own[0] for own in task.respond(SOURCES)]
    assert [text for text, _ in found] == tokenizer.batch_decode(expected, skip_special_tokens=True)
    assert all(0 < score <= 1 for _, score in found)


@pytest.mark.parametrize("name", NAMES)
def test_a_source_gets_the_same_answer_alone_and_in_a_batch_whatever_the_limits(tmp_path: Path, name: str) -> None:
    task = built(tmp_path, name)
    task.decoding = DecodingConfig(num_beams=3, num_best=2, max_ratio=1.0, max_more=1)
    together = task.respond(SOURCES, num_best=2)
    alone = [task.respond([source], num_best=2)[0] for source in SOURCES]
    assert [[text for text, _ in own] for own in together] == [[text for text, _ in own] for own in alone]


@pytest.mark.parametrize("name", NAMES)
def test_its_own_scores_are_those_of_the_steps_of_a_search(tmp_path: Path, name: str) -> None:
    network: Seq2Seq = built(tmp_path, name).network
    ids = torch.tensor([[4, 5, 6, 1], [7, 1, 0, 0]])
    with torch.no_grad():
        memory: Memory = network.encode(ids, torch.tensor([[True] * 4, [True, True, False, False]]))
        decoder_ids = network.decoder_ids(torch.tensor([[8, 9, 1], [5, 1, -100]]))
        whole = network.score(memory, decoder_ids)
        cache = network.start_cache(memory).select(torch.tensor([0, 1]))
        steps = torch.stack([network.step(decoder_ids[:, place], cache) for place in range(3)], dim=1)
        weights = network.attention(memory, decoder_ids)
    torch.testing.assert_close(steps, whole, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3))
    assert network.model.config._attn_implementation == "sdpa"  # type: ignore[union-attr]
    found = beam_search(network, memory, DecodingConfig(num_beams=2, max_tokens=5))
    assert len(found) == 2


@pytest.mark.parametrize("name", NAMES)
def test_plain_transformers_loads_an_export_with_equal_scores(tmp_path: Path, name: str) -> None:
    contract = TestPretrainedTranslation()
    contract.name = name
    trained = contract.fit(tmp_path, "--trainer.max_steps=2", keep=tmp_path / "kept").eval()
    checkpoint = tmp_path / "kept" / "step=2.ckpt"
    export(StoredModel(read_checkpoint(checkpoint), str(checkpoint)), tmp_path / "exported", "hf")
    assert isinstance(trained, Translation)
    read = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "exported").eval()
    inputs = trained.transformers_inputs(torch.tensor([[4, 5, 6, 1]]))
    with torch.no_grad():
        torch.testing.assert_close(read(**inputs).logits, trained.logits(**inputs))
    tokenizer = reader(tmp_path / "exported")
    given = tokenizer(SOURCES[0], return_tensors="pt")
    trained.decoding = DecodingConfig(num_beams=1, max_tokens=8, max_ratio=100.0)
    suppressed = sorted({0, read.config.decoder_start_token_id} - {1})
    made = read.generate(input_ids=given["input_ids"], num_beams=1, max_new_tokens=8, suppress_tokens=suppressed)
    assert tokenizer.decode(made[0], skip_special_tokens=True) == trained.respond(SOURCES[:1])[0][0][0]
