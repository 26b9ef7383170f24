"""Rows of a file that is one JSON array of objects, as instruction data often comes."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

from lightrail.datamodules.reading.rows import Columns, Row
from lightrail.project.basics.errors import DataError

_BETWEEN = " \t\r\n,"


def begins_array(lines: Iterator[str]) -> tuple[bool, Iterator[str]]:
    """Say whether the first line that holds something begins an array. Returns: that, and all lines again."""
    seen = []
    for line in lines:
        seen.append(line)
        if line.strip():
            break
    return bool(seen) and seen[-1].lstrip().startswith("["), itertools.chain(seen, lines)


def read_json_array(file: str, lines: Iterator[str], columns: Columns) -> Iterator[Row]:
    """Yield the objects of an array, each with the line on which it begins; of the file, lines are held until an
    object is complete.
    """
    for line, record in _items(file, lines):
        where = f"{file}:{line}"
        if not isinstance(record, dict):
            raise DataError(f"{where}: {str(record)[:40]!r} stands in the array, an object is needed. Fix it.")
        columns.require(where, record)
        yield Row(columns.values(record, where), file, line)


def _items(file: str, lines: Iterator[str]) -> Iterator[tuple[int, Any]]:
    """Give the items with the line on which each begins. Commas between them are not missed."""
    decoder = json.JSONDecoder()
    text, place, first_line, is_begun = "", 0, 1, False
    for number, line in enumerate(lines, 1):
        if place == len(text):  # nothing waits for this line
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
                        f"{file}:{number}: no JSON: {error.msg} at character {error.colno}. Fix this item of the array."
                    ) from error
                break
            yield first_line, item
            # What ends on this line has been given: what follows begins on it.
            place, first_line = _next(text, end), number
    raise DataError(f"{file}:{first_line}: the array is not closed by ]. The file is cut short: copy it again.")


def _next(text: str, place: int) -> int:
    """The place of the next sign that is neither white space nor a comma."""
    while place < len(text) and text[place] in _BETWEEN:
        place += 1
    return place
