"""Division of sources into shards, parts of a file with whole documents, and reading of a shard's documents.

Sources that cannot be read from the middle (compressed files, tables, data sets) are first written as plain lines.
"""

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, NamedTuple

from lightrail.datamodules.cache import file_digest
from lightrail.datamodules.corpus.files import file_format_of, is_file
from lightrail.datamodules.reading import Empty, FileFormat, Quoting, ReadingNotes, read_rows
from lightrail.datamodules.reading.files import STANDARD_INPUT
from lightrail.datamodules.reading.lines import is_readable_from_the_middle, read_lines, undecodable
from lightrail.datamodules.reading.records import parquet_records, read_json_lines
from lightrail.datamodules.reading.rows import Columns, Row, empty_cell, list_for_text
from lightrail.project.basics.errors import DataError
from lightrail.project.basics.reading import reading

SHARD_BYTES = 8 * 2**20
MOST_BYTES = 64 * 2**20
"""Maximum size of a line or a paragraph: a process holds all of it in memory, several times."""

Form = Literal["text", "jsonl", "parquet", "rows"]
DocumentKind = Literal["line", "paragraph", "file"]
Range = tuple[int, int, int, int]
"""Start, end, number of bytes and first line of a shard."""


@dataclass(frozen=True, kw_only=True)
class CorpusReading:
    """Settings for reading sources, as in the datamodule."""

    document: DocumentKind
    text_column: str
    encoding: str
    file_format: FileFormat
    quoting: Quoting
    column_names: Sequence[str]
    empty: Empty


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A part of one file with whole documents, or of a document that is a whole file."""

    path: str
    """Path of the file with its bytes."""
    file: str
    """Name of the file in messages."""
    form: Form
    """Format of the bytes. rows: each line is a JSON array of a text and its line number."""
    encoding: str
    begin: int
    """First byte; of Parquet the first row group."""
    end: int
    num_bytes: int
    """Amount of data to encode."""
    first_line: int
    """Number of the first line, or record, in the file."""
    is_last: bool
    """Whether it is the last of its file."""
    file_key: str
    """Digest of the content of the file, if a document is a whole file."""


def shards_of(file: str, reading: CorpusReading, notes: ReadingNotes, spool: Path) -> list[Shard]:
    """Divide one file, data set, or standard input into shards.

    Args:
        notes: counts the skipped rows of a source that is written as lines.
        spool: file for the lines of a source that cannot be read from the middle.

    Raises: DataError when it cannot be read, or is empty.
    """
    form = _form(file, reading)
    encoding = "utf-8" if form == "rows" else reading.encoding
    path = Path(file)
    if form == "rows" or (
        form != "parquet" and not is_readable_from_the_middle(file, encoding, may_end_in_cr=form == "jsonl")
    ):
        lines = (
            _rows_as_lines(file, reading, notes)
            if form == "rows"
            else read_lines(file, encoding, may_end_in_cr=form == "jsonl")
        )
        _write_lines(lines, spool)
        path, encoding = spool, "utf-8"
    if form == "parquet":
        ranges = list(_row_groups(file))
    else:
        ranges = list(_byte_ranges(file, path, is_paragraph=form == "text" and reading.document == "paragraph"))
    if not ranges and reading.empty != "skip":
        raise DataError(f"{file} is empty. Give a file with text in it, or set data.reading.empty=skip.")
    key = file_digest(path) if form == "text" and reading.document == "file" else ""
    return [
        Shard(
            path=str(path),
            file=file,
            form=form,
            encoding=encoding,
            begin=begin,
            end=end,
            num_bytes=num_bytes,
            first_line=first_line,
            is_last=number == len(ranges),
            file_key=key,
        )
        for number, (begin, end, num_bytes, first_line) in enumerate(ranges, 1)
    ]


def _form(file: str, reading: CorpusReading) -> Form:
    if file == STANDARD_INPUT:
        return "text"
    file_format = file_format_of(file, reading.file_format) if is_file(file) else None
    return {"txt": "text", "jsonl": "jsonl", "parquet": "parquet"}.get(file_format or "", "rows")  # type: ignore[return-value]


def _write_lines(lines: Iterator[str], spool: Path) -> None:
    with spool.open("w", encoding="utf-8") as stream:
        stream.writelines(f"{line}\n" for line in lines)


def _rows_as_lines(file: str, reading: CorpusReading, notes: ReadingNotes) -> Iterator[str]:
    rows = read_rows(
        file,
        columns={"text_column": reading.text_column},
        encoding=reading.encoding,
        file_format=reading.file_format,
        quoting=reading.quoting,
        column_names=reading.column_names,
        empty=reading.empty,
        notes=notes,
    )
    for row in rows:
        yield json.dumps([row.values[reading.text_column], row.line])


def _row_groups(file: str) -> Iterator[Range]:
    """Yield each row group of a Parquet file as a shard."""
    from pyarrow import parquet

    with reading(f"{file}: unreadable Parquet", "Write the file again.", refusal=DataError):
        facts = parquet.read_metadata(file)
    first_record = 1
    for group in range(facts.num_row_groups):
        if (own := facts.row_group(group)).num_rows:
            yield group, group + 1, own.total_byte_size, first_record
        first_record += own.num_rows


def _byte_ranges(file: str, path: Path, *, is_paragraph: bool) -> Iterator[Range]:
    """Divide a file into shards that end after a line, or after a blank line."""
    line = 1
    with path.open("rb") as stream:
        size = stream.seek(0, 2)
        begin = 0
        while begin < size:
            stream.seek(begin + SHARD_BYTES)
            end = min(size, _end_of_document(stream, begin, is_paragraph=is_paragraph))
            if end - begin > MOST_BYTES:
                unit = "paragraph" if is_paragraph else "line"
                raise DataError(
                    f"{file}:{line}: a {unit} after this line has {MOST_BYTES // 2**20} MB or more. Split it into "
                    f"{'paragraphs by blank lines' if is_paragraph else 'lines'}."
                )
            yield begin, end, end - begin, line
            stream.seek(begin)
            line += stream.read(end - begin).count(b"\n")
            begin = end


def _end_of_document(stream: IO[bytes], begin: int, *, is_paragraph: bool) -> int:
    """Find the next position between documents, or return one that is too far away."""
    line = stream.readline(MOST_BYTES)  # the rest of a line, which is not blank even if it looks so
    while is_paragraph and line and stream.tell() - begin <= MOST_BYTES:
        line = stream.readline(MOST_BYTES)
        if not line.strip():
            break
    return stream.tell() if line.endswith(b"\n") or not line else begin + 2 * MOST_BYTES


CHARACTERS_PER_PIECE = 1_000_000
"""Approximate length of the pieces of a document that is a whole file."""
_RECORDS_PER_BATCH = 256


class Document(NamedTuple):
    """A document, or a piece of one that is a whole file."""

    text: str
    line: int
    key: str
    """Text that determines the split: the text itself, or a digest of the whole file."""
    is_start: bool = True
    is_end: bool = True
    """Whether the document begins, and ends, with this piece."""


def read_documents(shard: Shard, reading: CorpusReading, notes: ReadingNotes) -> Iterator[Document]:
    """Yield the documents of a shard. If a document is a line, blank lines are none.

    Raises: DataError naming file and line.
    """
    is_text = shard.form == "text"
    for document in _texts(shard, reading) if is_text else _not_empty(_records(shard, reading), reading, notes):
        notes.num_rows += 1
        yield document


def last_line_before(shard: Shard) -> str:
    """Return the last line, or its end, before a shard that is not the first of its file."""
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
            f"{shard.file}:{number}: NUL byte. This is not a text file, or one in UTF-16 (then set "
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
    from pyarrow import parquet

    number = shard.first_line
    with (
        reading(f"{shard.file}: unreadable Parquet", "Write the file again.", refusal=DataError),
        parquet.ParquetFile(shard.path) as table,
    ):
        columns.require(shard.file, table.schema_arrow.names)
        groups = list(range(shard.begin, shard.end))
        for batch in table.iter_batches(_RECORDS_PER_BATCH, groups, columns.names, use_threads=False):
            for record in parquet_records(batch):
                yield Row(columns.values(record, f"{shard.file}:{number}"), shard.file, number)
                number += 1


def _not_empty(rows: Iterable[Row], reading: CorpusReading, notes: ReadingNotes) -> Iterator[Document]:
    for row in rows:
        text = row.values[reading.text_column]
        if not isinstance(text, str | None):
            raise list_for_text(row, reading.text_column, "data.text_column")
        if text is not None and ((text and not text.isspace()) or reading.empty == "keep"):
            yield Document(text, row.line, text)
        elif reading.empty == "skip":
            notes.num_empty_skipped += 1
            notes.first_empty_line = notes.first_empty_line or row.line
        else:
            raise empty_cell(row, reading.text_column)
