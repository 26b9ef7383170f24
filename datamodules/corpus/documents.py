"""The documents of a shard, read one by one."""

import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from lightrail.datamodules.corpus.shards import CorpusReading, Shard
from lightrail.datamodules.reading import ReadingNotes
from lightrail.datamodules.reading.lines import undecodable
from lightrail.datamodules.reading.records import read_json_lines
from lightrail.datamodules.reading.rows import Columns, Row
from lightrail.project.basics.errors import DataError

CHARACTERS_PER_PIECE = 1_000_000
"""A document that is a whole file is read in pieces of about so many."""
_RECORDS_PER_BATCH = 256


class Document(NamedTuple):
    """A text, or a piece of one that is a whole file."""

    text: str
    line: int
    key: str
    """Decides the split: the text itself, or what stands for all of the file."""
    is_start: bool = True
    is_end: bool = True
    """Whether the document begins, and ends, with this piece."""


def read_documents(shard: Shard, reading: CorpusReading, notes: ReadingNotes) -> Iterator[Document]:
    """Give the documents that a shard holds. Lines of white space hold none, where a document is a line.

    Raises: DataError naming file and line.
    """
    is_text = shard.form == "text"
    for document in _texts(shard, reading) if is_text else _not_empty(_records(shard, reading), reading, notes):
        notes.num_rows += 1
        yield document


def last_line_before(shard: Shard) -> str:
    """Give the end of what stands before a shard that does not begin its file, a line at most."""
    with Path(shard.path).open("rb") as stream:
        begin = stream.seek(max(0, shard.begin - 4096))
        line = stream.read(shard.begin - begin).splitlines(keepends=True)[-1]
    return line.decode(shard.encoding, "ignore").replace("\r\n", "\n")


def _texts(shard: Shard, reading: CorpusReading) -> Iterator[Document]:
    lines = _lines(shard)
    if reading.document == "file":
        return _pieces(shard, lines)
    return _paragraphs(shard, lines) if reading.document == "paragraph" else _single_lines(shard, lines)


def _single_lines(shard: Shard, lines: Iterable[str]) -> Iterator[Document]:
    for number, line in enumerate(lines, shard.first_line):
        if line and not line.isspace():
            yield Document(line, number, line)


def _paragraphs(shard: Shard, lines: Iterable[str]) -> Iterator[Document]:
    held: list[str] = []
    number = shard.first_line
    for number, line in enumerate(lines, shard.first_line):
        if line and not line.isspace():
            held.append(line)
        elif held:
            yield _paragraph(held, number)
            held = []
    if held:
        yield _paragraph(held, number + 1)


def _paragraph(lines: list[str], end: int) -> Document:
    text = "\n".join(lines)
    return Document(text, end - len(lines), text)


def _pieces(shard: Shard, lines: list[str]) -> Iterator[Document]:
    bounds = [0]
    size = 0
    for number, line in enumerate(lines, 1):
        size += len(line) + 1
        if size >= CHARACTERS_PER_PIECE or number == len(lines):
            bounds.append(number)
            size = 0
    ends_with_line = _ends_with_line(shard)
    for first, end in itertools.pairwise(bounds):
        is_last = end == len(lines)
        text = "\n".join(lines[first:end]) + ("" if is_last and not ends_with_line else "\n")
        is_start = first == 0 and shard.begin == 0
        yield Document(text, shard.first_line + first, shard.file_key, is_start, is_last and shard.is_last)


def _ends_with_line(shard: Shard) -> bool:
    with Path(shard.path).open("rb") as stream:
        stream.seek(shard.end - 1)
        return stream.read(1) == b"\n"


def _lines(shard: Shard) -> list[str]:
    with Path(shard.path).open("rb") as stream:
        stream.seek(shard.begin)
        raw = stream.read(shard.end - shard.begin)
    try:
        text = raw.decode(shard.encoding)
    except UnicodeDecodeError as error:
        raise _undecodable(shard, raw, error) from error
    if shard.begin == 0:
        text = text.removeprefix("\ufeff")
    if "\0" in text:
        number = shard.first_line + text.count("\n", 0, text.index("\0"))
        raise DataError(
            f"{shard.file}:{number}: NUL byte. This is no text file, or one in UTF-16 (then set "
            f"data.reading.encoding=utf-16)."
        )
    lines = text.replace("\r\n", "\n").split("\n")
    return lines if lines[-1] else lines[:-1]


def _undecodable(shard: Shard, raw: bytes, error: UnicodeDecodeError) -> DataError:
    number = raw.count(b"\n", 0, error.start)
    begin = raw.rfind(b"\n", 0, error.start) + 1
    end = raw.find(b"\n", error.start)
    line = raw[begin : len(raw) if end < 0 else end]
    place = error.start - begin
    own = UnicodeDecodeError(shard.encoding, line, place, place + 1, error.reason)
    return undecodable(shard.file, shard.encoding, shard.first_line + number, own)


def _records(shard: Shard, reading: CorpusReading) -> Iterator[Row]:
    columns = Columns({"text_column": reading.text_column})
    if shard.form == "jsonl":
        return read_json_lines(shard.file, _lines(shard), columns, shard.first_line)
    return _of_parquet(shard, columns) if shard.form == "parquet" else _of_spool(shard, reading.text_column)


def _of_spool(shard: Shard, text_column: str) -> Iterator[Row]:
    for line in _lines(shard):
        text, number = json.loads(line)
        yield Row({text_column: text}, shard.file, number)


def _of_parquet(shard: Shard, columns: Columns) -> Iterator[Row]:
    from pyarrow import ArrowException, parquet

    number = shard.first_line
    try:
        with parquet.ParquetFile(shard.path) as table:
            columns.require(shard.file, table.schema_arrow.names)
            groups = list(range(shard.begin, shard.end))
            for batch in table.iter_batches(_RECORDS_PER_BATCH, groups, columns.names, use_threads=False):
                for record in batch.to_pylist():
                    yield Row(columns.values(record, f"{shard.file}:{number}"), shard.file, number)
                    number += 1
    except ArrowException as error:
        raise DataError(
            f"{shard.file}: no readable Parquet after record {number - 1}: {error}. Write the file again."
        ) from error


def _not_empty(rows: Iterable[Row], reading: CorpusReading, notes: ReadingNotes) -> Iterator[Document]:
    for row in rows:
        text = row.values[reading.text_column]
        if not isinstance(text, str):
            raise DataError(
                f"{row.file}:{row.line}: column {reading.text_column!r} holds a list of {len(text)}; one text is "
                f"needed. Join them, or set data.text_column to another column."
            )
        if (text and not text.isspace()) or reading.empty == "keep":
            yield Document(text, row.line, text)
        elif reading.empty == "skip":
            notes.num_empty_skipped += 1
            notes.first_empty_line = notes.first_empty_line or row.line
        else:
            raise DataError(
                f"{row.file}:{row.line}: {reading.text_column!r} is empty. Fill it in, drop the line, or set "
                f"data.reading.empty=skip to skip and count such rows."
            )
