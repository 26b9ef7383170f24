"""Texts with labels become numbers, masks and label numbers; what cannot is refused by file and line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from lightrail.datamodules.base import ReadingConfig
from lightrail.datamodules.batches.batching import BatchConfig
from lightrail.datamodules.text_classification import TextClassificationData
from lightrail.project.basics.errors import ConfigError, DataError
from tests.support.texts import ready, write_tables, write_word_pieces

TRAIN = [("good film", "pos"), ("a bad film", "neg"), ("good good", "pos"), ("bad", "neg")]


def words_data(folder: Path, train: list[tuple[str, str]] = TRAIN, **settings: Any) -> TextClassificationData:
    arguments = {"tokenizer": "words", "min_count": 1, **settings}
    return ready(TextClassificationData(**write_tables(folder, train=train), **arguments))


def test_vocabulary_and_labels_come_from_the_training_split(tmp_path: Path) -> None:
    data = words_data(tmp_path)
    assert data.facts() == {
        "vocabulary": ["good", "bad", "film", "a"],
        "labels": ["neg", "pos"],
        "label_counts": [2, 2],
        "has_many_labels": False,
    }
    row = data.rows("train").row(1)
    assert np.asarray(row.pop("input_ids")).tolist() == [5, 3, 4]
    assert row == {"num_tokens": 3, "text": "a bad film", "label": 0, "file": 0, "line": 2}


def test_rare_and_surplus_tokens_are_unknown(tmp_path: Path) -> None:
    assert words_data(tmp_path, min_count=2).facts()["vocabulary"] == ["good", "bad", "film"]
    assert words_data(tmp_path, max_vocabulary=1).facts()["vocabulary"] == ["good"]


def test_a_batch_is_padded_and_masked(tmp_path: Path) -> None:
    data = words_data(tmp_path, batch=BatchConfig(size=4))
    rows = [{**data.rows("train").row(number), "id": number} for number in (1, 3)]
    batch = data.collate(rows)
    assert batch["input_ids"].tolist() == [[5, 3, 4], [3, 0, 0]]
    assert batch["attention_mask"].tolist() == [[True, True, True], [True, False, False]]
    assert batch["labels"].tolist() == [0, 0]
    assert (batch["id"], batch["text"]) == ([1, 3], ["a bad film", "bad"])
    assert (batch["num_tokens"], batch["num_targets"]) == (4, 2)


def test_long_texts_are_cut_counted_and_reported(tmp_path: Path) -> None:
    data = words_data(tmp_path, max_length=2)
    row = data.rows("train").row(1)
    assert np.asarray(row["input_ids"]).tolist() == [5, 3]
    assert row["num_tokens"] == 3
    report = data.report()
    assert report.splits[0].lengths.tolist() == [2, 3, 2, 1]
    assert report.splits[0].label_counts == {"pos": 2, "neg": 2}
    assert "Cut at 2 tokens: 25.0 % of train rows (12.5 % of all tokens)" in " ".join(report.render().split())


def test_equal_texts_with_different_labels_are_reported(tmp_path: Path) -> None:
    page = words_data(tmp_path, [*TRAIN, ("bad", "pos")]).report().render()
    assert "train.jsonl:5" in page
    assert "train.jsonl:4" in page


def test_a_label_that_training_never_shows_is_refused(tmp_path: Path) -> None:
    tables = write_tables(tmp_path, train=TRAIN, test=[("film", "pos"), ("film", "psitive")])
    with pytest.raises(
        DataError, match=r"test\.jsonl:2: label 'psitive' is none of the 2 of the training split \(neg, pos\)"
    ):
        ready(TextClassificationData(**tables))


def test_one_label_is_nothing_to_learn(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train\.jsonl: the training split has one label only \(pos\)"):
        words_data(tmp_path, [("a", "pos"), ("b", "pos")])


def test_a_missing_column_is_refused_naming_its_setting(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("sentence,label\na,b\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"no column 'text'.* Set data\.text_column=NAME"):
        ready(TextClassificationData(str(tmp_path / "a.csv")))


@pytest.mark.parametrize("settings", [{"max_length": 0}, {"max_vocabulary": 0}])
def test_sizes_below_one_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"Data\.max_.*: expected a whole number of at least 1, found 0"):
        TextClassificationData("x.csv", **settings)


def test_columns_are_named_by_the_user(tmp_path: Path) -> None:
    file = tmp_path / "all.tsv"
    file.write_text("".join(f"review {number}\t{number % 2}\n" for number in range(60)), encoding="utf-8")
    reading = ReadingConfig(column_names=["review", "stars"])
    data = ready(TextClassificationData(str(file), text_column="review", label_column="stars", reading=reading))
    assert data.facts()["labels"] == ["0", "1"]
    assert sum(len(data.rows(split)) for split in ("train", "validation", "test")) == 60


def test_to_predict_texts_need_no_label_and_get_the_numbers_of_training(tmp_path: Path) -> None:
    trained = words_data(tmp_path)
    (tmp_path / "new.txt").write_text("a good day\n", encoding="utf-8")
    data = TextClassificationData(str(tmp_path / "new.txt"), tokenizer="words")
    data.adopt(trained.facts())
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    assert batch["input_ids"].tolist() == [[5, 2, 1]]
    assert "labels" not in batch
    assert batch["text"] == ["a good day"]


def test_a_hugging_face_tokenizer_brings_its_own_vocabulary(tmp_path: Path) -> None:
    folder = write_word_pieces(tmp_path / "tokenizer", texts=[text for text, _ in TRAIN])
    data = words_data(tmp_path, tokenizer=folder, max_length=4)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    assert (data.facts()["vocabulary"], data.facts()["labels"]) == ([], ["neg", "pos"])
    for number, (text, _) in enumerate(TRAIN):
        row = data.rows("train").row(number)
        assert np.asarray(row["input_ids"]).tolist() == tokenizer.encode(text, truncation=True, max_length=4)
        assert row["num_tokens"] == len(tokenizer.encode(text))
    batch = data.collate([{**data.rows("train").row(number), "id": number} for number in (0, 3)])
    expected = tokenizer(["good film", "bad"], padding=True)
    assert batch["input_ids"].tolist() == expected["input_ids"]
    assert batch["attention_mask"].long().tolist() == expected["attention_mask"]


def test_another_tokenizer_in_the_same_folder_is_encoded_again(tmp_path: Path) -> None:
    folder = write_word_pieces(tmp_path / "tokenizer", texts=["good film bad"])
    before = words_data(tmp_path, tokenizer=folder).rows("train").folder
    write_word_pieces(tmp_path / "tokenizer", texts=["something else"])
    assert words_data(tmp_path, tokenizer=folder).rows("train").folder != before
