"""Files as people have them, texts with many labels, pairs and long texts, each as far as the batch."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from lightrail.datamodules.base import ReadingConfig, SplitConfig
from lightrail.datamodules.batches.batching import BatchConfig
from lightrail.datamodules.reading import read_rows
from lightrail.datamodules.text_classification import TextClassificationData
from lightrail.project.basics.errors import ConfigError, DataError
from tests.support.texts import ready, write_tables, write_word_pieces

Write = Callable[[str, str | bytes], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(name: str, content: str | bytes) -> str:
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return str(tmp_path / name)

    return write_file


def loaded(path: str, **settings: Any) -> TextClassificationData:
    """The same file is training, validation and test data."""
    own = {"tokenizer": "words", "min_count": 1, **settings}
    return ready(TextClassificationData(path, validation_path=path, test_path=path, **own))


def stored(data: TextClassificationData) -> list[tuple[str, str]]:
    rows = data.rows("train")
    labels = data.facts()["labels"]
    cells = [rows.row(number) for number in range(len(rows))]
    return [(str(cell["text"]), labels[cell["label"]]) for cell in cells]


def batch_of(data: TextClassificationData) -> dict[str, Any]:
    rows = data.rows("train")
    return data.collate([{**rows.row(number), "id": number} for number in range(len(rows))])


# Files


def test_question_types_in_latin_1_are_read_label_first(write: Write) -> None:
    lines = b"DESC:manner How did Cura\xe7ao develop ?\r\nNUM  When , exactly ?\r\n\r\nNUM How far\tis it ? \n"
    reading = ReadingConfig(file_format="labelled", encoding="latin-1")
    assert stored(loaded(write("TREC.train.all", lines), reading=reading)) == [
        ("How did Curaçao develop ?", "DESC:manner"),
        ("When , exactly ?", "NUM"),
        ("How far\tis it ?", "NUM"),
    ]


def test_lines_of_fasttext_may_have_several_labels_or_none(write: Write) -> None:
    path = write("a.txt", "__label__a __label__b both of them\n__label__b one\nno label at all\n__label__b\n")
    rows = list(read_rows(path, columns=["label", "text"], file_format="labelled", empty="keep"))
    assert [(row.values["label"], row.values["text"], row.line) for row in rows] == [
        (["a", "b"], "both of them", 1),
        ("b", "one", 2),
        ([], "no label at all", 3),
        ("b", "", 4),
    ]


def test_a_label_without_a_text_is_refused(write: Write) -> None:
    with pytest.raises(
        DataError, match=r"a\.txt:2: 'NUM' is a label without a text, or a text without a label\. Write LABEL TEXT"
    ):
        list(read_rows(write("a.txt", "NUM How far\nNUM\n"), columns=["label"], file_format="labelled"))


def test_quotes_byte_order_marks_line_ends_and_empty_lines_change_no_text(write: Write) -> None:
    content = '\ufefftext\tlabel\r\n"it is\tgood\r\n\r\nsays "so"\tbad\r\n\'tis"\tgood\r\n'
    assert stored(loaded(write("a.tsv", content))) == [('"it is', "good"), ('says "so"', "bad"), ("'tis\"", "good")]


def test_full_width_forms_stay_as_they_are_and_repeat_what_they_stand_for(write: Write) -> None:
    path = write("a.csv", "text,label\nＧＤＰ　growth,a\nGDP growth,a\nother,b\n")
    data = loaded(path)
    assert stored(data)[0] == ("ＧＤＰ　growth", "a")
    assert data.facts()["vocabulary"] == ["growth", "gdp", "other", "ｇｄｐ"]
    assert "1 of 3 (33.3 %) train rows repeat an earlier text" in " ".join(data.report().render().split())


@pytest.mark.parametrize("tokenizer", ["characters", "words", "subwords"])
def test_a_line_of_ten_thousand_characters_is_read_whole_and_cut(
    write: Write, tokenizer: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = write("a.tsv", "text\tlabel\n" + "好 " * 5000 + "\ta\nshort\tb\n")
    with caplog.at_level("INFO"):
        data = loaded(path, tokenizer=tokenizer, max_length=64)
    row = data.rows("train").row(0)
    assert (row["num_tokens"], len(np.asarray(row["input_ids"]))) == (5000, 64)
    assert "train: 50.0 % of the texts are longer than 64 tokens and are cut (head)" in caplog.text


# Many labels


def test_any_number_of_labels_becomes_ones_among_zeros(write: Write) -> None:
    data = loaded(write("a.csv", "text,label\nx,b| a\ny,\nz,a|a|\n"), has_many_labels=True)
    assert data.facts()["labels"] == ["a", "b"]
    assert (data.facts()["label_counts"], data.facts()["has_many_labels"]) == ([2, 1], True)
    batch = batch_of(data)
    assert batch["labels"].tolist() == [[1.0, 1.0], [0.0, 0.0], [1.0, 0.0]]
    assert batch["num_targets"] == 3


def test_lists_are_labels_as_they_are_and_other_separators_can_be_named(write: Write) -> None:
    rows = [{"text": "x", "label": ["a,b", 3]}, {"text": "y", "label": []}, {"text": "z", "label": None}]
    path = write("a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert loaded(path, has_many_labels=True).facts()["labels"] == ["3", "a,b"]
    commas = write("b.tsv", "text\tlabel\nx\ta,b\n")
    assert loaded(commas, has_many_labels=True, label_separator=",").facts()["labels"] == ["a", "b"]


def test_a_label_with_the_sign_that_separates_answers_is_refused(write: Write) -> None:
    path = write("a.jsonl", json.dumps({"text": "x", "label": ["a|b"]}) + "\n")
    with pytest.raises(DataError, match=r"a\.jsonl:1: label 'a\|b' contains"):
        loaded(path, has_many_labels=True).facts()


def test_the_report_counts_labels_and_finds_sets_that_differ(write: Write) -> None:
    data = loaded(write("a.csv", "text,label\nx,b|a\nx,a|b\ny,a\ny,\n"), has_many_labels=True)
    report = data.report()
    assert report.splits[0].label_counts == {"a": 3, "b": 2}
    page = "\n".join(finding.message for finding in report.findings)
    assert "train rows have 1.25 labels on average and 2 at most; 1 of 4 (25.0 %) have none" in page
    assert "1 of 4 (25.0 %) train rows give an earlier text another label" in page


def test_one_label_each_refuses_lists_and_empty_cells(write: Write) -> None:
    with pytest.raises(DataError, match=r"a\.jsonl:1: 2 labels in a list \(a, b\), expected one\. Set data\.has_many"):
        loaded(write("a.jsonl", '{"text": "x", "label": ["a", "b"]}\n'))
    with pytest.raises(DataError, match=r"a\.csv:3: 'label' is empty"):
        loaded(write("a.csv", "text,label\nx,a\ny,\n"))
    with pytest.raises(DataError, match=r"b\.csv: the training split has no label"):
        loaded(write("b.csv", "text,label\nx,\ny,\n"), has_many_labels=True)


def test_a_label_of_many_that_training_never_shows_is_refused(tmp_path: Path) -> None:
    tables = write_tables(tmp_path, train=[("x", "a|b")], validation=[("x", "a")], test=[("x", "a|c")])
    with pytest.raises(DataError, match=r"test\.jsonl:1: label 'c' is none of the 2"):
        ready(TextClassificationData(**tables, has_many_labels=True))


def test_to_predict_texts_with_many_labels_need_none(write: Write) -> None:
    trained = loaded(write("a.csv", "text,label\nx,b|a\n"), has_many_labels=True)
    data = TextClassificationData(write("new.txt", "x y\n"), tokenizer="words", has_many_labels=True)
    data.adopt({name: trained.facts()[name] for name in ("vocabulary", "labels")})
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    assert batch["input_ids"].tolist() == [[2, 1]]
    assert "labels" not in batch


# Pairs


PAIRS = "first,second,label\na b,b c,yes\na,a d,no\n"
PAIR_COLUMNS: dict[str, Any] = {"text_column": "first", "pair_column": "second"}


def test_the_texts_of_a_pair_stand_beside_a_separator(write: Write) -> None:
    data = loaded(write("a.csv", PAIRS), **PAIR_COLUMNS)
    assert data.facts()["vocabulary"] == ["[SEP]", "a", "b", "c", "d"]
    batch = batch_of(data)
    assert batch["input_ids"].tolist() == [[3, 4, 2, 4, 5], [3, 2, 3, 6, 0]]
    assert batch["text"] == ["a b ||| b c", "a ||| a d"]
    assert "segment_ids" not in batch


def test_a_pair_repeats_only_where_both_texts_do(write: Write) -> None:
    train = write("train.csv", PAIRS + "a,b c,no\na b,e,yes\n")
    other, test = write("other.csv", "first,second,label\nx,y,no\n"), write("test.csv", PAIRS)
    split = SplitConfig(drop_repeats=True)
    data = TextClassificationData(train, validation_path=other, test_path=test, **PAIR_COLUMNS, split=split)
    assert [text for text, _ in stored(ready(data))] == ["a ||| b c", "a b ||| e"]


def test_a_hugging_face_tokenizer_reads_both_texts_of_a_pair(write: Write, tmp_path: Path) -> None:
    folder = write_word_pieces(tmp_path / "pieces")
    pair = PreTrainedTokenizerFast.from_pretrained(folder, model_input_names=["input_ids", "token_type_ids"])
    pair.save_pretrained(folder)
    texts = ("low new", "newest"), ("low", "lower")
    path = write("a.jsonl", "".join(json.dumps({"first": a, "second": b, "label": a}) + "\n" for a, b in texts))
    batch = batch_of(loaded(path, **PAIR_COLUMNS, tokenizer=folder, max_length=6))
    expected = pair([a for a, _ in texts], [b for _, b in texts], padding=True, truncation=True, max_length=6)
    assert batch["input_ids"].tolist() == expected["input_ids"]
    assert batch["segment_ids"].tolist() == expected["token_type_ids"]


def test_pairs_in_windows_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.truncation=windows reads one text, not a pair"):
        TextClassificationData("x.csv", pair_column="second", truncation="windows")


# Long texts


@pytest.mark.parametrize(
    ("truncation", "expected"),
    [("head", [2, 3, 4, 5, 6]), ("tail", [7, 8, 9, 10, 11]), ("head_tail", [2, 3, 9, 10, 11])],
)
def test_what_is_kept_of_a_long_text_is_chosen(write: Write, truncation: str, expected: list[int]) -> None:
    path = write("a.csv", "text,label\na b c d e f g h i j,x\na,y\n")
    batch = batch_of(loaded(path, max_length=5, truncation=truncation))
    assert batch["input_ids"].tolist() == [expected, [2, 0, 0, 0, 0]]


def test_windows_of_a_batch_know_their_text(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    path = write("a.csv", "text,label\na,x\na b c d e f g,y\na b c d,x\n")
    with caplog.at_level("INFO"):
        data = loaded(path, max_length=4, truncation="windows", batch=BatchConfig(size=None, max_tokens=8))
    batch = batch_of(data)
    assert batch["input_ids"].tolist() == [[2, 0, 0, 0], [2, 3, 4, 5], [5, 6, 7, 8], [2, 3, 4, 5]]
    assert batch["text_of_window"].tolist() == [0, 1, 1, 2]
    assert batch["attention_mask"].sum(1).tolist() == [1, 4, 4, 4]
    assert (batch["num_tokens"], len(batch["labels"]), len(batch["text"])) == (13, 3, 3)
    assert (
        "33.3 % of the texts are longer than 4 tokens and are read in windows, 1.33 per text on average" in caplog.text
    )
    sizes = [np.prod(shown["input_ids"].shape) for shown in data.test_dataloader()]
    assert max(sizes) <= 8  # the budget counts the positions of all windows
    alone = data.collate([{**data.rows("train").row(0), "id": 0}])
    assert "text_of_window" not in alone
    page = " ".join(data.report().render().split())
    assert "1 of 3 (33.3 %) train texts are longer than a window and are read in several, 1.33 per text" in page
    assert "Cut at" not in page


def test_each_window_of_a_hugging_face_tokenizer_is_framed(write: Write, tmp_path: Path) -> None:
    folder = write_word_pieces(tmp_path / "pieces")
    path = write("a.csv", "text,label\n" + "low " * 9 + ",x\nnew,y\n")
    batch = batch_of(loaded(path, tokenizer=folder, max_length=6, truncation="windows"))
    begin, end = 2, 3
    windows = batch["input_ids"][batch["text_of_window"] == 0]
    assert len(windows) == 3
    assert windows[:, 0].tolist() == [begin] * 3
    assert windows[:, -1].tolist() == [end] * 3


def test_advice_names_settings_that_there_are(write: Write) -> None:
    rows = "".join(f"long text number {number},{'rare' if number < 2 else 'common'}\n" for number in range(40))
    path = write("a.csv", f"text,label\n{rows}")
    page = " ".join(loaded(path, max_length=3).report().render().split())
    assert "data.max_length=4 would cut 1 % of the rows at most, or set data.truncation to head_tail or windows" in page
    assert (
        "or set model.loss.class_weights=balanced, data.sampling.method=oversample or model.loss.focal_gamma=2" in page
    )
    page = " ".join(loaded(path, has_many_labels=True).report().render().split())
    assert "or set model.loss.class_weights=balanced or model.loss.focal_gamma=2" in page
