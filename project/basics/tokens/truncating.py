"""Layout of texts for an encoder: truncated or divided into windows, with special tokens around each.

Shapes: P positions of all windows of a text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lightrail.project.basics.errors import ConfigError

Truncation: TypeAlias = Literal["head", "tail", "head_tail", "windows"]

_HEAD = 4
"""The head of a text cut to head_tail is one part in this many: of 510 tokens 128, and 382 from its end.

Source: Sun et al. (2019), "How to fine-tune BERT for text classification?", section 5.3.1.
"""


@dataclass(frozen=True)
class Frame:
    """The special tokens before, between and after the texts of an input, and the segment of every part."""

    before: tuple[int, ...] = ()
    between: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    segments: tuple[int, ...] = (0, 0, 0, 0, 0)
    """Segments of `before`, the first text, `between`, the second text and `after`."""

    def size(self, num_texts: int) -> int:
        """Return the number of special tokens around one or two texts."""
        return len(self.before) + len(self.after) + len(self.between) * (num_texts - 1)

    def join(self, texts: Sequence[Sequence[int]]) -> tuple[list[int], list[int]]:
        """Frame one text, or a pair; return token ids and segments."""
        parts = [self.before, texts[0], self.between, texts[1], self.after] if len(texts) == 2 else []
        parts = parts or [self.before, texts[0], (), (), self.after]
        ids = [number for part in parts for number in part]
        pairs = zip(self.segments, parts, strict=True)
        return ids, [segment for segment, part in pairs for _ in part]


class Layout(NamedTuple):
    """The positions of an example for an encoder."""

    input_ids: NDArray[np.int32]
    """Token ids of all windows concatenated; several windows have exactly the maximum length each, [P]."""
    segment_ids: NDArray[np.int32]
    """0 in the first text of a pair, the tokenizer's id in the second, [P]."""
    num_tokens: int
    """Number of tokens before anything is cut, special tokens included."""


def lay_out(texts: Sequence[list[int]], frame: Frame, max_length: int, truncation: Truncation) -> Layout:
    """Fit the token ids of one text, or of a pair, into `max_length` positions, or one text into several windows.

    Of a pair the longer text is cut first, as by the tokenizers of Hugging Face.

    Raises: ConfigError when special tokens leave no room.
    """
    room = max_length - frame.size(len(texts))
    if room < len(texts):
        raise ConfigError(
            f"data.max_length is {max_length}, and the tokenizer's special tokens alone take {max_length - room}. "
            f"Increase it."
        )
    if truncation == "windows":
        (text,) = texts
        windows = [[text[start : start + room]] for start in window_starts(len(text), room)]
    else:
        lengths = shared_room([len(text) for text in texts], room)
        windows = [[kept(text, length, truncation) for text, length in zip(texts, lengths, strict=True)]]
    framed = [frame.join(window) for window in windows]
    ids = [number for window, _ in framed for number in window]
    segments = [segment for _, window in framed for segment in window]
    return Layout(np.array(ids, np.int32), np.array(segments, np.int32), sum(map(len, texts)) + frame.size(len(texts)))


def kept(text: list[int], length: int, truncation: Truncation) -> list[int]:
    """Truncate a text to a length.

    >>> kept(list(range(10)), 4, "head"), kept(list(range(10)), 4, "tail"), kept(list(range(10)), 4, "head_tail")
    ([0, 1, 2, 3], [6, 7, 8, 9], [0, 7, 8, 9])
    """
    if len(text) <= length:
        return text
    num_first = {"head": length, "tail": 0, "head_tail": -(-length // _HEAD)}[truncation]
    return text[:num_first] + text[len(text) - length + num_first :]


def shared_room(lengths: Sequence[int], room: int) -> list[int]:
    """Divide `room` between one or two texts: at most half for the shorter one, the rest for the longer one.

    >>> shared_room([3, 20], 10), shared_room([20, 30], 11), shared_room([20], 8)
    ([3, 7], [5, 6], [8])
    """
    if len(lengths) == 1 or sum(lengths) <= room:
        return [min(length, room) for length in lengths]
    shorter = min(*lengths, room // 2)
    return [shorter, room - shorter] if lengths[0] <= lengths[1] else [room - shorter, shorter]


_OVERLAP = 4
"""Neighbouring windows overlap by at least one part in this many."""


def window_starts(length: int, size: int) -> list[int]:
    """Spread the fewest windows of `size` positions that overlap by a quarter evenly over a sequence.

    >>> window_starts(10, 12), window_starts(30, 12)
    ([0], [0, 9, 18])
    """
    if length <= size:
        return [0]
    step = max(1, size - size // _OVERLAP)
    num_windows = -(-(length - size) // step) + 1
    return [number * (length - size) // (num_windows - 1) for number in range(num_windows)]


def best_windows(places: NDArray[np.int64], length: int, size: int) -> NDArray[np.int64]:
    """Return for each place of a sequence the window with the most context on its shorter side, [W]."""
    # At an end of the sequence the shorter side may lack nothing; other windows have less context on both sides.
    starts = np.array(window_starts(length, size))
    before = places[:, None] - starts  # [W, N]
    after = starts + min(size, length) - 1 - places[:, None]
    best: NDArray[np.int64] = np.minimum(before, after).argmax(1)  # negative outside
    return best
