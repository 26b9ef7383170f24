"""Lines of tagged tokens are read as corpora really write them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lightrail.datamodules.reading import Row, TaggedLines, read_rows
from lightrail.project.basics.errors import ConfigError, DataError

Write = Callable[[str | bytes], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(content: str | bytes) -> str:
        path = tmp_path / "a.conll"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return write_file


def rows(source: str, layout: TaggedLines = TaggedLines(), *, encoding: str = "utf-8", tags: bool = True) -> list[Row]:
    columns = ["tokens", "tags"] if tags else ["tokens"]
    return list(read_rows(source, columns=columns, tagged_lines=layout, encoding=encoding))


def pairs(source: str, layout: TaggedLines = TaggedLines(), *, encoding: str = "utf-8") -> list[list[tuple[str, str]]]:
    found = rows(source, layout, encoding=encoding)
    return [list(zip(row.values["tokens"], row.values["tags"], strict=True)) for row in found]


def test_windows_lines_a_byte_order_mark_and_trailing_spaces_are_no_content(write: Write) -> None:
    source = write(b"\xef\xbb\xbfEU B-ORG \r\nrejects O\t\r\n\r\n \t \r\n\r\nGerman B-MISC\r\n")
    assert pairs(source) == [[("EU", "B-ORG"), ("rejects", "O")], [("German", "B-MISC")]]
    assert [row.line for row in rows(source)] == [1, 6]


def test_document_marks_end_a_sentence(write: Write) -> None:
    assert pairs(write("a O\n-DOCSTART- -X- O O\nb O\n")) == [[("a", "O")], [("b", "O")]]


def test_quotes_are_ordinary(write: Write) -> None:
    assert pairs(write("\" O\n\"x O\n''\tO\n")) == [[('"', "O"), ('"x', "O"), ("''", "O")]]


def test_full_width_forms_are_kept(write: Write) -> None:
    assert pairs(write("Ａ O\n１ B-X\n，\tO\n")) == [[("Ａ", "O"), ("１", "B-X"), ("，", "O")]]


def test_spaces_may_be_tokens(write: Write) -> None:
    assert pairs(write("a\tO\n \tO\n\u3000\tB-X\n\xa0\tO\n\u3000 O\n")) == [
        [("a", "O"), (" ", "O"), ("\u3000", "B-X"), ("\xa0", "O"), ("\u3000", "O")]
    ]


@pytest.mark.parametrize(
    ("line", "layout"),
    [
        ("EU,B-ORG", TaggedLines(separator=",")),
        ("EU ||| B-ORG", TaggedLines(separator=" ||| ")),
        ("EU\tB-ORG", TaggedLines(separator="tab")),
        ("EU  B-ORG", TaggedLines(separator="space")),
        ("1 EU B-ORG O", TaggedLines(token_column=1, tag_column=2)),
        ("1 EU B-ORG O", TaggedLines(token_column=-3, tag_column=-2)),
        ("B-ORG\tEU", TaggedLines(token_column=1, tag_column=0)),
        ("EU7 B-ORG", TaggedLines(strip_position_digits=True)),
    ],
)
def test_separators_and_columns_are_chosen(write: Write, line: str, layout: TaggedLines) -> None:
    assert pairs(write(f"{line}\n\n{line}\n"), layout) == [[("EU", "B-ORG")]] * 2


def test_only_one_digit_is_a_position(write: Write) -> None:
    source = write("科0 O\n10\tO\n22\tO\n\U0001f6000 O\n")
    assert [token for token, _ in pairs(source, TaggedLines(strip_position_digits=True))[0]] == [
        "科",
        "1",
        "2",
        "\U0001f600",
    ]


@pytest.mark.parametrize("token", ["7", "科", "科９"])
def test_a_token_without_its_position_is_refused(write: Write, token: str) -> None:
    with pytest.raises(DataError, match=rf"a\.conll:2: the token '{token}' does not end in the digit"):
        rows(write(f"a0 O\n{token} O\n"), TaggedLines(strip_position_digits=True))


def test_a_sentence_may_be_long(write: Write) -> None:
    (row,) = rows(write("好 O\n" * 10_000))
    assert len(row.values["tokens"]) == 10_000


def test_bytes_that_are_not_text_are_placed(write: Write) -> None:
    content = "Zürich B-LOC\n".encode("latin-1")
    with pytest.raises(DataError, match=r"a\.conll:2: byte 2 .*set data\.reading\.encoding=latin-1"):
        rows(write(b"in O\n" + content))
    assert pairs(write(content), encoding="latin-1") == [[("Zürich", "B-LOC")]]


def test_tokens_alone_are_read_where_no_tag_is_asked_for(write: Write) -> None:
    assert [row.values for row in rows(write("a\nb\n\nc\n"), tags=False)] == [{"tokens": ["a", "b"]}, {"tokens": ["c"]}]
    with pytest.raises(DataError, match=r"a\.conll:1: 1 field in 'a', 2 expected: a token and its tag"):
        rows(write("a\nb\n"))


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (TaggedLines(tag_column=2), r"tag_column is 2, and .*a\.conll:1 has 2 columns .*Give 0 to 1, or -1"),
        (TaggedLines(token_column=-3), r"token_column is -3, and .*:1 has 2 columns"),
        (TaggedLines(token_column=1), r"names column 1 of 'a O' for the token and for the tag"),
        (TaggedLines(token_column=1, tag_column=1), "token_column and tag_column are both 1"),
        (TaggedLines(separator=""), "separator is empty"),
    ],
)
def test_a_layout_that_cannot_be_is_refused(write: Write, layout: TaggedLines, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        rows(write("a O\nb O\n"), layout)


def test_a_line_with_another_number_of_fields_is_refused(write: Write) -> None:
    with pytest.raises(DataError, match=r"a\.conll:3: 3 fields in 'c d O', 2 expected"):
        rows(write("a O\n\nc d O\n"))


def test_structured_columns_are_given_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "a", "entities": [[0, 1, "X"]]}\n{"text": "b", "entities": []}\n', "utf-8")
    read = read_rows(str(file), columns=["text", "entities"], structured=["entities"])
    assert [row.values["entities"] for row in read] == [[[0, 1, "X"]], []]
    with pytest.raises(DataError, match="column 'entities' holds list"):
        list(read_rows(str(file), columns=["text", "entities"]))
