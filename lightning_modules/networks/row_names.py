"""The protocol by which a module states what the rows of its parameters stand for, such as tokens or labels.

A run that starts from another one (`model.init_from`) copies such rows by their names, never by their places.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable


@dataclass(frozen=True)
class AllOrNothing:
    """The rows of a parameter that mean the same only where this is equal, such as those of a table of hashes."""

    meaning: Hashable


@dataclass(frozen=True)
class Hashed(AllOrNothing):
    """The rows of a table of hashed token ids: they mean the same where one vocabulary continues the other.

    `meaning` are the tokens with the first ids, in their order.
    """

    meaning: tuple[str, ...]

    def is_continued(self, other: "Hashed") -> bool:
        """Whether all ids of the shorter vocabulary stand for the same tokens in the longer one."""
        size = min(len(self.meaning), len(other.meaning))
        return self.meaning[:size] == other.meaning[:size]


Names: TypeAlias = Sequence[Hashable]
"""What each index of a dimension stands for: a text for a token or label, a number for an index without a text."""
RowNames: TypeAlias = tuple[Names | None, ...] | AllOrNothing
"""Names of a parameter's first dimensions, None for a dimension of which the place is what counts."""


@runtime_checkable
class NamesRows(Protocol):
    """A module with parameters whose rows stand for something that the data decides on."""

    def row_names(self) -> Mapping[str, RowNames]:
        """Return the names of rows by the dotted name of the parameter in this module.

        What is not listed, also of modules inside of this one, means the same whatever the data.
        """


def vocabulary_rows(vocabulary: Sequence[str], num_special: int) -> Names:
    """Return the names of token ids: numbers for those before the vocabulary, such as padding, then its tokens.

    >>> vocabulary_rows(["a", "b"], num_special=2)
    (0, 1, 'a', 'b')
    """
    return (*range(num_special), *vocabulary)


def token_rows(token_ids: Mapping[str, int], size: int) -> Names:
    """Return the names of the ids 0 to `size` - 1 of a tokenizer; those without a token are numbers.

    >>> token_rows({"b": 1, "<end>": 0}, size=3)
    ('<end>', 'b', 2)
    """
    names: list[Hashable] = list(range(size))
    for token, number in token_ids.items():
        if number < size:
            names[number] = token
    return tuple(names)
