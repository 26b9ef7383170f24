"""Models that find a sentence by beam search: the network, the n-grams, and both together."""

import math
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightrail.lightning_modules.networks.ngrams.estimation import estimate
from lightrail.lightning_modules.pinyin import ngram
from lightrail.lightning_modules.pinyin.conversion_head import Read
from lightrail.lightning_modules.pinyin.converter import PinyinConverter
from lightrail.lightning_modules.pinyin.fusion import PinyinFusion
from lightrail.lightning_modules.pinyin.history import History, HistoryConfig
from lightrail.lightning_modules.pinyin.ngram import PinyinNgram
from lightrail.lightning_modules.pinyin.search import BeamConfig, search, table_step
from lightrail.project.basics.errors import ConfigError
from lightrail.testing.contract import NetworkContract, TaskContract, decoded, first_batch
from tests.support.tasks import pinyin

Converter = PinyinConverter | PinyinNgram | PinyinFusion
EXACT = ["--model.beams.num_beams=4096", "--model.beams.max_gap=1000"]


class TestPinyinConverter(TaskContract):
    def settings(self, folder: Path) -> list[str]:
        return [*pinyin.CONVERTER, *pinyin.write_sentences(folder)]

    def without_dropout(self) -> list[str]:
        return ["--model.encoder.dropout=0", "--model.encoder.ngram_dropout=0", "--model.history.dropout=0"]


class Ngrams(NetworkContract):
    """For their checkpoints; what the contract says of gradients is not true of counts."""

    __test__ = False

    def settings(self, folder: Path) -> list[str]:
        return [*pinyin.NGRAM, *pinyin.write_sentences(folder)]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a checkpoint of the network, and one of n-grams of the same data."""
    folder = tmp_path_factory.mktemp("parts")
    network, ngrams = folder / "network", folder / "ngrams"
    for own in (network, ngrams):
        own.mkdir()
    TestPinyinConverter().fit(network, "--trainer.max_steps=3", "--data.batch.size=4", keep=network / "kept")
    Ngrams().fit(ngrams, "--data.batch.size=4", keep=ngrams / "kept")
    return network / "kept" / "step=3.ckpt", ngrams / "kept" / "step=2.ckpt"


def fused(folder: Path, parts: tuple[Path, Path], *more: str) -> list[str]:
    paths = [f"--model.{name}.path={path}" for name, path in zip(("first", "second"), parts, strict=True)]
    return ["--model=PinyinFusion", *paths, *pinyin.write_sentences(folder), "--trainer.max_steps=1", *more]


class Fusion(NetworkContract):
    __test__ = False
    parts: tuple[Path, Path]

    def settings(self, folder: Path) -> list[str]:
        return fused(folder, self.parts)


def read(model: Converter, batch: dict[str, Any]) -> Read:
    with torch.no_grad():
        outputs: Read = model.eval()(batch)
    return outputs


def model_and_batch(kind: str, folder: Path, parts: tuple[Path, Path], *more: str) -> tuple[Converter, dict[str, Any]]:
    """Return a trained model with a search that leaves nothing out, and its test split as a batch."""
    contract = {"network": TestPinyinConverter, "ngrams": Ngrams}.get(kind)
    if contract is not None:
        checkpoint = parts[0] if kind == "network" else parts[1]
        experiment = contract().experiment(folder, "--trainer.max_steps=1", *EXACT, *more, checkpoint=checkpoint)
    else:
        own = Fusion()
        own.parts = parts
        experiment = own.experiment(folder, *EXACT, *more)
    assert isinstance(experiment.model, Converter)
    return experiment.model, first_batch(experiment)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["network", "ngrams", "fusion"])
def test_a_wide_search_finds_the_sentence_that_scores_best_of_all(
    tmp_path: Path, parts: tuple[Path, Path], kind: str
) -> None:
    model, batch = model_and_batch(kind, tmp_path, parts)
    table = model.table
    outputs = read(model, batch)
    wide = BeamConfig(num_beams=4096, max_gap=1000.0, num_fused=64)
    found = search(table, batch, outputs.followers(), wide, 2)
    number = max(range(len(found)), key=lambda own: (len(found[own]), -len(batch["tokens"][own])))
    tokens = batch["input_ids"][number][: len(batch["tokens"][number])].tolist()
    choices = [table.choices[token][: max(1, int(table.num_candidates[token]))].tolist() for token in tokens]
    every = sorted((scored(model, outputs, batch, number, list(ids)) for ids in product(*choices)), reverse=True)
    assert [own.log_probability for own in found[number]] == pytest.approx(every[:2], abs=1e-3)
    assert len(every) >= 2


def scored(model: Converter, outputs: Read, batch: dict[str, Any], number: int, ids: list[int]) -> float:
    """Return the log probability of one sentence of an example, followed alone."""
    tokens = batch["input_ids"][number : number + 1, : len(ids)]
    total, row = 0.0, torch.full((1,), number)
    followers = outputs.followers()
    for _, follower in followers:
        follower.select(row)
    for place, (token, written) in enumerate(zip(tokens[0].tolist(), ids, strict=True)):
        most = max(1, int(model.table.num_candidates[token]))
        step = table_step(model.table, place, row, torch.tensor([token]), most)
        column = step.choices[0].tolist().index(written)
        for weight, follower in followers:
            total += weight * float(follower.score(step)[0, column])
            follower.follow(torch.zeros(1, dtype=torch.int64), torch.tensor([written]))
    return total


@torch.no_grad()
@pytest.mark.parametrize("kind", ["network", "ngrams", "fusion"])
def test_the_loss_is_that_of_the_expected_characters_behind_each_other(
    tmp_path: Path, parts: tuple[Path, Path], kind: str
) -> None:
    """A search scores what training scored: among the candidates of its syllable, each behind those before it."""
    model, batch = model_and_batch(kind, tmp_path, parts)
    outputs = read(model, batch)
    assert outputs.readings is not None
    expected = model.table.expected(batch)
    nats, place = outputs.readings.per_sentence(outputs.readings.losses(batch["labels"]))[0], 0
    followers, row = outputs.followers(), torch.zeros(1, dtype=torch.int64)
    for _, follower in followers:
        follower.select(row)
    for number, token in enumerate(batch["input_ids"][0][: int(batch["attention_mask"][0].sum())].tolist()):
        most = max(1, int(model.table.num_candidates[token]))
        step = table_step(model.table, number, row, torch.tensor([token]), most)
        scores = sum(weight * follower.score(step)[0].log_softmax(0) for weight, follower in followers)
        assert isinstance(scores, torch.Tensor)
        if int(model.table.num_candidates[token]):
            label = int(batch["labels"][0, number])
            if label >= 0:
                assert -float(scores.log_softmax(0)[label]) == pytest.approx(nats[place], abs=1e-4)
            place += 1
        for _, follower in followers:
            follower.follow(row, expected[:1, number])
    assert place == len(nats)


def test_a_fusion_restores_without_the_files_of_its_parts(tmp_path: Path, parts: tuple[Path, Path]) -> None:
    own = Fusion()
    own.parts = parts
    trained = own.fit(tmp_path, keep=tmp_path / "kept").eval()
    restored = PinyinFusion.load_from_checkpoint(tmp_path / "kept" / "step=1.ckpt").eval()
    batch = first_batch(own.experiment(tmp_path))
    assert decoded(restored, batch) == decoded(trained, batch)
    assert restored.hparams["first"].path is None
    counted = PinyinNgram.load_from_checkpoint(parts[1])
    counted.eval()(batch)  # estimates
    for name, table in counted.ngrams.named_buffers():
        assert torch.equal(restored.state_dict()[f"second.ngrams.{name}"], table)
    assert {name for name, own in restored.named_parameters() if own.requires_grad} == {"scale"}


def test_a_weight_of_zero_or_one_is_one_model_alone(tmp_path: Path, parts: tuple[Path, Path]) -> None:
    own = Fusion()
    own.parts = parts
    for weight, kind in ((0.0, "network"), (1.0, "ngrams")):
        both = own.experiment(tmp_path, f"--model.weight={weight}", "--model.beams.num_fused=64").model.eval()
        alone, batch = model_and_batch(kind, tmp_path, parts)
        assert decoded(both, batch)["prediction"] == decoded(alone.eval(), batch)["prediction"]


def test_the_weight_with_the_fewest_wrong_characters_is_chosen(tmp_path: Path, parts: tuple[Path, Path]) -> None:
    own = Fusion()
    own.parts = parts
    model = own.experiment(tmp_path).model
    assert isinstance(model, PinyinFusion)
    # The first model prefers the wrong sentence by 1 nat, the second the right one by 4: right from a weight of 0.2 on.
    rows = [(torch.tensor([[-1.0, -5.0], [-2.0, -1.0]]), torch.tensor([2, 0]), 1)]
    # And this one is wrong from a weight of 0.5 on.
    rows += [(torch.tensor([[-1.0, -3.0], [-2.0, -1.9]]), torch.tensor([0, 1]), 0)]
    metrics = model.head.calibrate(rows)
    assert 0.2 < metrics["calibration/weight"] < 0.5
    assert float(model.head.chosen_weight) == pytest.approx(metrics["calibration/weight"])
    assert metrics["calibration/coverage"] == 1


def test_a_fusion_is_calibrated_on_the_sentences_that_it_predicts(tmp_path: Path, parts: tuple[Path, Path]) -> None:
    """What is right behind the first five counts as not found: such a prediction does not have it."""
    own = Fusion()
    own.parts = parts
    model = own.experiment(tmp_path).model
    assert isinstance(model, PinyinFusion)
    logs = -torch.arange(8.0)[:, None].expand(-1, 2)
    metrics = model.head.calibrate([(logs, torch.arange(8), 0), (logs, torch.arange(8), 6)])
    assert metrics["calibration/coverage"] == 0.5


def test_parts_of_other_data_are_refused(tmp_path: Path, parts: tuple[Path, Path]) -> None:
    own = Fusion()
    own.parts = parts
    with pytest.raises(ConfigError, match=r"model\.first\.path=.* was trained on other data"):
        own.experiment(tmp_path, "--data.max_other=0")
    with pytest.raises(ConfigError, match=r"model\.second\.path='nosuch': there is no such file or folder"):
        own.experiment(tmp_path, "--model.second.path=nosuch")
    with pytest.raises(ConfigError, match=r"model\.first\.path is null"):
        own.experiment(tmp_path, "--model.first.path=null")


def test_probabilities_of_sentences_are_calibrated(tmp_path: Path, parts: tuple[Path, Path]) -> None:
    """Where the likelier of two sentences is right in 3 of 4 examples, it gets 3 of 4 parts of what is covered."""
    model, _ = model_and_batch("network", tmp_path, parts)
    logs = torch.tensor([-1.0, -11.0])
    model.head.calibrate([(logs, 0)] * 3 + [(logs, 1)] + [(logs, -1)])
    assert model.head.probabilities(logs.tolist()) == pytest.approx([0.6, 0.2], abs=0.02)
    assert math.isclose(float(model.head.coverage), 0.8, abs_tol=1e-6)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_counting_that_is_interrupted_and_extended_ends_with_the_same_probabilities(tmp_path: Path) -> None:
    """Validations in the middle of an epoch, a run that ends there, and one that continues from its checkpoint."""
    often = ["--data.batch.size=2", "--trainer.val_check_interval=1"]
    whole = Ngrams().fit(tmp_path, *often)
    (tmp_path / "stopped").mkdir()
    Ngrams().fit(tmp_path / "stopped", *often, "--trainer.max_steps=2", keep=tmp_path / "kept")
    experiment = Ngrams().experiment(tmp_path, *often, "--trainer.enable_checkpointing=false")
    checkpoint = tmp_path / "kept" / "step=2.ckpt"
    experiment.trainer.fit(experiment.model, datamodule=experiment.data, ckpt_path=checkpoint, weights_only=True)
    found = experiment.model.state_dict()
    assert int(found["num_estimated"]) > int(torch.load(checkpoint, weights_only=True)["state_dict"]["num_estimated"])
    for name, expected in whole.state_dict().items():
        torch.testing.assert_close(found[name], expected, msg=name)


def test_probabilities_are_estimated_once_for_what_was_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for each batch of an evaluation."""
    calls = list[int]()

    def counted(tokens: Any, *given: Any) -> Any:
        calls.append(len(tokens))
        return estimate(tokens, *given)

    monkeypatch.setattr(ngram, "estimate", counted)
    Ngrams().fit(tmp_path, "--data.batch.size=2", "--trainer.val_check_interval=2")
    assert len(calls) == 2
    assert calls[0] < calls[1]


@pytest.mark.parametrize(
    ("before", "ahead", "expected"),
    [
        ([5, 6, 9], [1, 2, 3], {(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (3, 1)}),
        ([5, 9, 7], [1, 2, 3], {(2, 1), (2, 2), (3, 1)}),
        ([9, 6, 7], [1, 2, 3], {(3, 1)}),
        ([5, 6, 7], [9, 2, 3], {(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (3, 1)}),
        ([5, 6, 7], [1, 9, 3], {(1, 2), (1, 3), (2, 2)}),
        ([5, 6, 7], [1, 2, 9], {(1, 3)}),
    ],
)
def test_a_hashed_vector_is_of_the_last_characters_and_the_next_syllables(
    before: list[int], ahead: list[int], expected: set[tuple[int, int]]
) -> None:
    history, rows = History([""] * 10, [], 4, HistoryConfig(buckets=2**20, width=2)), list[Tensor]()
    history.hashed.register_forward_hook(lambda _, given, __: rows.append(given[0][0]))
    for own in (([5, 6, 7], [1, 2, 3]), (before, ahead)):
        history(*(torch.tensor([part]) for part in own))
    changed = (rows[0] != rows[1]).tolist()
    assert {part for part, is_changed in zip(history.parts, changed, strict=True) if is_changed} == expected
