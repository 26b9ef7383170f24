"""Every ordinary file is read row for row, and every ordinary mistake is refused with its place and its remedy."""

import gzip
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypedDict, Unpack

import pytest

from lightrail.datamodules.reading import Empty, Quoting, ReadingNotes, Row, read_rows
from lightrail.project.basics.errors import ConfigError, DataError, Refusal

Write = Callable[[str, str | bytes], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(name: str, content: str | bytes) -> str:
        data = content.encode() if isinstance(content, str) else content
        path = tmp_path / name
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return str(path)

    return write_file


class Options(TypedDict, total=False):
    encoding: str
    quoting: Quoting
    empty: Empty
    column_names: Sequence[str]


def texts(source: str, **options: Unpack[Options]) -> list[str]:
    return [row.values["text"] for row in read_rows(source, columns=["text"], **options)]


def refusal(
    source: str,
    *,
    columns: Sequence[str] | dict[str, str] = ("text",),
    kind: type[Refusal] = DataError,
    **options: Unpack[Options],
) -> str:
    with pytest.raises(kind) as refused:
        list(read_rows(source, columns=columns, **options))
    return str(refused.value)


# Formats


@pytest.mark.parametrize("indent", [None, 2])
def test_the_objects_of_a_json_array_are_rows(write: Write, indent: int | None) -> None:
    records = [{"text": text, "more": [{"of": "]"}]} for text in ["one", "a, b] }", "三\n"]]
    source = write("a.json", "\n" + json.dumps(records, indent=indent) + "\n")
    rows = list(read_rows(source, columns=["text"]))
    assert [row.values["text"] for row in rows] == [record["text"] for record in records]
    assert [row.line for row in rows] == ([2] * 3 if indent is None else [3, 11, 19])


def test_each_line_of_a_text_file_is_a_row(write: Write) -> None:
    source = write("a.txt", "one\ntwo\n三")
    assert list(read_rows(source, columns=["text"])) == [
        Row({"text": text}, source, line) for line, text in enumerate(["one", "two", "三"], 1)
    ]


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_byte_order_marks_and_windows_line_ends_are_no_text(write: Write, name: str) -> None:
    assert texts(write(name, "\ufeffone\r\ntwo\r\n")) == ["one", "two"]


def test_only_a_line_feed_ends_a_line(write: Write) -> None:
    tricky = "a\u2028b\u2029c\x0bd\x0ce\x1cf\x1dg\x1eh\x85i\rj"
    assert texts(write("a.txt", f"{tricky}\nnext\n")) == [tricky, "next"]
    assert texts(write("a.tsv", f"text\tlabel\n{tricky}\t1\n")) == [tricky]
    assert texts(write("a.jsonl", json.dumps({"text": tricky}, ensure_ascii=False) + "\n")) == [tricky]


@pytest.mark.parametrize("encoding", ["gb18030", "latin-1", "utf-16", "utf-16-le", "utf-32"])
def test_other_encodings_are_read_when_named(write: Write, encoding: str) -> None:
    content = "é\r\nb\n" if encoding == "latin-1" else "饭店\r\n上来\n"
    assert texts(write("a.txt", content.encode(encoding)), encoding=encoding) == content.split()


def test_csv_fields_may_hold_commas_quotes_and_lines(write: Write) -> None:
    source = write("a.csv", 'text,label\n"a, ""b""\nc",1\nplain,0\n')
    notes = ReadingNotes()
    rows = list(read_rows(source, columns=["label", "text"], notes=notes))
    assert [row.values for row in rows] == [{"label": "1", "text": 'a, "b"\nc'}, {"label": "0", "text": "plain"}]
    assert [row.line for row in rows] == [2, 4]
    assert (notes.num_rows, notes.num_multiline_fields, notes.first_multiline_line) == (2, 1, 2)


def test_a_quote_in_a_tsv_file_swallows_no_rows(write: Write) -> None:
    source = write("a.tsv", 'label\ttext\n1\t"quoted\n0\tplain\n1\tends"\n')
    assert texts(source) == ['"quoted', "plain", 'ends"']


def test_quoted_tsv_is_read_when_asked_for(write: Write) -> None:
    source = write("a.tsv", 'text\tlabel\n"a ""tab""\there"\t1\n')
    assert texts(source, quoting="standard") == ['a "tab"\there']


def test_a_table_without_header_takes_names_from_the_caller(write: Write) -> None:
    assert texts(write("a.tsv", "北京\tbei jing\n"), column_names=["text", "pinyin"]) == ["北京"]


def test_blank_lines_of_a_table_hold_no_record(write: Write) -> None:
    assert texts(write("a.csv", "text,label\na,1\n\nb,0\n\n")) == ["a", "b"]


def test_json_lines_may_hold_texts_numbers_and_lists(write: Write) -> None:
    source = write(
        "a.jsonl", '{"text": "a", "label": 1, "tags": ["O", "B"]}\n\n{"label": true, "text": "b", "tags": []}'
    )
    rows = list(read_rows(source, columns=["text", "label", "tags"], empty="keep"))
    assert [row.values for row in rows] == [
        {"text": "a", "label": "1", "tags": ["O", "B"]},
        {"text": "b", "label": "true", "tags": []},
    ]
    assert rows[1].line == 3


@pytest.mark.parametrize("separator", [" ", "\t", "  ", " \t "])
def test_tagged_tokens_make_sentences(write: Write, separator: str) -> None:
    lines = ["-DOCSTART- O", "", "吴 B-PER", "重 I-PER", "", "", "阳 O"]
    source = write("a.bmes", "\n".join(line.replace(" ", separator) for line in lines))
    rows = list(read_rows(source, columns=["tokens", "tags"]))
    assert [(row.values["tokens"], row.values["tags"], row.line) for row in rows] == [
        (["吴", "重"], ["B-PER", "I-PER"], 3),
        (["阳"], ["O"], 7),
    ]


def test_the_tag_is_the_last_of_several_fields(write: Write) -> None:
    source = write("a.conll", "EU NNP B-NP B-ORG\nrejects VBZ B-VP O\n")
    assert next(read_rows(source, columns=["tokens", "tags"])).values["tags"] == ["B-ORG", "O"]


def test_an_ideographic_space_is_a_token(write: Write) -> None:
    assert next(read_rows(write("a.bio", "\u3000\tO\n北 B\n"), columns=["tokens"])).values == {
        "tokens": ["\u3000", "北"]
    }


def test_parquet_is_read(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    source = str(tmp_path / "a.parquet")
    table = pyarrow.table({"text": ["a", "b"], "label": [0, 1], "tokens": [["x"], ["y", "z"]], "unused": [None, 1.5]})
    parquet.write_table(table, source)
    rows = list(read_rows(source, columns=["text", "label", "tokens"]))
    assert rows[1] == Row({"text": "b", "label": "1", "tokens": ["y", "z"]}, source, 2)
    assert "no column 'txt'. Columns found: 'text', 'label'" in refusal(source, columns=["txt"])


def test_standard_input_is_one_text_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("饭\nb\n".encode())))
    assert texts("-") == ["饭", "b"]


def test_reading_is_lazy(write: Write) -> None:
    rows = read_rows(write("a.txt", b"good\n\xff\n"), columns=["text"])
    assert next(rows).values == {"text": "good"}
    with pytest.raises(DataError, match=":2: byte 1"):
        next(rows)


# The hub, without a network


@pytest.fixture
def saved(tmp_path: Path) -> str:
    from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

    features = Features(
        {
            "text": Value("string"),
            "label": ClassLabel(names=["bad", "good"]),
            "tags": List(ClassLabel(names=["O", "B"])),
        }
    )
    rows = {"text": ["a", "b"], "label": [1, 0], "tags": [[0, 1], [0]]}
    unlabelled = {"text": ["c"], "label": [-1], "tags": [[0]]}
    train, test = (Dataset.from_dict(data, features=features) for data in (rows, unlabelled))
    DatasetDict(train=train, test=test).save_to_disk(tmp_path / "saved")
    return f"hub:{tmp_path}/saved"


def test_a_pipe_within_a_saved_data_set_is_refused_and_not_waited_for(saved: str, tmp_path: Path) -> None:
    (file,) = (tmp_path / "saved" / "train").glob("*.arrow")
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(DataError, match=r"arrow is a pipe; a file is needed\."):
        list(read_rows(f"{saved}@train", columns=["text"]))


def test_a_saved_data_set_is_read_with_the_names_of_its_labels(saved: str) -> None:
    rows = list(read_rows(f"{saved}@train", columns=["text", "label", "tags"]))
    assert [row.values for row in rows] == [
        {"text": "a", "label": "good", "tags": ["O", "B"]},
        {"text": "b", "label": "bad", "tags": ["O"]},
    ]
    assert (rows[1].file, rows[1].line) == (f"{saved}@train", 2)


def test_a_folder_of_data_files_is_read_as_the_hub_would(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hub")
    (tmp_path / "folder").mkdir()
    write("folder/train.csv", "text,label\na,1\n")
    write("folder/test.csv", "text,label\nb,0\n")
    assert texts(f"hub:{tmp_path}/folder@test") == ["b"]


@pytest.mark.parametrize(
    ("suffix", "message"),
    [
        ("@dev", "no split 'dev'. Splits found: train, test"),
        ("", "write hub:OWNER/NAME@SPLIT"),
        ("@test", "@test:1: label -1, which marks unlabelled rows"),
        ("-not@train", "saved-not' is no name on the Hugging Face hub, and no such folder here"),
    ],
)
def test_what_a_hub_source_lacks_is_refused(saved: str, suffix: str, message: str) -> None:
    assert message in refusal(saved + suffix, columns=["label"])


def test_an_unreachable_hub_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    assert "'owner/name' cannot be loaded: no such folder here" in refusal("hub:owner/name:config@train")


# Mistakes


def test_a_missing_column_is_refused_before_any_row(write: Write) -> None:
    source = write("a.csv", "sentence,Label\na,1\n")
    message = refusal(source, columns={"text_column": "text", "label_column": "label"})
    assert f"{source}: no column 'text'. Columns found: 'sentence', 'Label'. Set data.text_column=" in message
    assert "Set data.label_column=Label." in refusal(source, columns={"label_column": "label"})
    assert "Did you mean 'sentence'?" in refusal(source, columns=["sentense"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", "holds no rows (nothing to read)"),
        ("a.csv", "", "holds no rows (nothing to read)"),
        ("a.csv", "text,label\n", "holds no rows (nothing to read)"),
        (
            "a.csv",
            "text,label\na,1\nb\n",
            "a.csv:3: 1 field found, 2 expected (text, label): 'b'. Put fields that hold a comma",
        ),
        ("a.csv", "text,label\na,b,1\n", "a.csv:2: 3 fields found, 2 expected"),
        ("a.tsv", "text\tlabel\na\tb\t1\n", "set data.reading.quoting=standard"),
        ("a.csv", 'text,label\na,1\n"b,1\nc,1\n', "a.csv:3: the quotes of this record do not match"),
        ("a.csv", "text;label\na;1\n", "separated by ';': save it with commas"),
        ("a.csv", "text\tlabel\na\t1\n", "name it .tsv"),
        ("a.csv", "text,text\na,b\n", "2 columns are named 'text'"),
        (
            "a.csv",
            "text,label\n ,1\n",
            "a.csv:2: 'text' is empty. Fill it in, drop the line, or set data.reading.empty=skip",
        ),
        ("a.txt", "a\n\nb\n", "a.txt:2: 'text' is empty"),
        ("a.txt", "a\nb\0c\n", "a.txt:2: NUL byte at character 2"),
        ("a.jsonl", '{"text": "a"}\n{"text": "b"\n', "a.jsonl:2: invalid JSON: Expecting ',' delimiter"),
        ("a.json", '[\n{"text": "a"},\n{"text" "b"}\n]', "a.json:3: invalid JSON: Expecting ':' delimiter"),
        ("a.json", '[{"text": "a"},\n7]', "a.json:2: expected an object in the array, found 7"),
        ("a.json", '[{"text": "a"},\n{"text":\n"b"', "a.json:2: the array is not closed by ]"),
        ("a.json", '[{"text": "a"},\n{"txt": "b"}]', "a.json:2: no column 'text'"),
        ("a.jsonl", '"a"\n', "a.jsonl:1: expected an object"),
        ("a.jsonl", '{"text": null}\n', "a.jsonl:1: column 'text' holds no value (null)"),
        ("a.jsonl", '{"text": {"en": "a"}}\n', "column 'text' holds dict"),
        ("a.jsonl", '{"text": "a"}\n{"txt": "b"}\n', "a.jsonl:2: no column 'text'. Columns found: 'txt'"),
        ("a.conll", "a O\nb\n", "a.conll:2: 1 field in 'b', 2 expected"),
        ("a.parquet", "not parquet", "unreadable Parquet: Parquet"),
        ("a.docx", "a", "the ending '.docx' is no known format"),
        ("a.cvs", "a", "did you mean .csv?"),
        ("a.txt", b"PK\x03\x04abc", "is a zip archive"),
    ],
)
def test_a_broken_file_is_refused(write: Write, name: str, content: str | bytes, message: str) -> None:
    columns = ["tokens"] if name.endswith("conll") else ["text"]
    source = write(name, content)
    refused = refusal(source, columns=columns)
    assert message in refused
    assert source in refused


@pytest.mark.parametrize(
    ("content", "encoding", "advice"),
    [
        ("good\n价格便宜\n".encode("gb18030"), "utf-8", "set data.reading.encoding=gb18030"),
        ("good\nCafé olé\n".encode("latin-1"), "utf-8", "set data.reading.encoding=latin-1"),
        (
            "good\nCafés für übers\n".encode("latin-1"),
            "utf-8",
            "set data.reading.encoding=latin-1",
        ),  # decodes as gb18030 too
        ("good\n中文\n".encode(), "ascii", "set data.reading.encoding=utf-8"),
        (b"good\nhalf a character \xe4\xb8\n", "utf-8", "byte 18 of the line (0xe4) is not utf-8"),
    ],
)
def test_bytes_that_do_not_decode_are_placed_and_explained(
    write: Write, content: bytes, encoding: str, advice: str
) -> None:
    message = refusal(write("a.txt", content), encoding=encoding)
    assert "a.txt:2: byte " in message
    assert advice in message


def test_utf_16_is_recognised(write: Write) -> None:
    assert "set data.reading.encoding=utf-16" in refusal(write("a.txt", "good\n".encode("utf-16")))


def test_an_unknown_encoding_is_refused(write: Write) -> None:
    assert "data.reading.encoding='utf9': no such encoding" in refusal(
        write("a.txt", "a"), kind=ConfigError, encoding="utf9"
    )


def test_a_damaged_compressed_file_is_refused(write: Write, tmp_path: Path) -> None:
    source = write("a.txt.gz", "".join(f"line {number}\n" for number in range(50_000)))
    data = Path(source).read_bytes()
    Path(source).write_bytes(data[: len(data) // 2])
    assert "truncated or damaged after line " in refusal(source)
    Path(source).write_bytes(data[:200] + bytes(200) + data[400:])
    assert "truncated or damaged after line " in refusal(source)
    Path(source).write_text("plain")
    assert "is not compressed, but is named .gz" in refusal(source)


def test_a_file_that_is_not_there_names_its_neighbours(write: Write, tmp_path: Path) -> None:
    write("train.tsv", "text\na\n")
    assert "no such file. The folder" in refusal(f"{tmp_path}/trian.tsv")
    assert "holds: train.tsv." in refusal(f"{tmp_path}/trian.tsv")
    assert "Its folder" in refusal(f"{tmp_path}/deeper/train.tsv")
    assert "is a folder; name one file in it (train.tsv)" in refusal(str(tmp_path))


def test_skipped_rows_are_counted_and_reported(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    notes = ReadingNotes()
    source = write("a.csv", "text,label\na,1\n,1\nb,\nc,0\n")
    rows = list(read_rows(source, columns=["text", "label"], empty="skip", notes=notes))
    assert [row.values["text"] for row in rows] == ["a", "c"]
    assert (notes.num_rows, notes.num_empty_skipped, notes.first_empty_line) == (2, 2, 3)
    assert "skipped 2 rows with an empty cell" in caplog.text
    assert "all 1 were skipped as empty" in refusal(write("b.csv", "text,label\n,1\n"), empty="skip")


def test_empty_rows_are_kept_when_asked_for(write: Write) -> None:
    assert texts(write("a.txt", "a\n\n b\n"), empty="keep") == ["a", "", " b"]


def test_reading_a_text_file_imports_no_heavy_library(write: Write) -> None:
    program = (
        "import sys; from lightrail.datamodules.reading import read_rows;"
        "list(read_rows(sys.argv[1], columns=['text']));"
        "print([name for name in ('torch', 'pyarrow', 'datasets', 'pandas') if name in sys.modules])"
    )
    command = [sys.executable, "-c", program, write("a.txt", "a\n")]
    assert subprocess.run(command, capture_output=True, check=True, text=True).stdout == "[]\n"
