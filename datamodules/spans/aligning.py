"""Units of a text to the positions an encoder reads, each unit knowing where it is represented.

Shapes: W units, P positions of all windows of a text, N windows.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightrail.datamodules.tokens.tokenizing import FIRST, PAD, UNKNOWN, PretrainedTokenizer, whole_characters
from lightrail.datamodules.tokens.truncating import best_windows, window_starts
from lightrail.datamodules.tokens.units import Offsets
from lightrail.project.basics.errors import ConfigError

_WORD_START = "▁"
"""How SentencePiece writes the space before a word; alone it is a piece that spells nothing."""


class Positions(NamedTuple):
    """A text as an encoder reads it."""

    input_ids: NDArray[np.int32]
    """The windows one after another, signs that frame each of them included, [P]."""
    window_lengths: NDArray[np.int32]
    """[N]"""
    places: NDArray[np.int32]
    """Of each unit, the position in `input_ids` that represents it, [W]."""


class UnitEncoder(ABC):
    """Numbers the units of a text."""

    needs_vocabulary: bool
    """Whether units are numbered by a vocabulary that is learned from the training split."""
    pad_id: int
    digest: str
    """Changes when units would be numbered differently."""

    @abstractmethod
    def encode(self, text: str, offsets: Offsets, vocabulary: Sequence[str], max_length: int) -> Positions:
        """Number all units; windows of at most `max_length` positions overlap where a text is longer."""


class UnitNumbers(UnitEncoder):
    """One position for each unit."""

    needs_vocabulary = True
    pad_id = PAD
    digest = "units"

    def __init__(self, *, lower_case: bool) -> None:
        self.lower_case = lower_case
        self._vocabulary: Sequence[str] = ()
        self._numbers: dict[str, int] = {}

    def names(self, text: str, offsets: Offsets) -> list[str]:
        """Give the units as the vocabulary writes them."""
        units = [text[start:end] for start, end in offsets]
        return [unit.lower() for unit in units] if self.lower_case else units

    def encode(self, text: str, offsets: Offsets, vocabulary: Sequence[str], max_length: int) -> Positions:
        if self._vocabulary is not vocabulary:
            self._vocabulary = vocabulary
            self._numbers = {unit: number for number, unit in enumerate(vocabulary, start=FIRST)}
        ids = [self._numbers.get(unit, UNKNOWN) for unit in self.names(text, offsets)]
        return in_windows(ids, list(range(len(ids))), max_length)


class SubwordAligner(UnitEncoder):
    """A Hugging Face tokenizer; a unit is represented by its first subword that spells something.

    Each unit is split by itself, so that no subword belongs to two of them (a date would else be one subword and ten
    characters). A unit of which the tokenizer leaves nothing becomes one unknown token.
    """

    needs_vocabulary = False

    def __init__(self, name: str) -> None:
        from tokenizers import Tokenizer  # here: units of one's own should not wait for it

        loaded = PretrainedTokenizer(name)
        self.pad_id, self.digest = loaded.pad_id, loaded.digest
        # A copy without the cutting and padding that some tokenizer.json ask for.
        self._backend: Any = Tokenizer.from_str(loaded.tokenizer.backend_tokenizer.to_str())
        self._backend.no_truncation()
        self._backend.no_padding()
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

    def _pieces(self, text: str, offsets: Offsets) -> list[tuple[list[int], int]]:
        """Give each unit's subwords, and which of them is the first to spell something."""
        follows_space = [start > 0 and text[start - 1].isspace() for start, _ in offsets]
        words = [
            " " * (is_parted and self._spells_spaces) + whole_characters(text[start:end])
            for (start, end), is_parted in zip(offsets, follows_space, strict=True)
        ]
        encoded = self._backend.encode(words, is_pretokenized=True, add_special_tokens=False)
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
        # A space that the text does not have, as between two characters, is no piece of it.
        return (pieces, 1) if has_space else (pieces[1:], 0)


def in_windows(
    ids: list[int], places: list[int], max_length: int, frame: tuple[list[int], list[int]] = ([], [])
) -> Positions:
    """Lay a sequence out in windows, each framed, and find the window that represents each place best.

    Raises: ConfigError when the frame leaves no room.
    """
    before, after = frame
    room = max_length - len(before) - len(after)
    if room < 1:
        raise ConfigError(
            f"data.max_length is {max_length}, and the tokenizer's special tokens alone take "
            f"{len(before) + len(after)}. Give more."
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
    """Give what `units`, a hub name or a folder stands for."""
    if tokenizer in ("characters", "words", "subwords"):
        raise ConfigError(
            f"data.tokenizer is {tokenizer}; here what carries a tag is said by data.units (characters or words). "
            f"Leave data.tokenizer at units, or name a Hugging Face tokenizer."
        )
    return UnitNumbers(lower_case=lower_case) if tokenizer == "units" else SubwordAligner(tokenizer)
