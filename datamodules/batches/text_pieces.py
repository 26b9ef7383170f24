"""Texts as rows of bounded length: a longer one is several consecutive pieces, and no token is lost.

Shapes: P pieces, T tokens of a piece.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightrail.datamodules.cache import TokenisedSplit

Values = NDArray[Any]


class TextPieces:
    """Rows of one text each, or of one piece of it.

    Args:
        texts: encoded texts, with the columns `input_ids`, `starts` (first character of each token), `text` and, where
            pieces should not divide words, `words` (number of each token's word).
        room: maximum of T.
        frame_size: number of special tokens around each piece, which its length includes.
        is_masked: whether places of the rows are to be masked.
    """

    def __init__(self, texts: TokenisedSplit, room: int, *, frame_size: int, is_masked: bool) -> None:
        self.texts, self.frame_size, self.is_masked = texts, frame_size, is_masked
        self.has_words = "words" in texts.columns
        sizes = texts.lengths("input_ids")
        bounds = [self._bounds(number, int(sizes[number]), room) for number in np.flatnonzero(sizes > room).tolist()]
        counts = np.ones(len(texts), np.int64)
        counts[sizes > room] = [len(own) - 1 for own in bounds]
        self.documents = np.repeat(np.arange(len(texts)), counts)  # [P]
        self.begins = np.zeros(len(self.documents), np.int64)
        self.ends = sizes[self.documents]
        if bounds:
            is_piece = (sizes > room)[self.documents]
            self.begins[is_piece] = np.concatenate([own[:-1] for own in bounds])
            self.ends[is_piece] = np.concatenate([own[1:] for own in bounds])

    def __len__(self) -> int:
        return len(self.documents)

    def lengths(self, column: str) -> Values:
        """Return the number of positions of each piece, special tokens included, for any column, [P]."""
        return np.asarray(self.ends - self.begins + self.frame_size)

    def values(self, column: str) -> Values:
        """Return a column's integer of each piece's text, such as its `line`, [P]."""
        return np.asarray(self.texts.values(column)[self.documents])

    def cell(self, column: str, index: int) -> Any:
        """Return a column of a piece's text."""
        return self.texts.cell(column, int(self.documents[index]))

    def row(self, index: int) -> dict[str, Any]:
        """Return `input_ids` and, where texts have them, `words` of a piece, [T], its `text` and `is_masked`."""
        begin, end = int(self.begins[index]), int(self.ends[index])
        names = ("input_ids", "words") if self.has_words else ("input_ids",)
        row = {name: self.cell(name, index)[begin:end] for name in names}
        starts = self.cell("starts", index)
        first = int(starts[begin]) if begin else 0
        last = int(starts[end]) if end < len(starts) else None
        return {**row, "text": self.cell("text", index)[first:last], "is_masked": self.is_masked}

    def _bounds(self, document: int, size: int, room: int) -> Values:
        """Return where the pieces of a long text begin, about equally long, and its end; words stay whole if they can.

        The first tokens of a word that a piece has no room for begin the next one.
        """
        words = np.asarray(self.texts.cell("words", document) if self.has_words else np.arange(size))
        bounds = [0]
        while size - (begin := bounds[-1]) > room:
            end = begin + -(-(size - begin) // -(-(size - begin) // room))  # the rest in as few pieces as can be
            word_begin = int(np.searchsorted(words, words[end]))
            bounds.append(word_begin if word_begin > begin else end)
        return np.array([*bounds, size])
