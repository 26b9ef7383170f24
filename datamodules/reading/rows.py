"""Records of a data set, their requested columns, and the notes of their reader."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lightrail.project.basics.did_you_mean import nearest
from lightrail.project.basics.errors import ConfigError, DataError, shown

MOST_CHARACTERS = 2**24
"""Maximum length of a cell; only the documents of a language model, which are read in blocks, may be longer."""

Quoting = Literal["auto", "standard", "none"]
Empty = Literal["refuse", "skip", "keep"]
FileFormat = Literal["auto", "txt", "csv", "tsv", "jsonl", "parquet", "conll", "conllu", "labelled"]


@dataclass(frozen=True, kw_only=True)
class TaggedLines:
    """Layout of lines of tagged tokens."""

    separator: str = "auto"
    """Separator of the columns: tab, space (one or more), or any text. auto: a tab if a line has one, else spaces."""
    token_column: int | str = 0
    """Column of the token, counted from 0, or from the end with -1; of CoNLL-U its name, FORM in place of 0."""
    tag_column: int | str = -1
    """Column of the tag, counted from 0, or from the end with -1. Of CoNLL-U its name, or a key of MISC; -1 is a column
    or a key named NER, NE or Entity, if there is one."""
    strip_position_digits: bool = False
    """Remove the final digit of each token, the position of the character in its word, as in `科0 技1`."""

    def check(self) -> None:
        """Check the layout. Raises: ConfigError when token and tag have the same column, or the separator is empty."""
        if self.token_column == self.tag_column:
            raise ConfigError(
                f"data.tagged_lines: token_column and tag_column are both {self.tag_column}. Give each its own column."
            )
        if not self.separator:
            raise ConfigError("data.tagged_lines.separator is empty. Give auto, tab, space, or the separating text.")


@dataclass(frozen=True, slots=True)
class Row:
    """One record, and its file and line."""

    values: dict[str, Any]
    """Texts by column; a list of texts for a column with one for each token."""
    file: str
    """Name of the file, as given by the user."""
    line: int
    """Line on which the record begins, from 1; in a binary format the number of the record."""


@dataclass(slots=True)
class ReadingNotes:
    """Counts of a reader that are not errors, for its caller to report."""

    num_rows: int = 0
    num_empty_skipped: int = 0
    first_empty_line: int | None = None
    num_multiline_fields: int = 0
    """Number of quoted fields that span lines: real paragraphs, or rows merged by a stray quote."""
    first_multiline_line: int | None = None
    num_illegal_tags: int = 0
    """Number of tags that are invalid in their scheme."""
    first_illegal_line: int | None = None
    num_respelt_labels: int = 0
    """Number of examples with a label that is read without the white space around it, or in Unicode normal form C."""
    first_respelt_line: int | None = None
    num_moved_to_train: int = 0
    """Number of examples that stay in train, because no other training example has their label."""
    first_moved_line: int | None = None
    form: str = ""
    """How the file was recognised and read, where several forms are possible."""


class Columns:
    """The requested columns of a source, each with the setting that names it, if there is one.

    Args:
        columns: their names, or columns by setting.
        structured: columns that may hold lists of lists and objects, or nothing; their parsed values are kept.
        texts: columns that must hold one text of at most `MOST_CHARACTERS`, never a list.
        optional: structured columns that a JSON object may lack, if another object of the source has them.

    >>> Columns({"text_column": "sentence"}).names
    ['sentence']
    """

    def __init__(
        self,
        columns: Sequence[str] | Mapping[str, str],
        structured: Sequence[str] = (),
        *,
        texts: Sequence[str] = (),
        optional: Sequence[str] = (),
    ) -> None:
        assert not isinstance(columns, str), "a sequence of names, not one name"
        settings = columns if isinstance(columns, Mapping) else {}
        self.names = list(columns.values()) if isinstance(columns, Mapping) else list(columns)
        for place, (setting, name) in enumerate(settings.items()):
            if name in self.names[:place]:
                other = [*settings][self.names.index(name)]
                raise ConfigError(f"data.{other} and data.{setting} both name {shown(name)}. Give each its own column.")
        self._settings = {column: f"data.{setting}" for setting, column in settings.items()}
        self.structured, self.texts = frozenset(structured), [name for name in self.names if name in texts]
        self.optional, self._lacking = frozenset(optional), set(optional)

    def values(self, record: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Return the requested columns of a record of typed values, as texts unless they are structured.

        A missing value (null, NaN), and the absent value of an optional column, is None.
        """
        self._lacking -= record.keys()
        return {
            name: structured_value(record.get(name)) if name in self.structured else text_value(value, where, name)
            for name in self.names
            for value in (record.get(name),)
        }

    def require(self, where: str, found: Iterable[str], *, hint: str = "", instead: str = "") -> None:
        """Check that every requested column was found exactly once. Raises: DataError when one was not.

        Args:
            hint: further advice, after that on the setting of a missing column.
            instead: advice that replaces it, where another setting is likely wrong.
        """
        is_record = isinstance(found, Mapping)
        found = list(found)
        for name in self.names:
            if name not in found and not (is_record and name in self.optional):
                raise DataError(f"{where}: no column {name!r}. {self._advice(name, found, hint, instead)}")
            if found.count(name) > 1:
                raise DataError(f"{where}: {found.count(name)} columns are named {name!r}. Rename all but one.")

    def check_texts(self, row: Row) -> None:
        """Check that each column of texts holds one text, none far too long. Raises: DataError when one does not."""
        for name in self.texts:
            value = row.values[name]
            if isinstance(value, list):
                raise list_for_text(row, name, self._settings.get(name))
        for name in row.values if self.texts else ():
            check_size(row, name)

    def check_found(self, source: str) -> None:
        """Check, at the end of a source, that a record had each optional column. Raises: DataError."""
        for name in sorted(self._lacking & set(self.names)):
            setting = self._settings.get(name, "the setting of that column")
            raise DataError(f"{source}: no row has the column {name!r}. Correct {setting}, or omit it.")

    def _advice(self, name: str, found: list[str], hint: str, instead: str) -> str:
        listing = ", ".join(shown(column, 40) for column in found[:20]) or "none"
        if instead:
            return f"Columns found: {listing}. {instead}"
        near = nearest(name, found)
        setting = self._settings.get(name)
        if other := "" if near else _other_task(found):
            return f"Columns found: {listing}. {other}"
        if setting:
            choice = f" Set {setting}={near[0] if near else 'NAME'}."
        else:
            choice = f" Did you mean {near[0]!r}?" if near else ""
        return f"Columns found: {listing}.{choice}{'' if near else hint}"


def _other_task(found: Sequence[str]) -> str:
    """The task, or its setting, that columns of well-known names are for; "" for other columns."""
    if {"tokens", "tags"} <= {*found} or {"tokens", "ner_tags"} <= {*found}:
        return (
            "These are tagged tokens: EntityData (--config ner) reads them, from JSON Lines, Parquet or lines of TOKEN "
            "TAG; a table in text cannot hold their lists."
        )
    chats = [name for name in ("messages", "conversations", "conversation") if name in found]
    return f"These are chats: InstructionData reads them with data.messages_column={chats[0]}." if chats else ""


def check_size(row: Row, column: str) -> None:
    """Check that the texts of a cell, which may be a list, have at most `MOST_CHARACTERS`. Raises: DataError."""
    value = row.values[column]
    size = num_characters(value)
    if size > MOST_CHARACTERS:
        what = "a text" if isinstance(value, str) else "values"
        raise DataError(
            f"{row.file}:{row.line}: column {shown(column)} holds {what} of {size:,} characters; at most "
            f"{MOST_CHARACTERS:,} can be read. Divide it into several rows."
        )


def num_characters(value: object) -> int:
    """Count the characters of all texts in a value, and one for each item."""
    size = 0
    left = [value]
    while left:
        value = left.pop()
        size += len(value) if isinstance(value, str | list | dict) else 0
        left += (
            [*value.keys(), *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ()
        )
    return size


def is_missing(value: object) -> bool:
    """Whether a typed value is missing: null, or a number that is not finite, as NaN in a column with gaps."""
    return value is None or (isinstance(value, float | np.floating) and not math.isfinite(value))


def structured_value(value: object) -> object:
    """Return a parsed value as it is, and None for a missing one."""
    return None if is_missing(value) else value


def text_value(value: object, where: str, column: str) -> str | list[str] | None:
    """Convert a typed value to text: numbers and booleans as in JSON, lists item by item; None if it is missing.

    Raises: DataError for other values, and for a list of which an item is missing.
    """
    if isinstance(value, str):
        return value
    if is_missing(value):
        return None
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list) and not any(isinstance(item, list | dict) or is_missing(item) for item in value):
        return [str(text_value(item, where, column)) for item in value]
    if isinstance(value, Mapping) and "0" in value:
        raise DataError(
            f"{where}: column {shown(column)} holds an object with a key for each row. Write one object for each row "
            f"(pandas: to_json(orient='records', lines=True))."
        )
    found = f"{type(value).__name__} {shown(value)}"
    raise DataError(f"{where}: column {column!r} holds {found}, expected a text, a number or a list of texts. Fix it.")


def list_for_text(row: Row, column: str, setting: str | None) -> DataError:
    """Return the error of a row that has a list in a column of texts, which a setting names."""
    other = f", or set {setting} to another column" if setting else ""
    if len(row.values) > 1 and len({len(own) if isinstance(own, list) else 0 for own in row.values.values()}) == 1:
        other += ". If each list is a whole column, write one object for each row instead"
    return DataError(
        f"{row.file}:{row.line}: column {column!r} holds a list of {len(row.values[column])}, expected one text. "
        f"Join them{other}."
    )


def empty_cell(row: Row, column: str) -> DataError:
    """Return the error of a row that has an empty cell, or no value, in a column."""
    is_absent = row.values[column] is None
    found = (
        f"column {column!r} holds no value (null) or no finite number (NaN)" if is_absent else f"{column!r} is empty"
    )
    return DataError(
        f"{row.file}:{row.line}: {found}. Fill it in, drop the line, or set data.reading.empty=skip to skip and count "
        f"such rows."
    )


@dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    """Options for reading a source, as in `read_rows`."""

    columns: Columns
    encoding: str = "utf-8"
    quoting: Quoting = "auto"
    empty: Empty = "refuse"
    file_format: FileFormat = "auto"
    column_names: Sequence[str] = ()
    tagged_lines: TaggedLines = TaggedLines()
