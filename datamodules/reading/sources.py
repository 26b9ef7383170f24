"""Reading of rows from any source, digests of sources, and temporary storage of rows."""

import csv
import itertools
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightrail.datamodules.cache import digest_of, file_digest
from lightrail.datamodules.reading import hub
from lightrail.datamodules.reading.embedded import embedded_file, embedded_set
from lightrail.datamodules.reading.files import PARQUET_MAGIC, STANDARD_INPUT, existing_file, refuse_web_page
from lightrail.datamodules.reading.lines import read_lines
from lightrail.datamodules.reading.parallel import parallel_files, read_parallel
from lightrail.datamodules.reading.records import (
    array_items,
    read_json,
    read_labelled,
    read_parquet,
    read_text,
)
from lightrail.datamodules.reading.rows import (
    Columns,
    Empty,
    FileFormat,
    Quoting,
    ReadingNotes,
    ReadingOptions,
    Row,
    TaggedLines,
    empty_cell,
)
from lightrail.datamodules.reading.tagged_lines import is_conllu, read_conllu, read_tagged_tokens
from lightrail.project.basics.did_you_mean import first_names, nearest
from lightrail.project.basics.errors import DataError, first_line, shown

log = logging.getLogger(__name__)

EMBEDDED_PREFIX = "embedded:"

FORMATS: dict[str, FileFormat] = {
    ".txt": "txt",
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".conll": "conll",
    ".bmes": "conll",
    ".bio": "conll",
    ".iob2": "conll",
    ".conllu": "conllu",
    ".conllup": "conllu",
}


def read_rows(
    source: str,
    *,
    columns: Sequence[str] | Mapping[str, str] | Columns,
    encoding: str = "utf-8",
    quoting: Quoting = "auto",
    empty: Empty = "refuse",
    file_format: FileFormat = "auto",
    column_names: Sequence[str] = (),
    tagged_lines: TaggedLines = TaggedLines(),
    structured: Sequence[str] = (),
    notes: ReadingNotes | None = None,
) -> Iterator[Row]:
    """Yield the rows of a source one by one, without keeping them in memory.

    Args:
        source: a file (.txt, .csv, .tsv, .jsonl, .parquet, .conll, .bmes, .bio, .conllu; text may be .gz), `-` for
            standard input with one text per line, the common beginning of parallel files that end in the columns'
            names, `embedded:NAME`, or `hub:OWNER/NAME[:CONFIG]@SPLIT`.
        columns: the requested columns, or columns by setting: the error of a missing one then names its setting. Or
            `Columns`, which say more; `structured` is then ignored.
        empty: treatment of a row with only white space in one of the columns. Skipped rows are counted in `notes` and
            in the log.
        file_format: overrides the format by the file's name.
        column_names: names of the columns of a .csv or .tsv file without a header line.
        tagged_lines: layout of lines of tagged tokens.
        structured: columns that may hold lists of lists and objects, whose parsed values are kept.
        notes: filled while reading.

    Raises:
        DataError: naming file and line, at the first row or a later one.
    """
    options = ReadingOptions(
        columns=columns if isinstance(columns, Columns) else Columns(columns, structured),
        encoding=encoding,
        quoting=quoting,
        empty=empty,
        file_format=file_format,
        column_names=column_names,
        tagged_lines=tagged_lines,
    )
    notes = ReadingNotes() if notes is None else notes
    yield from _checked(_open_rows(source, options, notes), source, options, notes)


GIVEN = "input"
"""What a message names in place of a file, for records that a caller gives."""


def rows_given(inputs: Sequence[Any], columns: Columns, empty: Empty = "refuse") -> Iterator[Row]:
    """Yield the records that a caller gives, each a text or a mapping by column; `line` is their number, from 1.

    Raises:
        DataError: naming the number, for a record that a JSON line with these values would be refused for.
    """
    options = ReadingOptions(columns=columns, empty=empty)
    for number, own in enumerate(inputs, 1):
        where = f"{GIVEN}:{number}"
        if isinstance(own, str) and len(columns.names) != 1:
            names = ", ".join(columns.names)
            raise DataError(f"{where}: a text, and the model reads {len(columns.names)} columns. Give {names} by name.")
        record = {columns.names[0]: own} if isinstance(own, str) else own
        if not isinstance(record, Mapping):
            raise DataError(f"{where}: expected a text, or an object with {columns.names[0]}, found {shown(own, 40)}.")
        columns.require(where, record)
        row = Row(columns.values(record, where), GIVEN, number)
        blank = _blank_column(row, options)
        if blank is None:
            columns.check_texts(row)
            yield row
        elif empty != "skip":
            raise empty_cell(row, blank)


def _open_rows(source: str, options: ReadingOptions, notes: ReadingNotes) -> Iterable[Row]:
    if source.startswith(hub.PREFIX):
        return hub.read_hub(source, options.columns)
    if source.startswith(EMBEDDED_PREFIX):
        from lightrail.datamodules.reading.embedded import read_embedded  # here: it imports this package itself

        return read_embedded(source, options.columns)
    if files := parallel_files(source, options.columns):
        return read_parallel(files, options.encoding)
    if source != STANDARD_INPUT:
        existing_file(source)
    file_format = format_of(source) if options.file_format == "auto" else options.file_format
    if file_format == "parquet":
        return read_parquet(source, options.columns)
    return _open_text(source, file_format, options, notes)


def _open_text(source: str, file_format: FileFormat, options: ReadingOptions, notes: ReadingNotes) -> Iterable[Row]:
    if file_format in ("csv", "tsv", "jsonl") and source != STANDARD_INPUT:
        refuse_web_page(source)
    lines = read_lines(source, options.encoding)
    match file_format:
        case "jsonl":
            return read_json(source, lines, options.columns)
        case "conll" | "conllu":
            read = read_conllu if file_format == "conllu" else read_tagged_tokens
            return read(source, lines, options.columns, options.tagged_lines, notes)
        case "labelled":
            return read_labelled(source, lines, options.columns)
        case "csv":
            return read_table(source, lines, ",", options, notes)
        case "tsv":
            return read_table(source, lines, "\t", options, notes)
    return read_text(source, lines, options.columns)


def format_of(source: str) -> FileFormat:
    """Return the format of a file by its name. Raises: DataError when its ending is unknown."""
    path = Path(source)
    suffix = (path.with_suffix("") if path.suffix == ".gz" else path).suffix.lower()
    if source == STANDARD_INPUT:
        return "txt"
    if suffix in FORMATS:
        return FORMATS[suffix]
    near = nearest(suffix, FORMATS)
    raise DataError(
        f"{source}: {f'the ending {shown(suffix)} is no known format' if suffix else 'the name has no ending'}"
        f"{f' (did you mean {near[0]}?)' if near else ''}. Rename the file to one of {', '.join(FORMATS)}, "
        f"or set data.reading.file_format (txt, csv, tsv, jsonl, parquet, conll, conllu, or labelled for lines of "
        f"LABEL TEXT)."
    )


def tagged_format(source: str, encoding: str) -> FileFormat:
    """Return the format of a file of entities by its first lines: Parquet, JSON, CoNLL-U, or lines of tagged tokens."""
    with existing_file(source).open("rb") as stream:
        if stream.read(len(PARQUET_MAGIC)) == PARQUET_MAGIC:
            return "parquet"
    start = list(itertools.islice(read_lines(source, encoding), _LINES_OF_START))
    if _JSON_START.match(" ".join(itertools.islice(filter(None, map(str.strip, start)), 3))):
        return "jsonl"
    return "conllu" if is_conllu(start) else "conll"


_LINES_OF_START = 100
_JSON_START = re.compile(r'\{ ?"(?:[^"\\]|\\.)*" ?:|\[ ?\{ ?"')


def _checked(rows: Iterable[Row], source: str, options: ReadingOptions, notes: ReadingNotes) -> Iterator[Row]:
    """Yield rows, counting them and treating empty cells as requested."""
    for row in rows:
        blank = _blank_column(row, options)
        if blank is None:
            options.columns.check_texts(row)
            notes.num_rows += 1
            yield row
        elif options.empty == "skip":
            notes.num_empty_skipped += 1
            notes.first_empty_line = notes.first_empty_line or row.line
        else:
            raise empty_cell(row, blank)
    options.columns.check_found(source)
    if notes.num_empty_skipped:
        log.warning(
            "skipped %d rows with an empty cell in %s, the first at line %d",
            notes.num_empty_skipped,
            source,
            notes.first_empty_line,
        )
    if notes.num_rows == 0:
        why = f"all {notes.num_empty_skipped} were skipped as empty" if notes.num_empty_skipped else "nothing to read"
        name, given = ("standard input", "") if source == STANDARD_INPUT else (source, "a file with ")
        raise DataError(f"{name} holds no rows ({why}). Give {given}at least one.")


def _blank_column(row: Row, options: ReadingOptions) -> str | None:
    for name, value in row.values.items():
        if name in options.columns.structured:  # an empty list is a valid value
            if value is None and options.empty == "skip" and name not in options.columns.optional:
                return name
            continue
        is_blank = not value or (isinstance(value, str) and value.isspace())
        if value is None or (is_blank and options.empty != "keep"):
            return name
    return None


def source_digest(source: str, file_format: FileFormat = "auto", columns: Columns | None = None) -> str:
    """Digest the content and the format of a file, or the content of an embedded set or a Hugging Face data set.

    Args:
        columns: those that may have a file each; see `parallel_files`.

    Raises: DataError when there is no such source, or its format is unknown.
    """
    if source.startswith(EMBEDDED_PREFIX):
        return digest_of([source, [file_digest(embedded_file(path)) for path in embedded_set(source).files]])
    if source.startswith(hub.PREFIX):
        return digest_of([source, [file_digest(file["filename"]) for file in hub.load_hub(source).cache_files]])
    if source == STANDARD_INPUT:
        raise DataError("standard input is read once, for texts to predict. Name a file, to read it for training.")
    if columns is not None and (files := parallel_files(source, columns)):
        return digest_of([[name, file_digest(Path(file).expanduser())] for name, file in files.items()])
    path = existing_file(source)
    return digest_of([file_digest(path), format_of(source) if file_format == "auto" else file_format])


def column_names(source: str, file_format: FileFormat, encoding: str = "utf-8") -> list[str]:
    """Return the names of the columns that a source states itself; [] if it states none, or is unreadable.

    Args:
        file_format: format of a file, not `auto`.
    """
    if source.startswith(EMBEDDED_PREFIX):
        return list(embedded_set(source).columns)
    if source.startswith(hub.PREFIX):
        return list(hub.load_hub(source).column_names)
    if file_format == "parquet":
        return _of_parquet(source)
    return _of_first_record(read_lines(source, encoding)) if file_format == "jsonl" else []


def _of_parquet(source: str) -> list[str]:
    from pyarrow import parquet

    try:
        return list(parquet.read_schema(existing_file(source)).names)
    except Exception:  # reading its rows raises the error
        return []


def _of_first_record(lines: Iterator[str]) -> list[str]:
    first = next((line for line in lines if line.strip()), "")
    try:
        is_array = first.lstrip().startswith("[")
        record = next(array_items("", itertools.chain([first], lines)))[1] if is_array else json.loads(first or "{}")
    except (ValueError, RecursionError, DataError, StopIteration):
        return []  # reading its rows raises the error
    return list(record) if isinstance(record, dict) else []


# An unclosed quote would take the rest of the file into memory; the csv module's own limit refuses real long texts.
_MAX_FIELD_CHARACTERS = 16 * 2**20
_DELIMITER_NAMES = {",": "comma", "\t": "tab"}


def read_table(
    file: str, lines: Iterator[str], delimiter: str, options: ReadingOptions, notes: ReadingNotes
) -> Iterator[Row]:
    """Yield the rows of a table whose first line names its columns, unless `options.column_names` does."""
    # In a .tsv file a quote is an ordinary character: by the rules of csv, a text that begins with a quote would merge
    # the rows up to the next quote (454 of 9,600 in one well-known corpus).
    is_quoted = options.quoting == "standard" or (options.quoting == "auto" and delimiter == ",")
    records = _quoted_records(file, lines, delimiter, notes) if is_quoted else _plain_records(lines, delimiter)
    named = (fields for _, fields in records if any(map(str.strip, fields)))  # lines before the header may be blank
    header = [name.strip() for name in options.column_names or next(named, [])]
    if not header:
        return
    options.columns.require(file, header, **_header_advice(header, options.column_names))
    positions = [(name, header.index(name)) for name in options.columns.names]
    for line, fields in records:
        if len(header) > 1 and [name.strip("\ufeff \t") for name in fields] == header:
            raise DataError(
                f"{file}:{line}: this row is the names of the columns, as of files that were joined. Drop the line"
                + (", or omit data.reading.column_names, since the file has them." if options.column_names else ".")
            )
        if len(fields) == len(header):
            yield Row({name: fields[position] for name, position in positions}, file, line)
        elif any(fields):  # a blank line is no record
            raise _ragged(f"{file}:{line}", fields, header, _ragged_advice(delimiter, is_quoted))


def _plain_records(lines: Iterator[str], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(lines, 1):
        yield number, line.split(delimiter)


def _quoted_records(
    file: str, lines: Iterator[str], delimiter: str, notes: ReadingNotes
) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(_MAX_FIELD_CHARACTERS)
    reader = csv.reader((line + "\n" for line in lines), delimiter=delimiter, strict=True)
    start = 1
    try:
        for fields in reader:
            if reader.line_num > start:
                notes.num_multiline_fields += 1
                notes.first_multiline_line = notes.first_multiline_line or start
            yield start, fields or [""]
            start = reader.line_num + 1
    except csv.Error as error:
        if "new-line" in str(error):
            raise DataError(
                f"{file}:{start}: a carriage return (CR) inside a field without quotes. Convert the line ends of the "
                f"file (dos2unix, mac2unix), or quote the field."
            ) from error
        raise DataError(
            f"{file}:{start}: the quotes of this record do not match ({first_line(error)}). Close them, double a "
            f'quote inside a quoted field (""), or, if quotes are ordinary characters here, set '
            f"data.reading.quoting=none."
        ) from error


def _header_advice(header: list[str], column_names: Sequence[str]) -> dict[str, str]:
    if column_names:
        return {"hint": " (The columns were named by data.reading.column_names.)"}
    if header[0].lower().startswith("sep="):
        return {"instead": "The first line is a mark of Excel: remove it, and save the table with commas."}
    for delimiter, advice in (
        (";", "save it with commas"),
        ("|", "save it with commas"),
        ("\t", "name it .tsv"),
        (",", "name it .csv"),
    ):
        if len(header) == 1 and delimiter in header[0]:
            return {"instead": f"The first line looks separated by {shown(delimiter)}: {advice}."}
    return {
        "hint": " The first line must name the columns; for a file without such a line set data.reading.column_names."
    }


def _ragged(where: str, fields: list[str], header: list[str], advice: str) -> DataError:
    return DataError(
        f"{where}: {len(fields)} field{'s' * (len(fields) != 1)} found, {len(header)} expected "
        f"({first_names(header)}): {shown(' | '.join(fields[:60]), 60)}. {advice}."
    )


def _ragged_advice(delimiter: str, is_quoted: bool) -> str:
    name = _DELIMITER_NAMES[delimiter]
    if is_quoted:
        return f"Put fields that hold a {name} in quotes"
    return f"Remove {name}s and line ends from the fields, or set data.reading.quoting=standard if fields are quoted"
