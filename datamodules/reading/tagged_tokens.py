"""Rows of tagged tokens: one token a line, with its tag in another column, as in the CoNLL shared tasks."""

from collections.abc import Iterator

from lightrail.datamodules.reading.rows import Columns, Row, TaggedLines
from lightrail.project.basics.errors import ConfigError, DataError

_NAMED_SEPARATORS = {"tab": "\t", "space": " "}


def read_tagged_tokens(file: str, lines: Iterator[str], columns: Columns, layout: TaggedLines) -> Iterator[Row]:
    """Yield each sentence as columns `tokens` and `tags`; `line` is that of its first token, the others follow it.

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
    """Takes token and tag out of each line; every line has as many fields as the first."""

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
        """Take the first line's number of fields for that of all; refuse a line that differs."""
        expected = self.num_fields or max(len(fields), 1 + self.has_tags)
        if len(fields) != expected:
            raise DataError(
                f"{self.file}:{number}: {len(fields)} field{'s' * (len(fields) != 1)} in {line!r}, {expected} expected"
                f"{': a token and its tag, separated by a tab or spaces' if expected == 2 else ''}. Fix the line; "
                f"separate by tabs if a token is itself a space, or set data.tagged_lines.separator."
            )
        self.num_fields = expected
        self.token_place = self._place("token_column", line, number)
        if self.has_tags:
            self.tag_place = self._place("tag_column", line, number)
            if self.tag_place == self.token_place:
                raise ConfigError(
                    f"{self.file}:{number}: data.tagged_lines names column {self.tag_place} of {line!r} for the token "
                    f"and for the tag. Give each its own column."
                )

    def _place(self, setting: str, line: str, number: int) -> int:
        place: int = getattr(self.layout, setting)
        if not -self.num_fields <= place < self.num_fields:
            raise ConfigError(
                f"data.tagged_lines.{setting} is {place}, and {self.file}:{number} has {self.num_fields} columns "
                f"({line!r}). Give 0 to {self.num_fields - 1}, or -1 for the last."
            )
        return place % self.num_fields

    def _without_digit(self, token: str, number: int) -> str:
        if len(token) < 2 or token[-1] not in "0123456789":
            raise DataError(
                f"{self.file}:{number}: the token {token!r} does not end in the digit of its position. Fix the line, "
                f"or set data.tagged_lines.strip_position_digits=false."
            )
        return token[:-1]
