"""Rows of tables in text: one record a line (.tsv), or fields in quotes that may go over lines (.csv)."""

import csv
from collections.abc import Iterator, Sequence

from lightrail.datamodules.reading.rows import ReadingNotes, ReadingOptions, Row
from lightrail.project.basics.errors import DataError

# An unclosed quote would take the rest of the file into memory; the csv module's own limit refuses real long texts.
_MAX_FIELD_CHARACTERS = 16 * 2**20
_DELIMITER_NAMES = {",": "comma", "\t": "tab"}


def read_table(
    file: str, lines: Iterator[str], delimiter: str, options: ReadingOptions, notes: ReadingNotes
) -> Iterator[Row]:
    """Yield the rows of a table whose first line names its columns, unless `options.column_names` does.

    Quoting "auto" takes a quote in a .tsv file for an ordinary character: read by the rules of csv, a text that
    begins with a quote swallows the rows up to the next quote (454 of 9,600 in one well-known corpus).
    """
    is_quoted = options.quoting == "standard" or (options.quoting == "auto" and delimiter == ",")
    records = _quoted_records(file, lines, delimiter, notes) if is_quoted else _plain_records(lines, delimiter)
    header = [name.strip() for name in options.column_names or next(records, (1, []))[1]]
    if not header:
        return
    options.columns.require(file, header, _header_hint(header, options.column_names))
    positions = [(name, header.index(name)) for name in options.columns.names]
    for line, fields in records:
        if len(fields) == len(header):
            yield Row({name: fields[position] for name, position in positions}, file, line)
        elif any(fields):  # a blank line holds no record
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
        raise DataError(
            f"{file}:{start}: the quotes of this record do not match ({error}). Close them, double a quote inside "
            f'a quoted field (""), or, if quotes are ordinary characters here, set data.reading.quoting=none.'
        ) from error


def _header_hint(header: list[str], column_names: Sequence[str]) -> str:
    if column_names:
        return " (The columns were named by data.reading.column_names.)"
    for delimiter, advice in ((";", "save it with commas"), ("\t", "name it .tsv"), (",", "name it .csv")):
        if len(header) == 1 and delimiter in header[0]:
            return f" The first line looks separated by {delimiter!r}: {advice}."
    return " The first line must name the columns; if this file has no such line, set data.reading.column_names."


def _ragged(where: str, fields: list[str], header: list[str], advice: str) -> DataError:
    shown = " | ".join(fields)[:60]
    return DataError(
        f"{where}: {len(fields)} field{'s' * (len(fields) != 1)} found, {len(header)} expected "
        f"({', '.join(header)}): {shown!r}. {advice}."
    )


def _ragged_advice(delimiter: str, is_quoted: bool) -> str:
    name = _DELIMITER_NAMES[delimiter]
    if is_quoted:
        return f"Put fields that hold a {name} in quotes"
    return (
        f"Take {name}s and line ends out of the fields, or set data.reading.quoting=standard if fields stand in quotes"
    )
