"""Text tables for a terminal, in Markdown and in HTML, and values as JSON."""

import json
import math
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lightrail.project.basics.errors import printable

Row = Sequence[str]
MEANS_SOMETHING = re.compile(r"([\\`*<>|\[\]]|(?<!\w)_|_(?!\w))")
"""Characters that are markup in Markdown; `_` inside a word is not."""


def width(text: str) -> int:
    """Return the number of terminal columns of a text, in which a Chinese character takes two.

    >>> width("ab地点")
    6
    """
    return sum(1 + (unicodedata.east_asian_width(character) in "WF") for character in text)


def as_json(value: Any) -> str:
    """Format plain values as JSON, with null for NaN and infinity, which it cannot represent."""
    return json.dumps(defined(value), ensure_ascii=False, indent=2, allow_nan=False)


def defined(value: Any) -> Any:
    """Replace NaN and infinity in nested values by None.

    >>> defined({"a": (1.0, float("nan"))})
    {'a': [1.0, None]}
    """
    if isinstance(value, Mapping):
        return {key: defined(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [defined(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def aligned(rows: Sequence[Row], right: Collection[int] = ()) -> list[str]:
    """Format the lines of a table, the first row its head, with two blanks between columns.

    Args:
        right: indices of the right-aligned columns.
    """
    return ["  ".join(cells).rstrip() for cells in _padded(rows, right)]


def markdown_table(head: Row, rows: Sequence[Row]) -> str:
    """Format a Markdown table that is also readable as plain text. The cells must be Markdown."""
    lines = _padded([head, *rows], least=3)
    lines.insert(1, ["-" * width(cell) for cell in lines[0]])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def literal(text: str) -> str:
    """Escape a text for Markdown.

    >>> print(literal("a_b | _c_"))
    a_b \\| \\_c\\_
    """
    return MEANS_SOMETHING.sub(r"\\\1", " ".join(text.split()))


def html_table(head: Row, rows: Sequence[Row], kind: str = "", best: Collection[int] = ()) -> str:
    """Format an HTML table. The cells must be HTML.

    Args:
        kind: the CSS class of the table.
        best: indices of the highlighted rows.
    """
    opened = ['<tr class="best">' if number in best else "<tr>" for number in range(len(rows))]
    lines = "\n".join(f"{tag}{_html_cells('td', row)}</tr>" for tag, row in zip(opened, rows, strict=True))
    content = f"<thead><tr>{_html_cells('th', head)}</tr></thead>\n<tbody>\n{lines}\n</tbody>"
    return f'<div class="wide"><table class="{kind}">{content}</table></div>'


def _html_cells(tag: str, cells: Row) -> str:
    return "".join(f"<{tag}>{cell}</{tag}>" for cell in cells)


def _padded(rows: Sequence[Row], right: Collection[int] = (), least: int = 0) -> list[list[str]]:
    """Pad each cell to the widest of its column, and to `least`; one without line breaks and control characters."""
    rows = [[" ".join(printable(cell).split("\n")) for cell in row] for row in rows]
    widths = [max(least, *map(width, column)) for column in zip(*rows, strict=True)]
    padded = []
    for row in rows:
        blanks = [" " * (own - width(cell)) for cell, own in zip(row, widths, strict=True)]
        pairs = enumerate(zip(row, blanks, strict=True))
        padded.append([blank + cell if place in right else cell + blank for place, (cell, blank) in pairs])
    return padded
