"""Rows of the formats that are not tables in text: plain lines, JSON Lines, tagged tokens, Parquet."""

import json
from collections.abc import Iterator
from typing import Any

from datamodules.reading.lines import existing_file
from datamodules.reading.rows import Columns, Row, text_value
from project.errors import DataError

_ROWS_PER_BATCH = 1024


def read_text(file: str, lines: Iterator[str], columns: Columns) -> Iterator[Row]:
    """Yield each line as column `text`, or as the one column that is asked for, whatever its name."""
    if len(columns.names) != 1:
        columns.require(file, ["text"])
    for number, line in enumerate(lines, 1):
        yield Row(dict.fromkeys(columns.names, line), file, number)


def read_json_lines(file: str, lines: Iterator[str], columns: Columns) -> Iterator[Row]:
    """Yield each line's JSON object; blank lines hold no record."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{file}:{number}"
        record = _json_object(where, line)
        columns.require(where, record)
        yield Row({name: text_value(record[name], where, name) for name in columns.names}, file, number)


def _json_object(where: str, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        is_array = line.lstrip().startswith("[") and where.endswith(":1")
        advice = "The file is one JSON array: write one object a line instead" if is_array else "Fix or drop the line"
        raise DataError(f"{where}: no JSON: {error.msg} at character {error.pos + 1}. {advice}.") from error
    if not isinstance(record, dict):
        raise DataError(f'{where}: {type(record).__name__} found, an object ({{"text": ...}}) is needed. Fix the line.')
    return record


def read_tagged_tokens(file: str, lines: Iterator[str], columns: Columns) -> Iterator[Row]:
    """Yield each sentence as columns `tokens` (first field of its lines) and `tags` (last field).

    A blank line or a -DOCSTART- line ends a sentence. Fields are separated by tabs where a line has one, else by
    spaces: other white space, such as the ideographic space, is a token in some corpora.
    """
    columns.require(file, ["tokens", "tags"])
    num_fields = 0
    sentence: list[list[str]] = []
    number = 0
    for number, line in enumerate(lines, 1):
        if not line.strip(" \t") or line.startswith("-DOCSTART-"):
            if sentence:
                yield _tagged_row(sentence, columns, file, number - len(sentence))
            sentence = []
            continue
        fields = [field.strip(" ") for field in line.split("\t" if "\t" in line else " ") if field.strip(" ")]
        num_fields = num_fields or max(len(fields), 2)
        if len(fields) != num_fields:
            raise DataError(
                f"{file}:{number}: {len(fields)} field{'s' * (len(fields) != 1)} in {line!r}, {num_fields} expected: "
                f"a token first and its tag last, separated by a tab or spaces. Fix the line; separate by tabs if a "
                f"token is itself a space."
            )
        sentence.append(fields)
    if sentence:
        yield _tagged_row(sentence, columns, file, number - len(sentence) + 1)


def _tagged_row(sentence: list[list[str]], columns: Columns, file: str, line: int) -> Row:
    values = {"tokens": [fields[0] for fields in sentence], "tags": [fields[-1] for fields in sentence]}
    return Row({name: values[name] for name in columns.names}, file, line)


def read_parquet(file: str, columns: Columns) -> Iterator[Row]:
    """Yield the records of a Parquet file; a row's `line` is the number of the record."""
    from pyarrow import ArrowException, parquet  # a second of start-up that other formats do not need

    path = existing_file(file)
    number = 0
    try:
        with parquet.ParquetFile(path, memory_map=True) as table:
            columns.require(file, table.schema_arrow.names)
            for batch in table.iter_batches(batch_size=_ROWS_PER_BATCH, columns=columns.names):
                for record in batch.to_pylist():
                    number += 1
                    where = f"{file}:{number}"
                    values = {name: text_value(record[name], where, name) for name in columns.names}
                    yield Row(values, file, number)
    except ArrowException as error:
        raise DataError(f"{file}: no readable Parquet after record {number}: {error}. Write the file again.") from error
