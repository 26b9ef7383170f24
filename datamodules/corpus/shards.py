"""Divides sources into shards: stretches of a file that hold whole documents, whatever the number of processes.

What cannot be read from the middle (compressed files, tables, data sets) is first written out as plain lines.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from lightrail.datamodules.cache import file_digest
from lightrail.datamodules.corpus.files import file_format_of, is_file
from lightrail.datamodules.reading import Empty, FileFormat, Quoting, ReadingNotes, read_rows
from lightrail.datamodules.reading.lines import GZIP_MAGIC, STANDARD_INPUT, ZIP_MAGIC, is_bytewise, read_lines
from lightrail.project.basics.errors import DataError

SHARD_BYTES = 8 * 2**20
MOST_BYTES = 64 * 2**20
"""A line or a paragraph of more is refused: a process holds all of it in memory, several times."""

Form = Literal["text", "jsonl", "parquet", "rows"]
DocumentKind = Literal["line", "paragraph", "file"]
Range = tuple[int, int, int, int]
"""Begin, end, bytes and first line of a shard."""


@dataclass(frozen=True, kw_only=True)
class CorpusReading:
    """How sources are read; the datamodule says what each means."""

    document: DocumentKind
    text_column: str
    encoding: str
    file_format: FileFormat
    quoting: Quoting
    column_names: Sequence[str]
    empty: Empty


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A stretch of one file."""

    path: str
    """Where the bytes lie."""
    file: str
    """As the user is told."""
    form: Form
    """rows: lines of a JSON array each, of a text and the line it stands on."""
    encoding: str
    begin: int
    """First byte; of Parquet the first row group."""
    end: int
    num_bytes: int
    """How much there is to encode."""
    first_line: int
    """Number of the first line, or record, in the file."""
    is_last: bool
    """Whether the file ends with it."""
    file_key: str
    """Stands for the content of the file, where a document is a whole file."""


def shards_of(file: str, reading: CorpusReading, notes: ReadingNotes, spool: Path) -> list[Shard]:
    """Divide one file, data set, or standard input.

    Args:
        notes: counts what is skipped where rows are written out.
        spool: where to write what cannot be read from the middle.

    Raises: DataError when it cannot be read, or holds nothing.
    """
    form = _form(file, reading)
    encoding = "utf-8" if form == "rows" else reading.encoding
    path = Path(file)
    if form == "rows" or (form != "parquet" and not _is_readable_from_the_middle(file, encoding)):
        lines = _rows_as_lines(file, reading, notes) if form == "rows" else read_lines(file, encoding)
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


def _is_readable_from_the_middle(file: str, encoding: str) -> bool:
    if file == STANDARD_INPUT or not is_bytewise(encoding) or file.endswith(".gz"):
        return False
    with Path(file).open("rb") as stream:
        return not stream.read(4).startswith((GZIP_MAGIC, ZIP_MAGIC))


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
    """Make each row group a shard."""
    from pyarrow import ArrowException, parquet

    try:
        facts = parquet.read_metadata(file)
    except (ArrowException, OSError) as error:
        raise DataError(f"{file}: no readable Parquet: {error}. Write the file again.") from error
    first_record = 1
    for group in range(facts.num_row_groups):
        if (own := facts.row_group(group)).num_rows:
            yield group, group + 1, own.total_byte_size, first_record
        first_record += own.num_rows


def _byte_ranges(file: str, path: Path, *, is_paragraph: bool) -> Iterator[Range]:
    """Cut a file into shards behind a line, or behind a blank one."""
    line = 1
    with path.open("rb") as stream:
        size = stream.seek(0, 2)
        begin = 0
        while begin < size:
            stream.seek(begin + SHARD_BYTES)
            end = min(size, _end_of_document(stream, begin, is_paragraph=is_paragraph))
            if end - begin > MOST_BYTES:
                what = "paragraph" if is_paragraph else "line"
                raise DataError(
                    f"{file}:{line}: a {what} from here on goes over {MOST_BYTES // 2**20} MB or more. Cut it into "
                    f"{'paragraphs by blank lines' if is_paragraph else 'lines'}."
                )
            yield begin, end, end - begin, line
            stream.seek(begin)
            line += stream.read(end - begin).count(b"\n")
            begin = end


def _end_of_document(stream: IO[bytes], begin: int, *, is_paragraph: bool) -> int:
    """Find the next place at which no document goes on, or give one too far away."""
    line = stream.readline(MOST_BYTES)  # the rest of one, which is not blank though it may look so
    while is_paragraph and line and stream.tell() - begin <= MOST_BYTES:
        line = stream.readline(MOST_BYTES)
        if not line.strip():
            break
    return stream.tell() if line.endswith(b"\n") or not line else begin + 2 * MOST_BYTES
