"""Both pinyin tasks keep the contract, and choose only among what a syllable can be read as."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lightrail.lightning_modules.networks.seq2seq.teacher_forcing import TeacherForcingConfig
from lightrail.lightning_modules.pinyin.translator import PinyinTranslator
from lightrail.project.basics.errors import ConfigError
from lightrail.project.configuration import parse
from lightrail.project.running.build import build
from lightrail.testing.contract import NetworkContract, TaskContract, decoded
from tests.support.tasks import pinyin, translation


class TestPinyinTagger(TaskContract):
    def settings(self, folder: Path) -> list[str]:
        return pinyin.settings(folder)


class TestPinyinTranslator(TaskContract):
    def settings(self, folder: Path) -> list[str]:
        return [*pinyin.TRANSLATOR, *pinyin.write_sentences(folder)]

    def without_dropout(self) -> list[str]:
        return ["--model.network.dropout=0"]


class TestTransformerPinyinTranslator(NetworkContract):
    def settings(self, folder: Path) -> list[str]:
        return ["--model=PinyinTranslator", *translation.TRANSFORMER, *pinyin.write_sentences(folder)]

    def without_dropout(self) -> list[str]:
        return ["--model.network.dropout=0"]


def translator_and_batch(folder: Path) -> tuple[PinyinTranslator, dict[str, Any]]:
    """Return an untrained translator, and the test split as one batch."""
    experiment = TestPinyinTranslator().experiment(folder, "--trainer.max_steps=1")
    model, data = experiment.model.eval(), experiment.data
    assert isinstance(model, PinyinTranslator)
    rows = [{**data.dataset("test").row(number), "id": number} for number in range(len(data.dataset("test")))]
    return model, {**data.collate(rows), "is_filler": False}


@pytest.mark.parametrize("preferred", ["好", "，", ""], ids=["a character", "a comma", "the end"])
def test_only_what_a_syllable_can_be_read_as_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preferred: str
) -> None:
    model, batch = translator_and_batch(tmp_path)
    candidates, step = model.hparams["candidates"], model.network.step
    number = model.table.written.index(preferred, 3) if preferred else model.network.target.end_id

    def obsessed(newest: Tensor, cache: Any) -> Tensor:
        scores = step(newest, cache)
        scores[:, number] += 1000
        return scores

    monkeypatch.setattr(model.network, "step", obsessed)
    found = decoded(model, batch)["prediction"]
    assert [len(own) for own in found] == [len(own) for own in batch["tokens"]]
    written = [
        pair for tokens, own in zip(batch["tokens"], found, strict=True) for pair in zip(tokens, own, strict=True)
    ]
    assert all(character in candidates.get(token, (token,)) for token, character in written)
    assert ("hao", "好") in written
    assert ("，", "，") in written


def test_an_unknown_token_is_copied(tmp_path: Path) -> None:
    model, batch = translator_and_batch(tmp_path)
    number = 2 + model.hparams["vocabulary"].index("hao")
    numbers = torch.tensor([[1, number, 1], [number, 0, 0]])
    labels, tokens = torch.tensor([[-1, -2, -1], [-2, -1, -1]]), [["☃", "hao", "x"], ["hao"]]
    is_token = numbers > 0
    rows = {"input_ids": numbers, "attention_mask": is_token, "labels": labels, "text": ["", ""], "tokens": tokens}
    columns = decoded(model, {**batch, **rows, "typed": ["", ""], "lattices": [(), ()]})
    assert columns["prediction"] == ["☃好x", "好"]
    assert columns.keys() == {"pinyin", "prediction", "score"}


def test_loss_and_search_agree_on_the_probability_of_a_sentence(tmp_path: Path) -> None:
    model, batch = translator_and_batch(tmp_path)
    found = decoded(model, batch)
    candidates, labels = model.hparams["candidates"], torch.full_like(batch["labels"], -1)
    for row, (tokens, own) in enumerate(zip(batch["tokens"], found["prediction"], strict=True)):
        for place, (token, character) in enumerate(zip(tokens, own, strict=True)):
            if token in candidates:
                labels[row, place] = list(candidates[token]).index(character)
    given = decoded(model, {**batch, "labels": labels, "text": found["prediction"]})
    summed = np.multiply(given["loss"], given["num_targets"])
    assert [math.exp(-own) for own in summed] == pytest.approx(found["score"], rel=1e-4)
    assert min(found["score"]) < 0.9


def test_what_the_decoder_reads_is_what_was_written_before(tmp_path: Path) -> None:
    model, batch = translator_and_batch(tmp_path)
    outputs = model(batch)
    sides = model.aligned_tokens(outputs, batch)
    assert ["".join(own) for own in sides.targets] == decoded(model, batch)["prediction"]
    assert [len(own) for own in sides.sources] == [len(own) for own in sides.targets]
    assert sides.decoder_ids[:, 0].tolist() == [model.network.target.start_id] * len(sides.targets)
    longest = max(range(len(sides.targets)), key=lambda row: len(sides.targets[row]))
    read = [model.table.written[number] for number in sides.decoder_ids[longest, 1:].tolist()]
    assert read == sides.targets[longest][:-1]
    attention = model.network.attention(outputs.memory, sides.decoder_ids)
    assert attention.shape == (*sides.decoder_ids.shape, batch["input_ids"].shape[1])


def test_training_can_read_its_own_characters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, batch = translator_and_batch(tmp_path)
    model = TestPinyinTranslator().experiment(tmp_path, "--trainer.max_steps=1", "--model.network.dropout=0").model
    losses = []
    for fraction in (1.0, 0.0):
        monkeypatch.setattr(TeacherForcingConfig, "current", lambda *_, own=fraction: own)
        losses.append(model.train().loss(model(batch), batch)[0].item())
    assert losses[0] != losses[1]


def test_a_network_with_tokens_of_its_own_is_refused(tmp_path: Path) -> None:
    network = ["--model.network=PretrainedSeq2SeqConfig", "--model.network.checkpoint=somewhere"]
    settings = ["--model=PinyinTranslator", *network, *pinyin.write_sentences(tmp_path), "--trainer.max_steps=1"]
    with pytest.raises(ConfigError, match="the tokens of its own tokenizer, and pinyin is syllables"):
        build(parse(settings), "fit")
