"""Columns stand below each other, whatever script the cells are in."""

from lightrail.project.basics.tables import aligned, html_table, markdown_table, width

ROWS = [("name", "n"), ("地点", "12"), ("a", "")]


def test_a_chinese_character_takes_two_columns() -> None:
    assert [width(text) for text in ("", "ab", "地", "ｅ", "é")] == [0, 2, 2, 2, 1]


def test_columns_are_aligned_and_lines_end_without_blanks() -> None:
    assert aligned(ROWS) == ["name  n", "地点  12", "a"]
    assert aligned(ROWS, right=[1]) == ["name   n", "地点  12", "a"]
    assert aligned(ROWS, right=[0]) == ["name  n", "地点  12", "   a"]


def test_a_markdown_table_has_three_columns_at_least_in_each() -> None:
    assert markdown_table(ROWS[0], ROWS[1:]).split("\n") == [
        "| name | n   |",
        "| ---- | --- |",
        "| 地点 | 12  |",
        "| a    |     |",
    ]
    assert markdown_table(ROWS[0], []) == "| name | n   |\n| ---- | --- |"


def test_an_html_table_marks_the_rows_that_stand_out() -> None:
    assert html_table(["a"], [["<b>1</b>"], ["2"]], "numbers", best=[1]) == (
        '<div class="wide"><table class="numbers"><thead><tr><th>a</th></tr></thead>\n<tbody>\n'
        '<tr><td><b>1</b></td></tr>\n<tr class="best"><td>2</td></tr>\n</tbody></table></div>'
    )
