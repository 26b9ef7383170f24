"""A file that is not what its name says is refused by what it is; a damaged one by its name and what to do."""

import contextlib
import gzip
import os
import socket
import struct
import zipfile
import zlib
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from lightrail.datamodules.image_classification import ImageClassificationData
from lightrail.datamodules.reading import read_rows
from lightrail.datamodules.reading.image_files import PictureForm, read_image
from lightrail.datamodules.reading.lines import read_lines
from lightrail.project.basics.errors import ConfigError, DataError

COLUMNS = {"text_column": "text", "label_column": "label"}
TABLE = "text,label\nfirst röw,yes\nsecond,no\n"
ROWS = [{"text": "first röw", "label": "yes"}, {"text": "second", "label": "no"}]


def rows(path: Path, content: bytes | str, **options: str) -> list[dict[str, object]]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return [row.values for row in read_rows(str(path), columns=COLUMNS, **options)]  # type: ignore[arg-type]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-be", "utf-32"])
def test_lines_that_end_in_cr_alone_are_lines(tmp_path: Path, encoding: str) -> None:
    old = TABLE.replace("\n", "\r")
    assert rows(tmp_path / "a.csv", old.encode(encoding), encoding=encoding) == ROWS
    assert rows(tmp_path / "a.csv.gz", gzip.compress(old.encode(encoding)), encoding=encoding) == ROWS
    assert rows(tmp_path / "a.tsv", old.replace(",", "\t").encode(encoding), encoding=encoding) == ROWS


def test_cr_inside_a_line_is_no_end_of_it_where_another_line_ends_in_a_line_feed(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a\rb" * 5000 + b"\nc\n")
    assert list(read_lines(str(tmp_path / "a.txt"))) == ["a\rb" * 5000, "c"]


@pytest.mark.parametrize(
    "encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be", "gb18030", "cp1252"]
)
def test_the_named_encoding_is_the_one_that_reads_the_file(tmp_path: Path, encoding: str) -> None:
    special = {"gb18030": "房间很好", "cp1252": "“naïve” – words"}.get(encoding, "first röw")
    content = TABLE.replace("first röw", special).encode(encoding)
    with pytest.raises(DataError, match=rf"set data\.reading\.encoding={encoding}\."):
        rows(tmp_path / "a.csv", content)
    assert rows(tmp_path / "a.csv", content, encoding=encoding)[0]["text"] == special


def test_a_text_of_another_encoding_than_the_set_one_names_its_own(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"not utf-16 after line 0.*set data\.reading\.encoding=utf-8"):
        rows(tmp_path / "a.csv", TABLE, encoding="utf-16")
    for encoding in ("", "rot13", "undefined", "utf\0"):
        with pytest.raises(ConfigError, match=r"data\.reading\.encoding=.*: no such encoding"):
            rows(tmp_path / "a.csv", TABLE, encoding=encoding)


def test_unicode_text_of_excel_names_both_settings(tmp_path: Path) -> None:
    content = TABLE.replace(",", "\t").replace("\n", "\r\n").encode("utf-16")
    with pytest.raises(DataError, match=r"encoding=utf-16 \(and data\.reading\.file_format=tsv"):
        rows(tmp_path / "a.txt", content)
    assert rows(tmp_path / "a.txt", content, encoding="utf-16", file_format="tsv") == ROWS


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "text\tlabel\na\tb\n", r"names the columns of a table: set data\.reading\.file_format=tsv"),
        ("a.csv", "text;label\na;b\n", r"looks separated by ';': save it with commas"),
        ("a.csv", "sep=;\ntext;label\na;b\n", r"is a mark of Excel: remove it"),
        ("a.csv", "sep=,\ntext,label\na,b\n", r"is a mark of Excel: remove it"),
        ("a.tsv", TABLE, r"looks separated by ',': name it \.csv"),
        ("a.json", '{\n "data": [\n  {"text": "a", "label": "b"}\n ]\n}\n', r"under the key 'data'.*jq \.data"),
        ("a.json", '{"rows": [{"text": "a", "label": "b"}]}', r"no column 'text'\. .*under the key 'rows'"),
        ("a.json", '{"version": 1,\n"data": [\n{"text": "a"}]}', r"spread over several lines"),
        ("a.jsonl", '{\n"text": "a",\n"label": "b"\n}\n', r"spread over several lines\. .*jq -c"),
        ("a.jsonl", '{"text": ' + "[" * 100_000, r"invalid JSON: maximum recursion"),
        ("a.json", "[" * 100_000, r"invalid JSON: maximum recursion"),
        ("a.jsonl", '{"text": ' + "9" * 5000 + ', "label": 1}', r"invalid JSON: Exceeds the limit"),
        ("a.csv", "<!DOCTYPE html><html></html>", r"is a web page or XML, not the data"),
        ("a.json", "\n<html>Not found</html>", r"is a web page or XML, not the data"),
        ("a.parquet", '<?xml version="1.0"?><Error/>', r"is a web page or XML, not the data"),
        ("a.csv", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", r"Run git lfs pull"),
        ("a.csv", b"\xfd7zXZ\0\0", r"is compressed by xz\. Unpack it"),
        ("a.csv", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", r"Save it as CSV UTF-8"),
        ("a.parquet", b"", r"unreadable Parquet"),
        ("a.parquet", bytes(range(256)), r"unreadable Parquet"),
        ("a.csv", b"\0" * 64, r"NUL byte.*Name a text file"),
        ("a.csv.gz", gzip.compress(TABLE.encode() * 99, mtime=0)[:-30], r"truncated or damaged after line"),
    ],
)
def test_what_a_file_is_instead_is_said(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=f"(?s){message}"):
        rows(tmp_path / name, content)


def test_archives_and_parquet_files_under_the_name_of_a_table_are_refused(tmp_path: Path) -> None:
    for inside, message in (("[Content_Types].xml", "Save it as CSV UTF-8"), ("a.csv", "is a zip archive")):
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr(inside, TABLE)
        with pytest.raises(DataError, match=message):
            rows(tmp_path / "a.csv", (tmp_path / "a.zip").read_bytes())
    parquet.write_table(pa.table({"text": ["a"], "label": ["b"]}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"is a Parquet file\. Name it \.parquet"):
        rows(tmp_path / "b.csv", (tmp_path / "b.parquet").read_bytes())


def test_a_parquet_file_with_any_damaged_byte_is_read_or_refused(tmp_path: Path) -> None:
    table = pa.table({"text": [f"text {number}" for number in range(20)], "label": ["b"] * 20})
    parquet.write_table(table, tmp_path / "whole.parquet")
    whole = (tmp_path / "whole.parquet").read_bytes()
    for place in range(4, len(whole), 13):
        with contextlib.suppress(DataError):  # any other exception fails
            rows(tmp_path / "a.parquet", whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])


def test_a_source_that_is_no_file_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "loop.csv").symlink_to("loop.csv")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket.csv"))
        for name, message in (
            ("pipe.csv", "is a pipe"),
            ("socket.csv", "is a socket"),
            ("/dev/zero", "is a device"),
            ("loop.csv", "a link to a file that does not exist"),
            ("x" * 5000 + ".csv", "File name too long"),
            ("a\0.csv", "no such file"),
            ("\udcff.csv", "no such file"),
        ):
            with pytest.raises(DataError, match=message) as refused:
                list(read_rows(str(tmp_path / name), columns=COLUMNS))
            assert str(refused.value).isprintable()
    with pytest.raises(DataError, match="blank"):
        list(read_rows(" ", columns=COLUMNS))


def test_the_line_of_a_small_compressed_file_may_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightrail.datamodules.reading.lines.MOST_BYTES_OF_A_LINE", 1000)
    for encoding in ("utf-8", "utf-16"):
        with pytest.raises(DataError, match=r"a\.csv\.gz:1: a line of more than"):
            rows(tmp_path / "a.csv.gz", gzip.compress(("x" * 1001).encode(encoding)), encoding=encoding)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def test_sizes_that_a_header_claims_are_checked_before_memory_is_reserved(tmp_path: Path) -> None:
    size = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", size) + _chunk(b"IDAT", b""))
    with pytest.raises(DataError, match=r"a\.png is not a readable image: .*exceeds limit"):
        read_image(str(tmp_path / "a.png"), PictureForm(None, "auto"))
    labels = bytes([0, 0, 8, 1]) + struct.pack(">I", 1) + b"\1"
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(labels)
    for shape in ((2**32 - 1, 8, 8), (1, 2**31, 2**31)):
        images = tmp_path / "train-images-idx3-ubyte"
        images.write_bytes(gzip.compress(bytes([0, 0, 8, 3]) + struct.pack(">3I", *shape) + b"x" * 64))
        with pytest.raises(DataError, match="more than the file can hold"):
            ImageClassificationData(str(images)).prepare_data()
