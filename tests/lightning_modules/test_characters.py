"""Networks over the characters of words: what they compute, and that tasks keep their contract with them."""

import logging
from pathlib import Path

import pytest
import torch

from lightrail.lightning_modules.arguments import from_plain, to_plain
from lightrail.lightning_modules.networks.encoders.characters import (
    CharacterCnn,
    CharacterCnnConfig,
    CharacterEmbedding,
    CharacterLstm,
    CharacterLstmConfig,
    CharactersConfig,
)
from lightrail.lightning_modules.networks.encoders.encoder import Spelling
from lightrail.lightning_modules.networks.encoders.recurrent import LstmConfig
from lightrail.project.basics.errors import ConfigError
from lightrail.testing.contract import Contract, NetworkContract
from tests.support.running import FOUR_STEPS, QUIET, lightrail
from tests.support.tasks import text_classification
from tests.support.tasks.entities import TINY, write_entities
from tests.support.tasks.text_classification import WITHOUT_DROPOUT, write_texts

CNN = CharacterCnnConfig(size=4, width=6)
LSTM = CharacterLstmConfig(size=4, width=6)
KINDS = pytest.mark.parametrize("config", [CNN, LSTM], ids=["cnn", "lstm"])
ALPHABET = list("abcdef")
WORDS = torch.tensor([[0, 0, 0, 0], [2, 0, 0, 0], [3, 4, 5, 2], [7, 1, 0, 0]])


class WithCharacters(Contract):
    __test__ = False

    def without_dropout(self) -> list[str]:
        return [*WITHOUT_DROPOUT, "--model.encoder.characters.dropout=0"]


class TestEntitiesWithACharacterCnnInWindows(WithCharacters, NetworkContract):
    __test__ = True

    def settings(self, folder: Path) -> list[str]:
        network = ["--model.encoder.characters=CharacterCnnConfig", "--model.encoder.characters.width=8"]
        data = ["--data.characters_per_word=4", "--data.max_length=5", "--data.min_count=2"]
        return [*write_entities(folder), *TINY, *network, *data]


class TestTextsWithACharacterLstm(WithCharacters, NetworkContract):
    __test__ = True

    def settings(self, folder: Path) -> list[str]:
        network = ["--model.encoder.characters=CharacterLstmConfig", "--model.encoder.characters.width=8"]
        return [*text_classification.settings(folder), *network, "--data.characters_per_word=12"]


def embedded(config: CharactersConfig, spelling: Spelling) -> torch.Tensor:
    torch.manual_seed(1)
    states: torch.Tensor = CharacterEmbedding(ALPHABET, config, width=5).eval()(spelling)
    return states


@KINDS
def test_a_word_has_the_same_vector_whatever_it_is_batched_with(config: CharactersConfig) -> None:
    together = embedded(config, Spelling(torch.tensor([[1, 2, 3]]), WORDS))[0]
    for number, length in ((1, 1), (2, 4), (3, 2)):
        alone = embedded(config, Spelling(torch.tensor([[0]]), WORDS[number : number + 1, :length]))[0, 0]
        torch.testing.assert_close(together[number - 1], alone)
    assert len({tuple(vector) for vector in together.tolist()}) == 3


@KINDS
def test_a_position_without_a_word_is_zero(config: CharactersConfig) -> None:
    states = embedded(config, Spelling(torch.tensor([[0, 2]]), WORDS))[0]
    assert not states[0].any()
    assert states[1].all()


def test_the_convolution_takes_the_maximum_over_all_that_reads_a_character() -> None:
    network = CharacterCnn(CharacterCnnConfig(size=1, width=1, filter_width=3))
    with torch.no_grad():
        network.filters.weight.copy_(torch.tensor([[[1.0, 10.0, 100.0]]]))
        network.filters.bias.copy_(torch.tensor([0.5]))  # type: ignore[union-attr]
    characters = torch.tensor([[1.0, 2.0, 0.0, 0.0], [-1.0, 0.0, 0.0, 0.0]])[..., None]
    # 0 0 1 / 0 1 2 / 1 2 0 / 2 0 0, and for the second word nothing but negative sums: beyond it is no 0.5
    assert network(characters, torch.tensor([2, 1])).tolist() == [[210.5], [0.0]]


def test_the_lstm_gives_the_last_states_of_both_directions() -> None:
    torch.manual_seed(1)
    network = CharacterLstm(LSTM)
    states = torch.randn(1, 3, 4)
    right = network.layer.rightward(states)[1][0][0]
    left = network.layer.leftward(states.flip(1))[1][0][0]
    padded = torch.cat([states, torch.randn(1, 2, 4)], dim=1)
    torch.testing.assert_close(network(padded, torch.tensor([3])), torch.cat([right, left], dim=1))


def test_unknown_words_differ_by_their_characters() -> None:
    torch.manual_seed(1)
    network = LstmConfig(width=8, characters=CNN).build(["known"], ALPHABET).eval()
    ids, is_token = torch.tensor([[1, 1]]), torch.ones(1, 2, dtype=torch.bool)
    spelling = Spelling(torch.tensor([[2, 3]]), WORDS)
    states = network.embedding(ids, spelling)[0]
    assert not torch.allclose(states[0], states[1])
    plain = LstmConfig(width=8).build(["known"]).eval()
    assert torch.equal(*plain.embedding(ids)[0])
    assert network(ids, is_token, spelling=spelling).shape == (1, 2, 8)


@KINDS
def test_settings_are_kept_in_a_checkpoint(config: CharactersConfig) -> None:
    settings = LstmConfig(width=8, characters=config)
    assert from_plain(to_plain(settings)) == settings


def test_characters_that_the_data_does_not_give_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"encoder\.characters is given.*data\.characters_per_word=24"):
        LstmConfig(width=8, characters=CNN).build(["known"])


def test_characters_that_no_network_reads_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        LstmConfig(width=8).build(["known"], ALPHABET)
    assert "data.characters_per_word is above 0, and nothing reads it" in caplog.text


@pytest.mark.parametrize("command", ["check", "fit"])
def test_a_mismatch_of_network_and_data_is_refused_in_a_line(
    tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    network = "--model.encoder.characters=CharacterCnnConfig"
    done = lightrail(command, *write_texts(tmp_path), "--data.tokenizer=words", network, *FOUR_STEPS, *QUIET)
    assert done.status == 2
    assert "encoder.characters is given, and the data gives no characters of words." in done.err


def test_predicting_without_the_characters_of_training_is_refused(tmp_path: Path) -> None:
    contract = TestTextsWithACharacterLstm()
    contract.fit(tmp_path, "--trainer.max_steps=1", keep=tmp_path / "kept")
    with pytest.raises(ConfigError, match=r"data\.characters_per_word is 0, and the model was trained with"):
        contract.metrics(tmp_path, tmp_path / "kept" / "step=1.ckpt", "--data.characters_per_word=0")
