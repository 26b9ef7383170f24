"""The characters of words, for networks that read them beside the words' vectors.

Shapes: B examples, P positions of an example, U distinct words of a batch, L characters of the longest word.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightrail.datamodules.batches.batching import Batch, pad
from lightrail.project.basics.errors import ConfigError
from lightrail.project.basics.tokens.tokenizing import FIRST, PAD, UNKNOWN, vocabulary_of
from lightrail.project.basics.tokens.truncating import kept

NO_WORD = 0
"""Number of positions without a word, such as separators."""
LayOut = Callable[[list[list[int]]], NDArray[np.int32]]
"""Turns the numbers of the words of each text into those of the positions of an example, [P]."""


class Speller:
    """Encodes the characters of words, and learns which there are.

    Args:
        most: maximum number of characters of a word; of a longer one the first quarter of them, and the end, are read.
            0: characters are not read, and nothing is returned.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._counts: Counter[str] = Counter()
        self._alphabet: Sequence[str] | None = None
        self._numbers: dict[str, int] = {}

    def settings(self) -> Mapping[str, int]:
        """Return the settings that change stored rows, for the key of the cache."""
        return {"characters_per_word": self._most} if self._most else {}

    def count(self, words: Sequence[str]) -> None:
        """Count the characters of words of the training split."""
        if self._most:
            self._counts.update("".join(words))

    def facts(self, most: int, min_count: int) -> Mapping[str, list[str]]:
        """Return the fact `alphabet`: at most `most` characters, with ids from `FIRST` on, of at least `min_count`."""
        counts, self._counts = self._counts, Counter()
        return {"alphabet": vocabulary_of(counts, most, min_count)} if self._most else {}

    def columns(
        self, texts: Sequence[Sequence[str]], alphabet: Sequence[str] | None, lay_out: LayOut
    ) -> Mapping[str, NDArray[np.int32]]:
        """Return the columns of an example: the words that it has after it is laid out, and their characters.

        These are `word_ids`, indices among them, [P]; their `word_lengths`; and all their `characters` concatenated.

        Raises: ConfigError when a model was trained with characters and these settings give none, or the other way
            round, for which its `alphabet` is None.
        """
        if (alphabet is not None) != (self._most > 0):
            trained = "without characters of words" if alphabet is None else "with characters of words"
            raise ConfigError(
                f"data.characters_per_word is {self._most}, and the model was trained {trained}. Set it as in training."
            )
        if alphabet is None:
            return {}
        if self._alphabet is not alphabet:
            self._alphabet = alphabet
            self._numbers = {character: number for number, character in enumerate(alphabet, start=FIRST)}
        numbers = {"": NO_WORD}
        texts_of_numbers = [[numbers.setdefault(word, len(numbers)) for word in words] for words in texts]
        used, word_ids = np.unique(lay_out(texts_of_numbers), return_inverse=True)
        distinct = list(numbers)
        spelled = [self._spelled(distinct[number]) for number in used.tolist()]
        return {
            "word_ids": word_ids.astype(np.int32),
            "word_lengths": np.array([len(word) for word in spelled], np.int32),
            "characters": np.array([number for word in spelled for number in word], np.int32),
        }

    def _spelled(self, word: str) -> list[int]:
        return kept([self._numbers.get(character, UNKNOWN) for character in word], self._most, "head_tail")


def collate_words(rows: Sequence[Mapping[str, Any]], divide: Callable[[Any, Any], Sequence[Any]]) -> Batch:
    """Collate the words of rows, each distinct word once; {} for rows without.

    Args:
        divide: returns the windows of a row with the given word ids of its positions.

    Returns: `character_ids` [U, L], of which row 0 is empty, and `word_ids` [N, T], the row of each position's word.
    """
    if "word_ids" not in rows[0]:
        return {}
    numbers = {np.array([PAD], np.int32).tobytes(): NO_WORD}
    windows: list[Any] = []
    for row in rows:
        characters = np.asarray(row["characters"], np.int32)
        borders = pairwise(accumulate(row["word_lengths"].tolist(), initial=0))
        own = [
            numbers.setdefault(characters[start:end].tobytes(), len(numbers)) if end > start else NO_WORD
            for start, end in borders
        ]
        windows += divide(row, np.array(own)[row["word_ids"]])
    spelled = [np.frombuffer(word, np.int32) for word in numbers]
    return {"word_ids": pad(windows, NO_WORD), "character_ids": pad(spelled, PAD)}
