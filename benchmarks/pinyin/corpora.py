"""What is converted in the comparison, and how far the sentences found are from those expected."""

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightrail.lightning_modules.metrics.sentence_errors import num_edits, only_hanzi

FILES = ("pd98", "reviews", "weibo", "nct")
_PART = re.compile(r"[a-z]+(?: [a-z]+)*|[^a-z ]+")


@dataclass(frozen=True)
class Corpus:
    """Sentences, and how they are typed."""

    name: str
    typed: Sequence[str]
    """Tokens with spaces between them, or letters without spaces; punctuation as it is."""
    expected: Sequence[str]

    def accuracy(self, found: Sequence[str]) -> float:
        """Return 1 - edits / hanzi, of hanzi alone."""
        pairs = [(only_hanzi(own), only_hanzi(other)) for own, other in zip(found, self.expected, strict=True)]
        return 1 - sum(num_edits(*pair) for pair in pairs) / sum(len(expected) for _, expected in pairs)

    def num_edits(self, found: Sequence[str]) -> int:
        """Return the edits of all characters, punctuation included."""
        return sum(num_edits(own, other) for own, other in zip(found, self.expected, strict=True))


def read_syllables(path: Path, most: int | None = None) -> Corpus:
    """Read the first `most` lines of text, tab and tokens."""
    lines = path.read_text(encoding="utf-8").splitlines()[:most]
    rows = [line.split("\t") for line in lines]
    return Corpus(path.stem, [typed for _, typed in rows], [text for text, _ in rows])


def read_letters(folder: Path, most: int | None = None) -> tuple[Corpus, list[str]]:
    """Read what SwiftKey was given as letters without spaces, and the sentences that it answered."""
    typed = {row["NUM"]: row["PINYIN"] for row in _rows(folder / "input.csv")}
    rows = [row for row in _rows(folder / "swiftkey_qwerty.csv") if row["NUM"] in typed][:most]
    corpus = Corpus("letters", [typed[row["NUM"]] for row in rows], [row["EXPECTED"] for row in rows])
    return corpus, [row["SWIFTKEY"] for row in rows]


def parts(typed: str) -> list[tuple[str, bool]]:
    """Divide a typed sentence into what an engine converts, and what stays as it is.

    >>> parts("ni hao ， zhong guo")
    [("ni'hao", True), ('，', False), ("zhong'guo", True)]
    """
    return [(own.replace(" ", "'"), own[0].isascii() and own[0].isalpha()) for own in _PART.findall(typed)]


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        yield from csv.DictReader(stream)
