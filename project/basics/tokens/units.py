"""The units that carry tags: splitting a text into units, and joining units into a text, with their offsets."""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, TypeAlias

from lightrail.project.basics.errors import ConfigError

Units = Literal["characters", "words"]
Offsets: TypeAlias = list[tuple[int, int]]
"""First character and end (exclusive) of each unit in its text."""

_PATTERNS: dict[Units, re.Pattern[str]] = {"characters": re.compile(r"\S"), "words": re.compile(r"\w+|[^\w\s]")}
WRITTEN_WITHOUT_SPACES = r"[\u2e80-\u9fff\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef\U00020000-\U000323af]"
"""Pattern of Chinese, Japanese and full-width characters."""
_WRITTEN_WITHOUT_SPACES = re.compile(WRITTEN_WITHOUT_SPACES)


def cut_text(text: str, units: Units) -> Offsets:
    """Split a text into units and return their offsets; a text of only white space is one unit.

    Words are runs of letters and digits, and single other characters.

    >>> cut_text("It's 5.", "words")
    [(0, 2), (2, 3), (3, 4), (5, 6), (6, 7)]
    """
    return [match.span() for match in _PATTERNS[units].finditer(text)] or [(0, len(text))]


def join_units(tokens: Sequence[str], units: Units) -> tuple[str, Offsets]:
    """Join tokens into one text, and return their offsets; the tokens are not changed.

    Characters are joined directly; words by a space, unless one of the two neighbouring characters is Chinese, Japanese
    or full-width.

    >>> join_units(["see", "北京", "and", "Rome"], "words")
    ('see北京and Rome', [(0, 3), (3, 5), (5, 8), (9, 13)])
    """
    parts, offsets, position = [tokens[0]], [(0, len(tokens[0]))], len(tokens[0])
    for before, token in pairwise(tokens):
        if units == "words" and not _WRITTEN_WITHOUT_SPACES.search(before[-1:] + token[:1]):
            parts.append(" ")
            position += 1
        parts.append(token)
        offsets.append((position, position + len(token)))
        position += len(token)
    return "".join(parts), offsets


class UnitEvidence:
    """Counts of tokens that show whether they are the units of a setting."""

    def __init__(self) -> None:
        self.num_tokens = self.num_longer = self.num_with_digit = self.num_ideographs = 0
        self.num_sentences = self.num_counted = 0
        """Number of sentences, and of those whose tokens are 0, 1, 2, ... or 1, 2, 3, ..."""

    def add(self, tokens: Sequence[str]) -> None:
        """Count the tokens of a sentence."""
        self.num_sentences += 1
        if tokens[0][0] in "01" and all(token[0].isdecimal() for token in tokens):
            numbers = [token for token in tokens if token.isdecimal()]  # CoNLL-U also has 1-2 and 8.1
            counts = [str(number) for number in range(len(numbers) + 1)]
            self.num_counted += numbers in (counts[:-1], counts[1:])
        self.num_tokens += len(tokens)
        longer = [token for token in tokens if len(token) > 1]
        self.num_longer += len(longer)
        self.num_with_digit += sum(token[-1] in "0123456789" for token in longer)
        self.num_ideographs += sum(len(token) == 1 and token >= "\u3400" for token in tokens)

    def check(self, where: str, units: Units, column_setting: str) -> None:
        """Check the settings. Raises: ConfigError when the tokens are numbers of tokens, or other units.

        Args:
            column_setting: the setting of the column of the tokens.
        """
        if self.num_counted == self.num_sentences and self.num_tokens > self.num_sentences > 1:
            raise ConfigError(
                f"{where}: the tokens of every sentence are their own numbers (0 1 2 ... or 1 2 3 ...). Set "
                f"{column_setting} to the column that has the tokens."
            )
        if units == "characters" and self.num_longer > self.num_tokens / 2:
            share = (
                f"{where}: {100 * self.num_longer / self.num_tokens:.0f} % of the tokens are longer than a character"
            )
            if self.num_with_digit > 0.9 * self.num_longer:
                raise ConfigError(
                    f"{share} and end in a digit, as if the position in its word follows each character. "
                    f"Set data.tagged_lines.strip_position_digits=true."
                )
            raise ConfigError(f"{share}, and data.units is characters. Set data.units=words.")
        if units == "words" and self.num_ideographs > self.num_tokens / 2:
            raise ConfigError(
                f"{where}: {100 * self.num_ideographs / self.num_tokens:.0f} % of the tokens are single Chinese "
                f"characters, and data.units is words. Set data.units=characters."
            )
