"""Odd contents of files of every format: read as meant, or refused with the reason and the way out."""

import contextlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest

from lightrail.datamodules.base import DataModule, ReadingConfig, SplitConfig
from lightrail.datamodules.batches.packing import pack
from lightrail.datamodules.causal_lm import CausalLMData
from lightrail.datamodules.corpus.files import SourceConfig
from lightrail.datamodules.entities import EntityData
from lightrail.datamodules.pinyin import PinyinData
from lightrail.datamodules.reading.label_names import LabelNumbers
from lightrail.datamodules.reading.rows import MOST_CHARACTERS, Row, check_size
from lightrail.datamodules.reading.sources import read_rows, source_digest
from lightrail.datamodules.text_classification import TextClassificationData
from lightrail.datamodules.typed.spelling import normalised
from lightrail.project.basics.errors import DataError, Refusal

JOINED = '{"text": "a", "label": "x"}\n'
LINES = "".join(f"page {number}\n" for number in range(60))
LABELLED = "".join(json.dumps({"text": f"t{number}", "label": "ab"[number % 2]}) + "\n" for number in range(60))


def file(folder: Path, name: str, content: str) -> str:
    (folder / name).write_text(content, encoding="utf-8", newline="")
    return str(folder / name)


def read(path: str, **options: Any) -> list[list[Any]]:
    return [list(row.values.values()) for row in read_rows(path, columns=["text", "label"], **options)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "\n \ntext,label\na,x\n"),
        ("a.jsonl", "\ufeff" + JOINED),
        ("a.json", f"[{JOINED}]\n\n"),
        ("a.tsv", "text\tlabel\na\tx\n"),
    ],
)
def test_blank_lines_and_marks_around_rows_are_none(tmp_path: Path, name: str, content: str) -> None:
    assert read(file(tmp_path, name, content)) == [["a", "x"]]


def test_json_lines_of_joined_files_are_read(tmp_path: Path) -> None:
    assert len(read(file(tmp_path, "a.jsonl", ("\ufeff" + JOINED) * 2))) == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", f"[{JOINED}]\n[{JOINED}]", r"a\.json:2: text follows the array"),
        ("a.json", f"[{JOINED}] x", "text follows the array"),
        ("a.csv", "text,label\na,x\n\ufefftext,label\nb,y\n", r"a\.csv:3: this row is the names of the columns"),
        ("a.csv", "text,label\r\na,x\rb,y\r\n", r"a carriage return \(CR\) inside a field without quotes"),
        ("a.csv", "text|label\na|x\n", r"looks separated by '\|'"),
        ("a.csv", "text,label\na\0bcdef,x\n", "or remove the byte"),
        ("a.csv", f"text,label,{','.join('c' * 3000 for _ in range(90))}\na\n", "1 field found, 92 expected"),
        ("a.csv", f"{','.join('c' * 3000 for _ in range(90))}\na\n", "no column 'text'"),
        ("a.json", '{"text": {"0": "a"}, "label": {"0": "b"}}', "an object with a key for each row"),
        ("a.\x1b", "", "no known format"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_short(tmp_path: Path, name: str, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read(file(tmp_path, name, content))
    assert len(str(caught.value).replace(str(tmp_path), "")) < 1500


def test_a_header_that_is_also_named_by_the_settings_is_no_row(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"or omit data\.reading\.column_names"):
        read(file(tmp_path, "a.csv", "text,label\na,x\n"), column_names=["text", "label"])


def test_training_cannot_read_standard_input() -> None:
    with pytest.raises(DataError, match="standard input is read once"):
        source_digest("-")


def saved(folder: Path) -> Path:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["a", "b"])})
    rows = {"text": [f"text {number}" for number in range(60)], "label": [0, 1] * 30}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(folder / "saved"))
    return next(folder.rglob("*.arrow"))


def test_arrow_data_that_is_damaged_inside_is_refused(tmp_path: Path) -> None:
    arrow = saved(tmp_path)
    content = arrow.read_bytes()
    for start in range(600, len(content) - 64, 100):
        arrow.write_bytes(content[:start] + b"\xff" * 64 + content[start + 64 :])
        with contextlib.suppress(DataError):  # where nothing is damaged that is read, all is well
            read(f"hub:{tmp_path / 'saved'}@train")


def test_a_number_without_a_label_name_is_refused(tmp_path: Path) -> None:
    arrow = saved(tmp_path)
    with pa.ipc.open_stream(arrow) as stream:
        table = stream.read_all()
    table = table.set_column(1, table.schema.field(1), pa.array([7] * 60))
    with pa.OSFile(str(arrow), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(DataError, match=r"@train:1: label 7 has no name: the data set names 0 to 1"):
        read(f"hub:{tmp_path / 'saved'}@train")


def test_a_saved_data_set_without_rows_is_refused(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"text": [], "label": []}).save_to_disk(str(tmp_path))
    with pytest.raises(DataError, match="holds no rows"):
        read(f"hub:{tmp_path}@train")


Make = Callable[[str], DataModule]


@pytest.mark.parametrize(
    ("make", "name", "content", "message"),
    [
        (lambda path: CausalLMData(path, encoding_processes=1), "a.txt", "same\n" * 60, "all have the same input"),
        (
            lambda path: CausalLMData(path, encoding_processes=1),
            "a.jsonl",
            '{"text": "a"}\n{"text": "b"}\n' * 30,
            "only 2 distinct inputs",
        ),
        (lambda path: CausalLMData(path, encoding_processes=1), "a.txt", "\n \n", "all texts are empty or white"),
        (
            lambda path: CausalLMData(
                path, encoding_processes=1, validation_path=path, split=SplitConfig(drop_repeats=True)
            ),
            "a.txt",
            LINES,
            "drop_repeats=true drops from train",
        ),
        (
            lambda path: TextClassificationData(path, validation_path=path, split=SplitConfig(drop_repeats=True)),
            "a.jsonl",
            LABELLED,
            "drop_repeats=true drops from train",
        ),
        (
            lambda path: TextClassificationData(
                path, split=SplitConfig(validation_fraction=0.5, test_fraction=0.4999999)
            ),
            "a.jsonl",
            LABELLED,
            "smaller validation and test fractions",
        ),
        (
            lambda path: TextClassificationData(path, label_column="text"),
            "a.jsonl",
            LABELLED,
            "data.text_column and data.label_column both name 'text'",
        ),
        (
            lambda path: TextClassificationData(path, pair_column="label"),
            "a.jsonl",
            LABELLED,
            "data.pair_column and data.label_column both name 'label'",
        ),
        (
            lambda path: TextClassificationData(path, has_many_labels=True),
            "a.csv",
            "text,label\na,\"['x', 'y']\"\n",
            "a list that was written as text",
        ),
        (
            lambda path: EntityData(path, reading=ReadingConfig(empty="keep")),
            "a.jsonl",
            '{"tokens": [], "tags": []}\n',
            r"tokens are \[\]",
        ),
        (
            lambda path: PinyinData(path, has_syllables=True),
            "a.csv",
            "text,syllables\n我们,women\n",
            "1 syllables for 2 characters .* with spaces between them",
        ),
    ],
)
def test_why_data_cannot_be_used_is_said(tmp_path: Path, make: Make, name: str, content: str, message: str) -> None:
    data = make(file(tmp_path, name, content))
    with pytest.raises(Refusal, match=message):
        data.setup("fit")


@pytest.mark.parametrize("make", [CausalLMData, TextClassificationData, PinyinData])
def test_a_blank_path_is_not_the_working_folder(make: Callable[..., DataModule]) -> None:
    with pytest.raises(Refusal, match=r"data\.path is (blank|not set)"):
        make(path=" ").setup("fit")


def test_a_null_in_a_structured_column_is_skipped_and_counted(tmp_path: Path) -> None:
    chat = [{"role": "assistant", "content": "a"}]
    rows = [{"c": None if number % 2 else chat} for number in range(10)]
    path = file(tmp_path, "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert len(list(read_rows(path, columns=["c"], structured=["c"], empty="skip"))) == 5


def test_a_file_that_two_sources_name_is_checked(tmp_path: Path) -> None:
    path = file(tmp_path, "a.txt", LINES)
    for data in (
        CausalLMData(path, validation_path=path, encoding_processes=1),
        CausalLMData(sources=[SourceConfig(path=path), SourceConfig(path=path)], encoding_processes=1),
    ):
        data.setup("fit")
        assert re.search(r"also occur in train|repeat an earlier text", " ".join(data.report().render().split()))


@pytest.mark.parametrize("seed", [2**127, -(2**130)])
def test_any_seed_divides(tmp_path: Path, seed: int) -> None:
    data = TextClassificationData(file(tmp_path, "a.jsonl", LABELLED), split=SplitConfig(seed=seed))
    data.setup("fit")
    assert len(data.rows("train")) > 30


@pytest.mark.parametrize("value", ["x" * (MOST_CHARACTERS + 1), ["xy"] * MOST_CHARACTERS, {"a": "x" * MOST_CHARACTERS}])
def test_a_cell_of_any_kind_that_is_far_too_long_is_refused(value: object) -> None:
    with pytest.raises(DataError, match=r"a:1: column 'c' holds .* characters; at most"):
        check_size(Row({"c": value}, "a", 1), "c")


def test_the_spelling_that_training_has_is_named() -> None:
    with pytest.raises(DataError, match=r"label '1\.0' is none .*, which writes it '1'"):
        LabelNumbers(["0", "1"]).number("1.0", "a:1")


def test_syllables_with_tone_numbers_need_no_separator() -> None:
    assert normalised("hao3ma5 Lü4se4 5g mp3") == ["hao", "ma", "lv", "se", "5g", "mp3"]


def test_tagged_tokens_in_a_table_are_lines(tmp_path: Path) -> None:
    path = file(tmp_path, "a.tsv", "".join(f"Ada{number}\tB-PER\nwent\tO\n\n" for number in range(60)))
    data = EntityData(path, units="words")
    data.setup("fit")
    assert data.facts()["labels"] == ["PER"]


def test_blocks_longer_than_all_texts_take_no_memory() -> None:
    blocks = pack(np.array([3, 2, 9]), 10**12, np.random.default_rng(0))
    assert blocks.tolist() == [0, 0, 0]
