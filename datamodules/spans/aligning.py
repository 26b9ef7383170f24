"""Encoding of a text's units as positions of an encoder, with the position that represents each unit.

Shapes: W units, P positions of all windows of a text, N windows.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightrail.project.basics.errors import ConfigError
from lightrail.project.basics.tokens.tokenizing import (
    FIRST,
    PAD,
    UNKNOWN,
    PretrainedTokenizer,
    encode_plain,
    whole_characters,
)
from lightrail.project.basics.tokens.truncating import best_windows, window_starts
from lightrail.project.basics.tokens.units import Offsets

_WORD_START = "▁"
"""SentencePiece's character for the space before a word; alone it is a piece that covers no character."""


class Positions(NamedTuple):
    """An encoded text: the positions of its windows, and those of its units."""

    input_ids: NDArray[np.int32]
    """Token ids of all windows concatenated, with the special tokens of each, [P]."""
    window_lengths: NDArray[np.int32]
    """Number of positions of each window, [N]."""
    places: NDArray[np.int32]
    """Position in `input_ids` that represents each unit, [W]."""


class UnitEncoder(ABC):
    """Encodes the units of a text as ids."""

    needs_vocabulary: bool
    """Whether ids are those of a vocabulary that is learned from the training split."""
    pad_id: int
    digest: str
    """Digest of everything that ids depend on, except the vocabulary."""

    @abstractmethod
    def encode(self, text: str, offsets: Offsets, vocabulary: Sequence[str], max_length: int) -> Positions:
        """Encode all units, in overlapping windows if a text has more than `max_length` positions."""

    def token_ids(self) -> Mapping[str, int]:
        """Return the ids of a pretrained tokenizer's tokens; {} where a vocabulary is learned instead."""
        return {}


class UnitNumbers(UnitEncoder):
    """Encodes each unit as one position, by a vocabulary of units."""

    needs_vocabulary = True
    pad_id = PAD
    digest = "units"

    def __init__(self, *, lower_case: bool) -> None:
        self.lower_case = lower_case
        self._vocabulary: Sequence[str] = ()
        self._numbers: dict[str, int] = {}

    def names(self, text: str, offsets: Offsets) -> list[str]:
        """Return the units as they are in the vocabulary."""
        units = [text[start:end] for start, end in offsets]
        return [unit.lower() for unit in units] if self.lower_case else units

    def encode(self, text: str, offsets: Offsets, vocabulary: Sequence[str], max_length: int) -> Positions:
        if self._vocabulary is not vocabulary:
            self._vocabulary = vocabulary
            self._numbers = {unit: number for number, unit in enumerate(vocabulary, start=FIRST)}
        ids = [self._numbers.get(unit, UNKNOWN) for unit in self.names(text, offsets)]
        return in_windows(ids, list(range(len(ids))), max_length)


class SubwordAligner(UnitEncoder):
    """Encodes units by a Hugging Face tokenizer; a unit is represented by its first subword that covers a character.

    Each unit is split by itself, so that no subword belongs to two of them (else a date could be one subword but ten
    characters). A unit that the tokenizer removes becomes one unknown token.
    """

    needs_vocabulary = False

    def __init__(self, name: str) -> None:
        loaded = PretrainedTokenizer(name)
        self.pad_id, self.digest, self._token_ids = loaded.pad_id, loaded.digest, loaded.token_ids()
        self._backend: Any = loaded.backend
        self._unknown_id = loaded.unknown_id
        self._spells_spaces = "ByteLevel" in repr(self._backend.pre_tokenizer)
        frame = loaded.frame(is_pair=False)
        self._frame = list(frame.before), list(frame.after)

    def encode(self, text: str, offsets: Offsets, vocabulary: Sequence[str], max_length: int) -> Positions:
        ids: list[int] = []
        places = []
        for pieces, first in self._pieces(text, offsets):
            places.append(len(ids) + first)
            ids += pieces
        return in_windows(ids, places, max_length, self._frame)

    def token_ids(self) -> Mapping[str, int]:
        return self._token_ids

    def _pieces(self, text: str, offsets: Offsets) -> list[tuple[list[int], int]]:
        """Return each unit's subwords, and the index of the first that covers a character."""
        follows_space = [start > 0 and text[start - 1].isspace() for start, _ in offsets]
        words = [
            " " * (is_parted and self._spells_spaces) + whole_characters(text[start:end])
            for (start, end), is_parted in zip(offsets, follows_space, strict=True)
        ]
        encoded = encode_plain(self._backend, words)
        pieces: list[list[int]] = [[] for _ in words]
        is_bare = [False] * len(words)
        for number, word, piece in zip(encoded.ids, encoded.word_ids, encoded.tokens, strict=True):
            is_bare[word] |= not pieces[word] and piece == _WORD_START
            pieces[word].append(number)
        has_space = [is_parted or start == 0 for is_parted, (start, _) in zip(follows_space, offsets, strict=True)]
        return [self._of_unit(*unit) for unit in zip(pieces, is_bare, has_space, strict=True)]

    def _of_unit(self, pieces: list[int], is_bare: bool, has_space: bool) -> tuple[list[int], int]:
        if not pieces:
            return [self._unknown_id], 0
        if not is_bare or len(pieces) == 1:
            return pieces, 0
        # The piece of a space that the text does not have, as between two characters, is dropped.
        return (pieces, 1) if has_space else (pieces[1:], 0)


def in_windows(
    ids: list[int], places: list[int], max_length: int, frame: tuple[list[int], list[int]] = ([], [])
) -> Positions:
    """Divide a sequence into framed windows, and choose the window that represents each place with most context.

    Raises: ConfigError when the frame leaves no room.
    """
    before, after = frame
    room = max_length - len(before) - len(after)
    if room < 1:
        raise ConfigError(
            f"data.max_length is {max_length}, and the tokenizer's special tokens alone take "
            f"{len(before) + len(after)}. Increase it."
        )
    starts = window_starts(len(ids), room)
    windows = [before + ids[start : start + room] + after for start in starts]
    lengths = np.array([len(window) for window in windows], dtype=np.int32)
    wanted = np.array(places, dtype=np.int64)
    best = best_windows(wanted, len(ids), room)
    begins = np.concatenate([[0], np.cumsum(lengths[:-1])])
    placed = begins[best] + len(before) + wanted - np.array(starts)[best]
    return Positions(np.concatenate(windows).astype(np.int32), lengths, placed.astype(np.int32))


def load_unit_encoder(tokenizer: str, *, lower_case: bool) -> UnitEncoder:
    """Load the encoder of `units`, or of a Hugging Face tokenizer by name or folder.

    Raises: ConfigError when there is none of this name.
    """
    if tokenizer in ("characters", "words", "subwords"):
        raise ConfigError(
            f"data.tokenizer is {tokenizer}; here data.units (characters or words) sets the units that carry tags. "
            f"Set data.tokenizer to units, or to a Hugging Face tokenizer."
        )
    return UnitNumbers(lower_case=lower_case) if tokenizer == "units" else SubwordAligner(tokenizer)
