"""Sentences of tagged tokens: lines as those of the CoNLL shared tasks, CoNLL-U and CoNLL-U Plus."""

import re
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import NamedTuple

from lightrail.datamodules.reading.rows import Columns, ReadingNotes, Row, TaggedLines
from lightrail.project.basics.did_you_mean import first_names
from lightrail.project.basics.errors import ConfigError, DataError, shown

CONLLU_COLUMNS = ("ID", "FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL", "DEPS", "MISC")
_NAMED_SEPARATORS = {"tab": "\t", "space": " "}
_DOCUMENT = "-DOCSTART-"
_GLOBAL_COLUMNS = re.compile(r"#\s*global\.columns\s*=\s*(.*)")
_CONLLU_ID = re.compile(r"(?P<first>\d+)(?:-(?P<last>\d+)|\.\d+)?", re.ASCII)
_TAG = re.compile(r"O|[A-Za-z][-_]\S+")
_TAG_NAMES = ("ner", "entity", "ne")
"""Names, in any case, of the columns and keys of MISC that have tags; of `X:NER` the part after the colon counts."""
_SENTENCE_ENDS = frozenset("。！？.!?")
_MOST_ENDS_OF_ONE = 20
_LINES_OF_START = 10_000


def is_conllu(start: Sequence[str]) -> bool:
    """Whether the first lines of a file are CoNLL-U: columns named in a comment, or ten of which the first is a number.

    >>> is_conllu(["# text = Go", "1\\tGo" + 8 * "\\t_"]), is_conllu(["1 Go O"])
    (True, False)
    """
    for line in filter(str.strip, start):
        if _GLOBAL_COLUMNS.match(line):
            return True
        if not line.startswith("#"):
            fields = line.split("\t")
            return len(fields) == len(CONLLU_COLUMNS) and _CONLLU_ID.fullmatch(fields[0]) is not None
    return False


class _Token(NamedTuple):
    token: str
    tag: str
    line: int


def read_tagged_tokens(
    file: str, lines: Iterator[str], columns: Columns, layout: TaggedLines, notes: ReadingNotes
) -> Iterator[Row]:
    """Yield each sentence of CoNLL-like lines as columns `tokens` and `tags`; `line` is that of its first token.

    A blank line or a -DOCSTART- line ends a sentence; comments, which begin with #, may precede one. White space that
    is neither tab nor space, such as the ideographic space, is a token in some corpora; so is a space in a line
    separated by tabs.
    """
    columns.require(file, ["tokens", "tags"])
    layout.check()
    reader = _LineReader(file, layout, has_tags="tags" in columns.names)
    sentence: list[_Token] = []
    last: list[_Token] = []
    num_sentences = num_comments = num_documents = 0
    for number, line in enumerate(chain(reader.settled(lines), [""]), 1):
        if line.startswith("#") and not sentence and reader.is_comment(line):
            num_comments += 1
        elif line.strip(" \t") and not line.startswith(_DOCUMENT):
            sentence.append(_Token(*reader.read(line, number), number))
        else:
            num_documents += line.startswith(_DOCUMENT)
            if sentence:
                num_sentences += 1
                yield _row(sentence, columns, file)
                last, sentence = sentence, []
    if num_sentences == 1 and reader.has_tags:
        _refuse_joined(file, last)
    notes.form = f"lines of tagged tokens, {reader}{_counted(num_comments, num_documents)}"


def read_conllu(
    file: str, lines: Iterator[str], columns: Columns, layout: TaggedLines, notes: ReadingNotes
) -> Iterator[Row]:
    """Yield each sentence of CoNLL-U as columns `tokens`, `tags` and `lines`, those of the file that its tokens are on.

    Tokens are the syntactic words. A range (`1-2`) replaces them where it has a tag and they have none; empty nodes
    (`1.1`) are left out. A word without a tag is O.
    """
    columns.require(file, ["tokens", "tags", "lines"])
    reader = _ConlluReader(file, layout, has_tags="tags" in columns.names)
    num_comments = 0
    for number, line in enumerate(chain(lines, [""]), 1):
        if line.startswith("#") and not reader.is_word(line):
            num_comments += 1
            reader.comment(line, number)
        elif line.strip():
            reader.read(line, number)
        elif sentence := reader.close():
            yield _row(sentence, columns, file)
    reader.check_tags()
    notes.form = f"CoNLL-U{reader}{_counted(num_comments, 0)}"


def _row(sentence: list[_Token], columns: Columns, file: str) -> Row:
    tokens, tags, lines = map(list, zip(*sentence, strict=True))
    values = {"tokens": tokens, "tags": tags, "lines": lines}
    return Row({name: values[name] for name in columns.names}, file, sentence[0].line)


def _counted(num_comments: int, num_documents: int) -> str:
    counts = ((num_comments, "comments left out"), (num_documents, "bounds of documents"))
    return "".join(f"; {count:,} {what}" for count, what in counts if count)


def _refuse_joined(file: str, sentence: list[_Token]) -> None:
    """Refuse a file whose only sentence holds the ends of many: its blank lines are lost."""
    ends = [own for own in sentence[:-1] if own.token in _SENTENCE_ENDS]
    if len(ends) >= _MOST_ENDS_OF_ONE:
        raise DataError(
            f"{file}:{ends[0].line}: a sentence ends here, without a blank line after it; the file has "
            f"{len(sentence):,} tokens and no blank line. Write one after each sentence."
        )


class _LineReader:
    """Extracts token and tag from each line; every line has the same number of fields."""

    def __init__(self, file: str, layout: TaggedLines, *, has_tags: bool) -> None:
        self.file, self.layout, self.has_tags = file, layout, has_tags
        self.separator = _NAMED_SEPARATORS.get(layout.separator, layout.separator)
        self.num_fields = self.token_place = self.tag_place = 0

    def __str__(self) -> str:
        tag = f", tag in column {self.tag_place}" * self.has_tags
        return f"{self.num_fields} column{'s' * (self.num_fields != 1)}: token in column {self.token_place}{tag}"

    def settled(self, lines: Iterator[str]) -> Iterator[str]:
        """Yield all lines, the number of their fields settled by the first that is certainly of a token."""
        start = []
        for line in islice(lines, _LINES_OF_START):
            start.append(line)
            if line.strip(" \t") and not line.startswith(("#", _DOCUMENT)):
                self._settle(self._fields(line), line, len(start))
                break
        return chain(start, lines)

    def is_comment(self, line: str) -> bool:
        """Whether a line that begins with # cannot be the token # or a hashtag: by its fields, or its tag."""
        fields = self._fields(line)
        if self.num_fields and len(fields) != self.num_fields:
            return True
        place = self.tag_place if self.has_tags else self.layout.tag_column
        is_there = isinstance(place, int) and -len(fields) <= place < len(fields) > 1
        return not _TAG.fullmatch(fields[int(place)]) if is_there else self.has_tags

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
            advice = (
                "If it is a comment, write a blank line before it."
                if line.startswith("# ")
                else "Fix the line; separate by tabs if a token is itself a space, or set data.tagged_lines.separator."
            )
            raise DataError(
                f"{self.file}:{number}: {len(fields)} field{'s' * (len(fields) != 1)} in {shown(line)}, "
                f"{expected} expected{': a token and its tag, separated by a tab or spaces' if expected == 2 else ''}. "
                f"{advice}"
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
        place: int | str = getattr(self.layout, setting)
        if isinstance(place, str):
            raise ConfigError(
                f"data.tagged_lines.{setting} is {shown(place)}, and {self.file} is not CoNLL-U, whose columns have "
                f"names. Give the number of the column, from 0."
            )
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


class _ConlluReader:
    """Collects the words of a sentence of CoNLL-U, with their tags."""

    def __init__(self, file: str, layout: TaggedLines, *, has_tags: bool) -> None:
        self.file, self.layout, self.has_tags = file, layout, has_tags
        self._name_columns(list(CONLLU_COLUMNS), file)
        self.is_plus = False
        self.num_tags = 0
        self._start()

    def __str__(self) -> str:
        place = f"column {self.names[self.tag_place]}" if self.tag_place >= 0 else f"MISC as {self.key or 'NER'}=TAG"
        return f"{' Plus' * self.is_plus}: tokens in column {self.names[self.token_place]}" + f", tags in {place}" * (
            self.has_tags
        )

    def is_word(self, line: str) -> bool:
        """Whether a line that begins with # is that of a word, whose first column is the word itself."""
        return line.count("\t") == len(self.names) - 1 > 0

    def comment(self, line: str, number: int) -> None:
        if self.words:
            raise DataError(
                f"{self.file}:{number}: the comment {shown(line, 40)} stands inside a sentence. Write a blank line "
                f"before it."
            )
        if named := _GLOBAL_COLUMNS.match(line):
            self.is_plus = True
            self._name_columns(named[1].split(), f"{self.file}:{number}")

    def _name_columns(self, names: list[str], where: str) -> None:
        token = self.layout.token_column
        self.names = names
        default = "FORM" if token == 0 else token  # the first column of CoNLL-U has numbers
        self.token_place = self._place("token_column", default, where)
        self.id_place = names.index("ID") if "ID" in names else -1
        self.key, tag = "", self.layout.tag_column
        named = [place for place, own in enumerate(names) if own.lower().rpartition(":")[2] in _TAG_NAMES]
        if tag == -1 and (named or "MISC" in names):
            self.tag_place = named[0] if named else -1
        elif isinstance(tag, str) and tag not in names and "MISC" in names:
            self.tag_place, self.key = -1, tag
        else:
            self.tag_place = self._place("tag_column", tag, where)

    def _place(self, setting: str, column: int | str, where: str) -> int:
        if isinstance(column, str) and column in self.names:
            return self.names.index(column)
        if not isinstance(column, int) or not -len(self.names) <= column < len(self.names):
            raise ConfigError(
                f"data.tagged_lines.{setting} is {shown(column)}, and {where} has the columns "
                f"{first_names(self.names)}. Give one of these, or its number."
            )
        return column % len(self.names)

    def _start(self) -> None:
        self.words: list[_Token] = []
        self.ranges: list[tuple[int, int, _Token]] = []
        self.number = 0

    def read(self, line: str, number: int) -> None:
        where, fields = f"{self.file}:{number}", line.split("\t")
        if len(fields) != len(self.names):
            raise DataError(
                f"{where}: {len(fields)} field{'s' * (len(fields) != 1)} in {shown(line)}, {len(self.names)} expected "
                f"({first_names(self.names)}), separated by tabs. Fix the line."
            )
        word = _Token(fields[self.token_place], self._tag(fields), number)
        if self.id_place < 0:
            self.words.append(word)
            return
        counted = fields[self.id_place]
        match = _CONLLU_ID.fullmatch(counted)
        if match is None:
            raise DataError(f"{where}: ID {shown(counted, 40)} is not a number as 1, 1-2 or 1.1. Fix the line.")
        if match["last"]:
            self.ranges.append((int(match["first"][:9]), int(match["last"][:9]), word))
        elif counted == match["first"]:
            self._count(int(counted[:9]), where)
            self.words.append(word)

    def _count(self, own: int, where: str) -> None:
        self.number += 1
        if own != self.number:
            advice = "Write a blank line before it." if own == 1 else "Number the words of a sentence from 1."
            raise DataError(f"{where}: ID {own} where {self.number} is expected. {advice}")

    def _tag(self, fields: list[str]) -> str:
        if not self.has_tags:
            return ""
        tag = fields[self.tag_place] if self.tag_place >= 0 else self._of_misc(fields[self.names.index("MISC")])
        tag = "O" if tag in ("_", "*", "") else tag
        self.num_tags += tag != "O"
        return tag

    def _of_misc(self, misc: str) -> str:
        for pair in misc.split("|"):
            key, _, value = pair.partition("=")
            if key == self.key or (not self.key and key.lower() in _TAG_NAMES):
                self.key = key
                return value
        return ""

    def close(self) -> list[_Token]:
        """Return the tokens of the sentence, and start another."""
        words = self.words
        for first, last, word in reversed(self.ranges):
            covered = words[first - 1 : last]
            if word.tag != "O" and first > 0 and covered and all(own.tag == "O" for own in covered):
                words[first - 1 : last] = [word]
        self._start()
        return words

    def check_tags(self) -> None:
        """Check, at the end of a file, that MISC had a tag. Raises: DataError."""
        if self.has_tags and self.tag_place < 0 and not self.num_tags:
            raise DataError(
                f"{self.file}: no word has an entity's tag in MISC, as {self.key or 'NER'}=B-PER. Set "
                f"data.tagged_lines.tag_column to the key, or to the column, that has the tags."
            )
