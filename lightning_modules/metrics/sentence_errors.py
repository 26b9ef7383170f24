"""Distances between predicted and expected sentences, in characters."""

import re

from rapidfuzz.distance import Levenshtein

HANZI = re.compile(r"[\u3400-\u9fff\U00020000-\U000323af]")


def only_hanzi(text: str) -> str:
    """Return the Chinese characters of a text.

    >>> only_hanzi("第1课, Test")
    '第课'
    """
    return "".join(HANZI.findall(text))


def num_edits(predicted: str, target: str) -> int:
    """Return the Levenshtein distance: the least number of characters to insert, delete or substitute."""
    return Levenshtein.distance(predicted, target)
