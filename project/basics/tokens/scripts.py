"""How a text is written: words with spaces between them, or a script without spaces."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from lightrail.project.basics.tokens.units import WRITTEN_WITHOUT_SPACES

_WITHOUT_SPACES = re.compile(rf"{WRITTEN_WITHOUT_SPACES}|[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]")
"""Characters of Chinese and Japanese, and of Thai, Lao, Burmese and Khmer; Korean has spaces between words."""
_FEWEST_WORDS = 2
"""Fewest words of a text on average: a table of names, identifiers or sequences is read by character."""


class Writing(NamedTuple):
    """What the first texts of a data set are written in."""

    num_texts: int
    num_words: int
    """Number of runs of letters with white space around them, in any script with spaces between words."""
    num_characters: int
    """Number of characters of scripts without spaces between words."""

    @property
    def is_of_words(self) -> bool:
        """Whether words are more than characters without spaces, and a text has several."""
        return self.num_words > max(self.num_characters, _FEWEST_WORDS * self.num_texts - 1)

    def __str__(self) -> str:
        return (
            f"{self.num_words:,} words and {self.num_characters:,} characters of scripts without spaces in the first "
            f"{self.num_texts:,} texts"
        )


def writing_of(texts: Iterable[str]) -> Writing:
    """Count what texts are written in.

    >>> writing_of(["Wer kennt 北京?", "ein Haus"])
    Writing(num_texts=2, num_words=4, num_characters=2)
    """
    num_texts = num_words = num_characters = 0
    for text in texts:
        rest, found = _WITHOUT_SPACES.subn(" ", text)
        num_texts += 1
        num_characters += found
        num_words += sum(any(map(str.isalpha, word)) for word in rest.split())
    return Writing(num_texts, num_words, num_characters)
