"""The characters of words: which are learned, what an example stores of them, and how words become a batch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightrail.datamodules.base import DataModule, Split
from lightrail.datamodules.batches.spelling import Speller
from lightrail.datamodules.entities import EntityData
from lightrail.datamodules.reading import Row
from lightrail.datamodules.text_classification import TextClassificationData
from lightrail.project.basics.errors import ConfigError
from lightrail.project.basics.tokens.tokenizing import load_tokenizer
from tests.support.tasks.entities import write_entities
from tests.support.tasks.text_classification import write_texts

PAIRS = "first,second,label\nBig Ape,ape,+\nbig,bat big,-\nape bat,Big,+\nbat,bat,-\n"


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LIGHTRAIL_CACHE", str(tmp_path / "cache"))


def words_of(data: DataModule, split: Split = "train", most: int = 99) -> list[list[str]]:
    """Collate the first rows of a split, and return the words at each position as their characters spell them."""
    dataset = data.dataset(split)
    batch = data.collate([{**dataset.row(number), "id": number} for number in range(min(most, len(dataset)))])
    assert batch["word_ids"].shape == batch["input_ids"].shape
    characters = ["", "?", *data.facts()["alphabet"]]
    words = ["".join(characters[number] for number in word) for word in batch["character_ids"].tolist()]
    assert words[0] == ""
    assert len(set(words)) == len(words)
    return [[words[number] for number in row] for row in batch["word_ids"].tolist()]


def classification(folder: Path, content: str, **settings: Any) -> TextClassificationData:
    (folder / "texts.csv").write_text(content)
    path = str(folder / "texts.csv")
    own = {"tokenizer": "words", "min_count": 1, "characters_per_word": 9, **settings}
    data = TextClassificationData(path, validation_path=path, test_path=path, **own)
    data.setup("fit")
    return data


def test_words_keep_their_case_and_unknown_ones_their_characters(tmp_path: Path) -> None:
    data = classification(tmp_path, "text,label\nBig big ape,+\nApe bit z,-\n", min_count=2)
    assert data.facts()["vocabulary"] == ["ape", "big"]
    assert data.facts()["alphabet"] == ["i", "b", "e", "g", "p"]
    assert words_of(data) == [["?ig", "big", "?pe"], ["?pe", "bi?", "?"]]


def test_the_separator_of_a_pair_has_no_characters(tmp_path: Path) -> None:
    data = classification(tmp_path, PAIRS, text_column="first", pair_column="second", max_length=4)
    assert words_of(data, most=2) == [["Big", "Ape", "", "ape"], ["big", "", "bat", "big"]]


@pytest.mark.parametrize("truncation", ["head", "tail", "head_tail", "windows"])
def test_characters_are_those_of_the_tokens_however_a_text_is_cut(tmp_path: Path, truncation: Any) -> None:
    text = " ".join("abcdefghij")
    data = classification(tmp_path, f"text,label\n{text},+\na,-\n", truncation=truncation, max_length=4)
    batch = data.collate([{**data.dataset("train").row(number), "id": number} for number in range(2)])
    tokens = ["", "", *data.facts()["vocabulary"]]
    assert words_of(data) == [[tokens[number] for number in row] for row in batch["input_ids"].tolist()]


def test_a_text_without_a_word_has_an_empty_one(tmp_path: Path) -> None:
    data = classification(tmp_path, "text,label\nape,+\nbig,-\n")
    layout = data.encode(Row({"text": " ", "label": None}, "texts.csv", 1), data.facts())
    assert layout["word_ids"].tolist() == [0]
    assert layout["word_lengths"].tolist() == [0]


def test_units_of_a_long_sentence_have_their_characters_in_every_window(tmp_path: Path) -> None:
    path = write_entities(tmp_path)[2].partition("=")[2]
    data = EntityData(
        path, validation_path=path, test_path=path, units="words", min_count=1, max_length=5, characters_per_word=3
    )
    data.setup("fit")
    words = words_of(data)
    assert ["acm", "of", "pas", "bot", "ban"] not in words  # a long word keeps its begin and its end
    assert ["ame", "of", "pis", "bht", "bnk"] in words


def test_a_word_whose_capital_is_longer_in_lower_case_is_spelled_in_lower_case() -> None:
    tokenizer = load_tokenizer("words", lower_case=True)
    spelled: list[str] = tokenizer.spelled("İstanbul Ape")  # type: ignore[attr-defined]
    assert spelled == tokenizer.split("İstanbul Ape")
    assert tokenizer.spelled("Istanbul Ape") == ["Istanbul", "Ape"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("most", "alphabet"), [(0, ["a"]), (3, None)])
def test_a_model_reads_characters_as_in_training(most: int, alphabet: list[str] | None) -> None:
    with pytest.raises(ConfigError, match=rf"data\.characters_per_word is {most}, and the model was trained with"):
        Speller(most).columns([["a"]], alphabet, lambda texts: np.array(texts[0], np.int32))


def test_settings_without_words_are_refused(tmp_path: Path) -> None:
    path = write_texts(tmp_path)[2].partition("=")[2]
    with pytest.raises(ConfigError, match=r"data\.tokenizer is 'subwords': only words .*Set data\.tokenizer to words"):
        TextClassificationData(path, tokenizer="subwords", characters_per_word=9)
    with pytest.raises(ConfigError, match=r"data\.units is 'characters': .*Set data\.units to words"):
        EntityData(path, characters_per_word=9)
    with pytest.raises(ConfigError, match=r"data\.tokenizer is 'bert': .*Set data\.tokenizer to units"):
        EntityData(path, units="words", tokenizer="bert", characters_per_word=9)


def test_without_characters_the_stored_rows_and_their_key_are_as_before(tmp_path: Path) -> None:
    data = classification(tmp_path, "text,label\nape,+\nbig,-\n", characters_per_word=0)
    assert "alphabet" not in data.facts()
    assert "characters_per_word" not in data.settings()
    assert data.rows("train").columns == ["input_ids", "num_tokens", "text", "label", "file", "line"]


def test_a_cache_without_an_alphabet_serves_a_model_without_characters(tmp_path: Path) -> None:
    data = classification(tmp_path, "text,label\nape,+\nbig,-\n", characters_per_word=0)
    again = TextClassificationData(
        data.path, validation_path=data.path, test_path=data.path, tokenizer="words", min_count=1
    )
    again.adopt({**data.facts(), "alphabet": None})
    again.setup("fit")
    assert again.rows("train").folder == data.rows("train").folder
