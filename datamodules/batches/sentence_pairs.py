"""Pairs of consecutive parts of a text, and of parts of two texts, for next-sentence prediction.

Shapes: N texts, P pairs, T tokens of a pair.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightrail.datamodules.cache import TokenisedSplit
from lightrail.project.basics.errors import DataError

Values = NDArray[Any]
_PAIRS_PER_GROUP = 256
_FIX = "Give texts of several sentences each, or set data.next_sentence=false."


class Part(NamedTuple):
    """Consecutive tokens of a text."""

    input_ids: Values
    words: Values | None
    text: str


def joined_words(parts: Sequence[Part]) -> Values | None:
    """Return the words of several parts one after another, none of which belongs to two parts, [T]."""
    joined = np.zeros(0, np.int64)
    for part in parts:
        if part.words is None:
            return None
        joined = np.concatenate([joined, part.words.astype(np.int64) + joined.max(initial=-1) + 1])
    return joined


class SentencePairs:
    """Pairs of a first part, whole sentences, and a second one: what follows it, or a part of another text.

    A text is divided into stretches that fit into `room`, and each of them near its middle, between two sentences; of a
    sentence longer than half of `room`, parts count as sentences. Where one sentence would remain, the one before it is
    read again. A second part from another text is the second part of a pair there, of about the same length, cut if it
    does not fit: a length tells nothing, and batches are as long as planned.

    Args:
        texts: encoded texts, with the columns of `TextPieces` and `sentences`, the number of the first token of each.
        room: maximum of T.
        frame_size: number of special tokens around a pair, which its length includes.
        name: source and split, for messages.

    Raises: DataError when no text has two sentences, or one alone has: then no part is of another text.
    """

    def __init__(self, texts: TokenisedSplit, room: int, *, frame_size: int, name: str) -> None:
        self.texts, self.room, self.frame_size, self.has_words = texts, room, frame_size, "words" in texts.columns
        found = [(number, *cut) for number in range(len(texts)) for cut in self._stretches(number)]
        self.num_single = int((texts.lengths("sentences") < 2).sum())
        """Number of texts of one sentence, which give no pair."""
        if not found:
            raise DataError(f"{name}: none of {len(texts)} texts has two sentences, so that none follows one. {_FIX}")
        self.documents, self.begins, self.middles, self.ends = np.array(found, np.int64).T  # [P]
        if (self.documents == self.documents[0]).all():
            raise DataError(
                f"{name}: one text alone of {len(texts)} has several sentences, so that no part is of another. {_FIX}"
            )
        self._group(self.ends - self.middles)

    def __len__(self) -> int:
        return len(self.documents)

    def lengths(self, column: str) -> Values:
        """Return the most positions that each pair may have, whatever its second part, for any column, [P]."""
        return np.asarray(np.minimum(self.middles - self.begins + self.longest, self.room) + self.frame_size)

    def values(self, column: str) -> Values:
        """Return a column's integer of each pair's first text, such as its `line`, [P]."""
        return np.asarray(self.texts.values(column)[self.documents])

    def cell(self, column: str, index: int) -> Any:
        """Return a column of a pair's first text."""
        return self.texts.cell(column, int(self.documents[index]))

    def row(self, index: int) -> dict[str, Any]:
        """Return a pair's first part, `first`, and `draw_second`, which draws the second with a random generator."""
        first = self._part(index, int(self.begins[index]), int(self.middles[index]))
        return {"first": first, "draw_second": partial(self._draw, index), "is_masked": True}

    def _draw(self, index: int, generator: np.random.Generator) -> tuple[Part, int]:
        """Return the second part of a pair, and 1 where it follows the first, 0 where it is of another text."""
        if generator.random() < 0.5:
            return self._part(index, int(self.middles[index]), int(self.ends[index])), 1
        own_first, own_end = int(self.own_firsts[index]), int(self.own_ends[index])
        group_first, group_end = int(self.group_firsts[index]), int(self.group_ends[index])
        num_own = own_end - own_first
        place = group_first + int(generator.integers(group_end - group_first - num_own))
        other = int(self.members[place if place < own_first else place + num_own])
        begin, room = int(self.middles[other]), self.room - int(self.middles[index] - self.begins[index])
        return self._part(other, begin, min(int(self.ends[other]), begin + room)), 0

    def _part(self, index: int, begin: int, end: int) -> Part:
        starts = self.cell("starts", index)
        words = self.cell("words", index)[begin:end] if self.has_words else None
        text = self.cell("text", index)[starts[begin] if begin else 0 : starts[end] if end < len(starts) else None]
        return Part(self.cell("input_ids", index)[begin:end], words, text.strip())

    def _stretches(self, document: int) -> Iterator[tuple[int, int, int]]:
        """Yield begin, middle and end of each stretch of a text; nothing for a text of one sentence."""
        starts = self.texts.cell("sentences", document)
        assert isinstance(starts, np.ndarray)
        if len(starts) < 2:
            return
        size = len(np.asarray(self.texts.cell("input_ids", document)))
        bounds = _within(np.append(starts, size), self.room // 2)
        first, last = 0, len(bounds) - 1
        while first < last:
            first -= first == last - 1
            end = int(np.searchsorted(bounds, bounds[first] + self.room, side="right")) - 1
            inner = bounds[first + 1 : end]
            middle = inner[np.abs(2 * inner - bounds[first] - bounds[end]).argmin()]
            yield int(bounds[first]), int(middle), int(bounds[end])
            first = end

    def _group(self, sizes: Values) -> None:
        """Group second parts of about the same length, of at least two texts, and note where those of a text are.

        Args:
            sizes: number of tokens of each second part, [P].
        """
        by_size = np.argsort(sizes, kind="stable")
        groups: list[Values] = []
        for start in range(0, len(sizes), _PAIRS_PER_GROUP):
            own = by_size[start : start + _PAIRS_PER_GROUP]
            if groups and (self._is_of_one_text(groups[-1]) or self._is_of_one_text(own)):
                own = np.concatenate([groups.pop(), own])
            groups.append(own)
        self.members = np.concatenate([own[np.argsort(self.documents[own], kind="stable")] for own in groups])
        bounds = np.cumsum([0, *map(len, groups)])
        names = ("longest", "group_firsts", "group_ends", "own_firsts", "own_ends")
        self.longest, self.group_firsts, self.group_ends, self.own_firsts, self.own_ends = (
            np.zeros(len(sizes), np.int64) for _ in names
        )
        for first, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            own = self.members[first:end]
            documents = self.documents[own]
            self.longest[own], self.group_firsts[own], self.group_ends[own] = sizes[own].max(), first, end
            self.own_firsts[own] = first + np.searchsorted(documents, documents, side="left")
            self.own_ends[own] = first + np.searchsorted(documents, documents, side="right")

    def _is_of_one_text(self, pairs: Values) -> bool:
        return bool((self.documents[pairs] == self.documents[pairs[0]]).all())


def _within(bounds: Values, most: int) -> Values:
    """Return bounds with further ones between them, so that no two neighbours are more than `most` apart.

    >>> _within(np.array([0, 3, 10]), 4).tolist()
    [0, 3, 6, 10]
    """
    parts = [bounds[:1]]
    for begin, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        num_parts = -(-(end - begin) // most)
        parts.append(begin + np.arange(1, num_parts + 1) * (end - begin) // num_parts)
    return np.concatenate(parts)
