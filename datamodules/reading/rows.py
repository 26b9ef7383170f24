"""Records of a data set, their requested columns, and the notes of their reader."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lightrail.project.basics.did_you_mean import nearest
from lightrail.project.basics.errors import ConfigError, DataError, shown

Quoting = Literal["auto", "standard", "none"]
Empty = Literal["refuse", "skip", "keep"]
FileFormat = Literal["auto", "txt", "csv", "tsv", "jsonl", "parquet", "conll", "labelled"]


@dataclass(frozen=True, kw_only=True)
class TaggedLines:
    """Layout of lines of tagged tokens."""

    separator: str = "auto"
    """Separator of the columns: tab, space (one or more), or any text. auto: a tab if a line has one, else spaces."""
    token_column: int = 0
    """Column of the token, counted from 0, or from the end with -1."""
    tag_column: int = -1
    """Column of the tag, counted from 0, or from the end with -1."""
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


class Columns:
    """The requested columns of a source, each with the setting that names it, if there is one.

    Args:
        columns: their names, or columns by setting.
        structured: columns that may hold lists of lists and objects; their parsed values are kept.

    >>> Columns({"text_column": "sentence"}).names
    ['sentence']
    """

    def __init__(self, columns: Sequence[str] | Mapping[str, str], structured: Sequence[str] = ()) -> None:
        assert not isinstance(columns, str), "a sequence of names, not one name"
        settings = columns if isinstance(columns, Mapping) else {}
        self.names = list(columns.values()) if isinstance(columns, Mapping) else list(columns)
        self._settings = {column: f"data.{setting}" for setting, column in settings.items()}
        self.structured = frozenset(structured)

    def values(self, record: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Return the requested columns of a record of typed values, as texts unless they are structured."""
        return {
            name: record[name] if name in self.structured else text_value(record[name], where, name)
            for name in self.names
        }

    def require(self, where: str, found: Iterable[str], *, hint: str = "", instead: str = "") -> None:
        """Check that every requested column was found exactly once. Raises: DataError when one was not.

        Args:
            hint: further advice, after that on the setting of a missing column.
            instead: advice that replaces it, where another setting is likely wrong.
        """
        found = list(found)
        for name in self.names:
            if name not in found:
                raise DataError(f"{where}: no column {name!r}. {self._advice(name, found, hint, instead)}")
            if found.count(name) > 1:
                raise DataError(f"{where}: {found.count(name)} columns are named {name!r}. Rename all but one.")

    def _advice(self, name: str, found: list[str], hint: str, instead: str) -> str:
        listing = ", ".join(repr(textwrap.shorten(column, 40, placeholder="...")) for column in found[:20]) or "none"
        if instead:
            return f"Columns found: {listing}. {instead}"
        near = nearest(name, found)
        setting = self._settings.get(name)
        if setting:
            choice = f" Set {setting}={near[0] if near else 'NAME'}."
        else:
            choice = f" Did you mean {near[0]!r}?" if near else ""
        return f"Columns found: {listing}.{choice}{'' if near else hint}"


def text_value(value: object, where: str, column: str) -> str | list[str]:
    """Convert a typed value to text: numbers and booleans as in JSON, lists item by item. Raises: DataError."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list) and not any(isinstance(item, list | dict | None) for item in value):
        return [str(text_value(item, where, column)) for item in value]
    found = "no value (null)" if value is None else f"{type(value).__name__} {shown(value, 40)}"
    raise DataError(f"{where}: column {column!r} holds {found}, expected a text, a number or a list of texts. Fix it.")


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
