"""Sentences as people type them, for training: initials in place of syllables, and syllables that are confused."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightrail.datamodules.batches.batching import MeasuredRows
from lightrail.datamodules.typed.spelling import check_fuzzy, fuzzy_partners, initial_of
from lightrail.project.basics.annotations import Ranged, Share
from lightrail.project.basics.errors import ConfigError

Candidates = Mapping[str, Mapping[str, int]]
"""The characters of each token, with counts."""


@dataclass(frozen=True, kw_only=True)
class TypedFormsConfig(Ranged):
    """How often the syllables of training sentences are typed otherwise; each epoch draws other ones."""

    abbreviated_share: Share = 0.0
    """Fraction of the sentences with initials in place of syllables, in [0, 1]."""
    initial_share: Share = 0.5
    """Fraction of the syllables in these that are an initial alone, in [0, 1]."""
    fuzzy_share: Share = 0.0
    """Fraction of all other syllables that are typed as one they are confused with, if there is one, in [0, 1]."""
    fuzzy: list[str] = field(default_factory=list)
    """Pairs that are confused: z/zh, c/ch, s/sh, n/l, an/ang, en/eng, in/ing, u/v."""

    @property
    def is_active(self) -> bool:
        """Whether any syllable is typed otherwise."""
        return self.has_initials or self.fuzzy_share > 0

    @property
    def has_initials(self) -> bool:
        """Whether any syllable is an initial alone."""
        return self.abbreviated_share > 0 and self.initial_share > 0

    def check(self) -> None:
        """Check how the settings relate. Raises: ConfigError."""
        check_fuzzy(self.fuzzy, "data.forms.fuzzy")
        if self.fuzzy_share and not self.fuzzy:
            raise ConfigError(
                f"data.forms.fuzzy_share is {self.fuzzy_share:g}, and data.forms.fuzzy names no pair. Name the pairs "
                "that are confused, such as z/zh, or set the fraction to 0."
            )


def as_typed(
    tokens: Sequence[str], may_change: Sequence[bool], config: TypedFormsConfig, draw_seed: Sequence[int]
) -> list[str]:
    """Return the tokens of a sentence as somebody types them, as many as before.

    Args:
        tokens: syllables, and other characters.
        may_change: which tokens are syllables.
        draw_seed: seed, epoch and number of the example: they alone decide, with the settings.

    >>> as_typed(["ni", "zhao", "wo"], [True, True, False], TypedFormsConfig(abbreviated_share=1, initial_share=1), [0])
    ['n-', 'zh-', 'wo']
    """
    generator = np.random.default_rng(draw_seed)
    is_abbreviated = generator.random() < config.abbreviated_share
    typed = list(tokens)
    for place, drawn in enumerate(generator.random((len(tokens), 3)).tolist()):
        if not may_change[place]:
            continue
        if is_abbreviated and drawn[0] < config.initial_share:
            typed[place] = _initial_token(tokens[place])
        elif drawn[1] < config.fuzzy_share and (partners := _partners(tokens[place], tuple(config.fuzzy))):
            typed[place] = partners[int(drawn[2] * len(partners))]
    return typed


def typed_candidates(candidates: Candidates, config: TypedFormsConfig) -> dict[str, dict[str, int]]:
    """Return the characters of each token that may be typed, the most frequent first.

    A token of an initial has those of all syllables that begin so. A syllable that others are confused with also has
    theirs, with the counts that this would lead to, at least 1.
    """
    typed = {token: Counter(counts) for token, counts in candidates.items()}
    for syllable, counts in candidates.items():
        if config.has_initials:
            typed.setdefault(_initial_token(syllable), Counter()).update(counts)
        partners = _partners(syllable, tuple(config.fuzzy)) if config.fuzzy_share else ()
        for partner in partners:
            share = config.fuzzy_share / len(partners)
            typed.setdefault(partner, Counter()).update({own: max(1, round(n * share)) for own, n in counts.items()})
    return {token: dict(sorted(own.items(), key=lambda item: (-item[1], item[0]))) for token, own in typed.items()}


class TypedRows:
    """The rows of a training split, marked as those whose syllables are to be typed otherwise."""

    def __init__(self, rows: MeasuredRows) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, index: int) -> dict[str, Any]:
        """Return the columns of a row, and `is_typed`."""
        return {**self._rows.row(index), "is_typed": True}

    def lengths(self, column: str) -> NDArray[np.int64]:
        """Return the length of each row in a column, [N]."""
        return self._rows.lengths(column)

    def values(self, column: str) -> NDArray[Any]:
        """Return the values of all rows in a column, concatenated."""
        return self._rows.values(column)


def _initial_token(syllable: str) -> str:
    return f"{initial_of(syllable)}-"


@lru_cache(maxsize=2**12)
def _partners(syllable: str, pairs: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(fuzzy_partners(syllable, pairs))
