"""Tags of words that encode entities, and the sequences of tags that a scheme allows.

Data tags words by BIOES: O, or one of B(egin), I(nside), E(nd), S(ingle) for each type of entity. A model may learn the
two letters B and I instead, which are equivalent: an entity then ends where the next tag is not its I.

Shapes: K tags, W words.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from lightrail.lightning_modules.networks.tagging.crf import TagRules

Scheme = Literal["bioes", "bio"]
Span: TypeAlias = tuple[int, int, int]
"""First word, end word exclusive, number of the type."""

OUTSIDE = 0
_LETTERS = {"bioes": "BIES", "bio": "BI"}
_BIO_OF_BIOES = {"B": "B", "I": "I", "E": "I", "S": "B"}


class TagScheme:
    """The tags of one scheme: 0 is O, then come the letters of the first type, of the second, and so on.

    >>> scheme = TagScheme("bioes", num_types=2)
    >>> list(scheme.spans([5, 7, 0, 4, 0]))
    [(0, 2, 1), (3, 4, 0)]
    """

    def __init__(self, name: Scheme, num_types: int) -> None:
        self.letters, self.num_types = _LETTERS[name], num_types
        self.num_tags = 1 + len(self.letters) * num_types

    def tag(self, letter: str, kind: int) -> int:
        """Return the tag of a letter and the number of a type."""
        return 1 + len(self.letters) * kind + self.letters.index(letter)

    def names(self, types: Sequence[str]) -> tuple[str, ...]:
        """Return the tags by name, such as B-PER, given the names of the types."""
        return ("O", *(f"{letter}-{kind}" for kind in types for letter in self.letters))

    def of_bioes(self) -> Tensor:
        """Return this scheme's tag for each BIOES tag, [1 + 4 x types]."""
        if self.letters == _LETTERS["bioes"]:
            return torch.arange(self.num_tags)
        inside = [self.tag(_BIO_OF_BIOES[letter], kind) for kind in range(self.num_types) for letter in "BIES"]
        return torch.tensor([OUTSIDE, *inside])

    def rules(self) -> TagRules:
        """Return which tags may begin a sentence, follow each other and end it."""
        has_end = "E" in self.letters
        kinds = [(None, "O"), *((kind, letter) for kind in range(self.num_types) for letter in self.letters)]
        opens = torch.tensor([letter in "OBS" for _, letter in kinds])  # needs nothing before it
        closes = torch.tensor([not has_end or letter in "OES" for _, letter in kinds])  # needs nothing after it
        continues = torch.tensor(
            [[kind == other and letter in "BI" and after in "IE" for other, after in kinds] for kind, letter in kinds]
        )
        return TagRules(starts=opens, transitions=continues | (closes[:, None] & opens), ends=closes)

    def spans(self, tags: Sequence[int]) -> Iterator[Span]:
        """Yield the entities of a sequence that keeps the rules, from left to right."""
        first = 0
        for place, tag in enumerate(tags):
            kind, letter = self._read(tag)
            if letter in "BS":
                first = place
            after = self._read(tags[place + 1])[1] if place + 1 < len(tags) else "O"
            if letter in "ES" or ("E" not in self.letters and letter in "BI" and after != "I"):
                yield first, place + 1, kind

    def _read(self, tag: int) -> tuple[int, str]:
        if tag == OUTSIDE:
            return -1, "O"
        kind, letter = divmod(tag - 1, len(self.letters))
        return kind, self.letters[letter]
