"""Rows of the formats that are neither tables in text nor tagged tokens: plain and labelled lines, JSON, Parquet."""

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from lightrail.datamodules.reading.files import existing_file, refuse_web_page
from lightrail.datamodules.reading.rows import Columns, Row
from lightrail.project.basics.errors import DataError, first_line, shown
from lightrail.project.basics.reading import reading

if TYPE_CHECKING:
    from pyarrow import RecordBatch

_ROWS_PER_BATCH = 1024
_LABEL_MARK = "__label__"


_BETWEEN = " \t\r\n,"


def read_text(file: str, lines: Iterator[str], columns: Columns) -> Iterator[Row]:
    """Yield each line as column `text`, or as the single requested column of any name."""
    if len(columns.names) != 1:
        first = next(lines, "")
        lines = itertools.chain([first], lines)
        columns.require(file, ["text"], instead=_table_advice(first, columns))
    for number, line in enumerate(lines, 1):
        yield Row(dict.fromkeys(columns.names, line), file, number)


def _table_advice(first: str, columns: Columns) -> str:
    for separator, file_format in (("\t", "tsv"), (",", "csv"), (";", "csv")):
        if set(columns.names) <= {name.strip(' "') for name in first.split(separator)}:
            return f"The first line names the columns of a table: set data.reading.file_format={file_format}."
    return "A file of plain lines has no other columns: name a table (.csv, .tsv, .jsonl, .parquet)."


def read_labelled(file: str, lines: Iterator[str], columns: Columns) -> Iterator[Row]:
    """Yield each line as columns `label`, up to the first white space, and `text`, the rest; skip blank lines.

    In fastText's format `__label__` precedes every label, and there may be several, or none: a list then.
    """
    columns.require(file, ["label", "text"])
    is_marked: bool | None = None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        is_marked = line.lstrip().startswith(_LABEL_MARK) if is_marked is None else is_marked
        label, text = _marked_labels(line) if is_marked else _first_field(f"{file}:{number}", line)
        values = {"label": label, "text": text}
        yield Row({name: values[name] for name in columns.names}, file, number)


def _first_field(where: str, line: str) -> tuple[str, str]:
    label, *text = line.split(maxsplit=1)
    if not text:
        raise DataError(
            f"{where}: {shown(line)} is a label without a text, or a text without a label. Write LABEL TEXT."
        )
    return label, text[0].rstrip()


def _marked_labels(line: str) -> tuple[str | list[str], str]:
    labels = []
    while line.lstrip().startswith(_LABEL_MARK):
        label, *rest = line.split(maxsplit=1)
        labels.append(label.removeprefix(_LABEL_MARK))
        line = rest[0] if rest else ""
    return labels[0] if len(labels) == 1 else labels, line.strip()


def read_json_lines(file: str, lines: Iterable[str], columns: Columns, first_line: int = 1) -> Iterator[Row]:
    """Yield the JSON object of each line; skip blank lines."""
    for number, line in enumerate(lines, first_line):
        if not line.strip():
            continue
        where = f"{file}:{number}"
        record = _json_object(where, line)
        columns.require(where, record, instead=_advice(record))
        yield Row(columns.values(record, where), file, number)


def _json_object(where: str, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line.removeprefix("\ufeff"))  # the mark of a file that was appended to another
    except (ValueError, RecursionError) as error:  # no JSON; a number of 5,000 digits; deep nesting
        raise DataError(
            f"{where}: invalid JSON: {_reason(error)}. {_JSON_ADVICE[line.lstrip()[:1] == '[']}."
        ) from error
    if not isinstance(record, dict):
        raise DataError(f'{where}: expected an object ({{"text": ...}}), found {type(record).__name__}. Fix the line.')
    return record


_JSON_ADVICE = ("Fix or drop the line", "If the file is one JSON array, write one object per line instead")


def _reason(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.colno}"
    return first_line(error)


def read_parquet(file: str, columns: Columns) -> Iterator[Row]:
    """Yield the records of a Parquet file; a row's `line` is the number of the record."""
    from pyarrow import parquet  # here: it takes a second, which other formats do not need

    path = existing_file(file)
    refuse_web_page(file)
    with (
        reading(f"{file}: unreadable Parquet", "Write the file again.", refusal=DataError),
        parquet.ParquetFile(path, memory_map=True) as table,
    ):
        columns.require(file, table.schema_arrow.names)
        batches = table.iter_batches(batch_size=_ROWS_PER_BATCH, columns=columns.names)
        for number, record in enumerate(itertools.chain.from_iterable(map(parquet_records, batches)), 1):
            yield Row(columns.values(record, f"{file}:{number}"), file, number)


def parquet_records(batch: "RecordBatch") -> list[dict[str, Any]]:
    """Return the records of a batch, whose values a damaged file may place anywhere: they are checked first."""
    batch.validate(full=True)
    records: list[dict[str, Any]] = batch.to_pylist()
    return records


def read_json(file: str, lines: Iterator[str], columns: Columns) -> Iterator[Row]:
    """Yield the objects of JSON lines, or of one JSON array.

    Raises: DataError when the file is one JSON object instead, whose rows may be under a key.
    """
    start = []
    for line in lines:
        start.append(line)
        if line.strip() and len(start) >= _LINES_OF_START:
            break
    text = "\n".join(start)
    _refuse_one_object(file, text.lstrip(), columns)
    is_array = text.lstrip().startswith("[")
    return (read_json_array if is_array else read_json_lines)(file, itertools.chain(start, lines), columns)


_LINES_OF_START = 8
_KEY = re.compile(r'\{\s*"((?:[^"\\]|\\.){1,80})"\s*:\s*\[\s*\{')


def _refuse_one_object(file: str, start: str, columns: Columns) -> None:
    first = start.partition("\n")[0]
    key = _KEY.match(start)
    if not first.startswith("{") or _is_json(first):
        return
    if key and key[1] not in columns.names:
        raise DataError(f"{file}:1: the file is one JSON object. {_under_key(key[1])}")
    rest = start.partition("\n")[2].lstrip()
    if rest and (first.strip() == "{" or not rest.startswith("{")):
        raise DataError(
            f"{file}:1: the JSON objects are spread over several lines. Write one object on each line "
            f"(jq -c . FILE > NEW.jsonl), or an array of objects."
        )


def _advice(record: Mapping[str, Any]) -> str:
    lists = (key for key, value in record.items() if isinstance(value, list) and value and isinstance(value[0], dict))
    key = next(lists, None)
    return "" if key is None else _under_key(key)


def _under_key(key: str) -> str:
    return (
        f"Its rows seem to be in the list under the key {shown(key)}: write that list alone "
        f"(jq .{key} FILE > NEW.json)."
    )


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def read_json_array(file: str, lines: Iterator[str], columns: Columns) -> Iterator[Row]:
    """Yield the objects of a JSON array, each with the line on which it begins, without reading the whole file."""
    for line, record in array_items(file, lines):
        where = f"{file}:{line}"
        if not isinstance(record, dict):
            raise DataError(f"{where}: expected an object in the array, found {shown(record, 40)}. Fix it.")
        columns.require(where, record)
        yield Row(columns.values(record, where), file, line)


def array_items(file: str, lines: Iterator[str]) -> Iterator[tuple[int, Any]]:
    """Yield the items with the line on which each begins. Missing commas between them are accepted."""
    decoder = json.JSONDecoder()
    text, place, first_line, is_begun = "", 0, 1, False
    for number, line in enumerate(lines, 1):
        if place == len(text):  # no incomplete item is buffered
            first_line = number
        text = text[place:] + line + "\n"
        place = _next(text, 0)
        if not is_begun and place < len(text):
            place, is_begun = _next(text, place + 1), True
        while place < len(text):
            if text[place] == "]":
                if any(rest.strip(_BETWEEN) for rest in itertools.chain([text[place + 1 :]], lines)):
                    raise DataError(f"{file}:{number}: text follows the array. Write all rows into one array.")
                return
            try:
                item, end = decoder.raw_decode(text, place)
            except (ValueError, RecursionError) as error:
                if isinstance(error, json.JSONDecodeError) and error.pos >= len(text.rstrip()):
                    break  # merely for want of the next line
                raise DataError(f"{file}:{number}: invalid JSON: {_reason(error)}. Fix this item.") from error
            yield first_line, item
            # The next item begins on the line on which this one ends.
            place, first_line = _next(text, end), number
    raise DataError(f"{file}:{first_line}: the array is not closed by ]. The file is truncated: copy it again.")


def _next(text: str, place: int) -> int:
    """The position of the next character that is neither white space nor a comma."""
    while place < len(text) and text[place] in _BETWEEN:
        place += 1
    return place
