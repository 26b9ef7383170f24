"""Rows of the formats that are not tables in text: plain lines, labelled lines, tagged tokens, JSON, Parquet."""

import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any

from lightrail.datamodules.reading.rows import Columns, Row, TaggedLines, existing_file
from lightrail.project.basics.errors import ConfigError, DataError, shown

_ROWS_PER_BATCH = 1024
_LABEL_MARK = "__label__"


_BETWEEN = " \t\r\n,"


def read_text(file: str, lines: Iterator[str], columns: Columns) -> Iterator[Row]:
    """Yield each line as column `text`, or as the single requested column of any name."""
    if len(columns.names) != 1:
        columns.require(file, ["text"])
    for number, line in enumerate(lines, 1):
        yield Row(dict.fromkeys(columns.names, line), file, number)


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
        columns.require(where, record)
        yield Row(columns.values(record, where), file, number)


def _json_object(where: str, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        is_array = line.lstrip().startswith("[") and where.endswith(":1")
        advice = "The file is one JSON array: write one object per line instead" if is_array else "Fix or drop the line"
        raise DataError(f"{where}: invalid JSON: {error.msg} at character {error.pos + 1}. {advice}.") from error
    if not isinstance(record, dict):
        raise DataError(f'{where}: expected an object ({{"text": ...}}), found {type(record).__name__}. Fix the line.')
    return record


def read_parquet(file: str, columns: Columns) -> Iterator[Row]:
    """Yield the records of a Parquet file; a row's `line` is the number of the record."""
    from pyarrow import ArrowException, parquet  # here: it takes a second, which other formats do not need

    path = existing_file(file)
    number = 0
    try:
        with parquet.ParquetFile(path, memory_map=True) as table:
            columns.require(file, table.schema_arrow.names)
            for batch in table.iter_batches(batch_size=_ROWS_PER_BATCH, columns=columns.names):
                for record in batch.to_pylist():
                    number += 1
                    where = f"{file}:{number}"
                    yield Row(columns.values(record, where), file, number)
    except ArrowException as error:
        raise DataError(f"{file}: unreadable Parquet after record {number}: {error}. Write the file again.") from error


def begins_array(lines: Iterator[str]) -> tuple[bool, Iterator[str]]:
    """Check whether the first non-blank line starts a JSON array; return that, and an iterator of all lines."""
    seen = []
    for line in lines:
        seen.append(line)
        if line.strip():
            break
    return bool(seen) and seen[-1].lstrip().startswith("["), itertools.chain(seen, lines)


def read_json_array(file: str, lines: Iterator[str], columns: Columns) -> Iterator[Row]:
    """Yield the objects of a JSON array, each with the line on which it begins, without reading the whole file."""
    for line, record in _items(file, lines):
        where = f"{file}:{line}"
        if not isinstance(record, dict):
            raise DataError(f"{where}: expected an object in the array, found {shown(record, 40)}. Fix it.")
        columns.require(where, record)
        yield Row(columns.values(record, where), file, line)


def _items(file: str, lines: Iterator[str]) -> Iterator[tuple[int, Any]]:
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
                return
            try:
                item, end = decoder.raw_decode(text, place)
            except json.JSONDecodeError as error:
                if error.pos < len(text.rstrip()):  # not merely for want of the next line
                    raise DataError(
                        f"{file}:{number}: invalid JSON: {error.msg} at character {error.colno}. Fix this item."
                    ) from error
                break
            yield first_line, item
            # The next item begins on the line on which this one ends.
            place, first_line = _next(text, end), number
    raise DataError(f"{file}:{first_line}: the array is not closed by ]. The file is truncated: copy it again.")


def _next(text: str, place: int) -> int:
    """The position of the next character that is neither white space nor a comma."""
    while place < len(text) and text[place] in _BETWEEN:
        place += 1
    return place


_NAMED_SEPARATORS = {"tab": "\t", "space": " "}


def read_tagged_tokens(file: str, lines: Iterator[str], columns: Columns, layout: TaggedLines) -> Iterator[Row]:
    """Yield each sentence as columns `tokens` and `tags`; `line` is that of its first token.

    A blank line or a -DOCSTART- line ends a sentence. White space that is neither tab nor space, such as the
    ideographic space, is a token in some corpora; so is a space in a line separated by tabs.
    """
    columns.require(file, ["tokens", "tags"])
    layout.check()
    reader = _LineReader(file, layout, has_tags="tags" in columns.names)
    sentence: list[tuple[str, str]] = []
    number = 0
    for number, line in enumerate(lines, 1):
        if line.strip(" \t") and not line.startswith("-DOCSTART-"):
            sentence.append(reader.read(line, number))
        elif sentence:
            yield _row(sentence, columns, file, number - len(sentence))
            sentence = []
    if sentence:
        yield _row(sentence, columns, file, number - len(sentence) + 1)


def _row(sentence: list[tuple[str, str]], columns: Columns, file: str, line: int) -> Row:
    tokens, tags = zip(*sentence, strict=True)
    values = {"tokens": list(tokens), "tags": list(tags)}
    return Row({name: values[name] for name in columns.names}, file, line)


class _LineReader:
    """Extracts token and tag from each line; every line has the same number of fields."""

    def __init__(self, file: str, layout: TaggedLines, *, has_tags: bool) -> None:
        self.file, self.layout, self.has_tags = file, layout, has_tags
        self.separator = _NAMED_SEPARATORS.get(layout.separator, layout.separator)
        self.num_fields = 0
        self.token_place, self.tag_place = layout.token_column, layout.tag_column

    def read(self, line: str, number: int) -> tuple[str, str]:
        fields = self._fields(line)
        if len(fields) != self.num_fields:
            self._settle(fields, line, number)
        token = fields[self.token_place]
        if self.layout.strip_position_digits:
            token = self._without_digit(token, number)
        return token, fields[self.tag_place] if self.has_tags else ""

    def _fields(self, line: str) -> list[str]:
        line = line.rstrip("\t ")
        separator = self.separator
        if separator == "auto":
            separator = "\t" if "\t" in line else " "
        if separator == " ":
            return [field for field in line.split(" ") if field]
        return [field.strip(" \t") or field for field in line.split(separator) if field]

    def _settle(self, fields: list[str], line: str, number: int) -> None:
        """Set the number of fields by the first line; refuse a line that differs."""
        expected = self.num_fields or max(len(fields), 1 + self.has_tags)
        if len(fields) != expected:
            raise DataError(
                f"{self.file}:{number}: {len(fields)} field{'s' * (len(fields) != 1)} in {shown(line)}, "
                f"{expected} expected{': a token and its tag, separated by a tab or spaces' if expected == 2 else ''}. "
                f"Fix the line; separate by tabs if a token is itself a space, or set data.tagged_lines.separator."
            )
        self.num_fields = expected
        self.token_place = self._place("token_column", line, number)
        if self.has_tags:
            self.tag_place = self._place("tag_column", line, number)
            if self.tag_place == self.token_place:
                raise ConfigError(
                    f"{self.file}:{number}: data.tagged_lines names column {self.tag_place} of {shown(line)} for "
                    f"the token and for the tag. Give each its own column."
                )

    def _place(self, setting: str, line: str, number: int) -> int:
        place: int = getattr(self.layout, setting)
        if not -self.num_fields <= place < self.num_fields:
            raise ConfigError(
                f"data.tagged_lines.{setting} is {place}, and {self.file}:{number} has {self.num_fields} columns "
                f"({shown(line)}). Give 0 to {self.num_fields - 1}, or -1 for the last."
            )
        return place % self.num_fields

    def _without_digit(self, token: str, number: int) -> str:
        if len(token) < 2 or token[-1] not in "0123456789":
            raise DataError(
                f"{self.file}:{number}: the token {shown(token)} does not end in the digit of its position. Fix the "
                f"line, or set data.tagged_lines.strip_position_digits=false."
            )
        return token[:-1]
