"""Long sequences as overlapping windows, so that nothing is cut away."""

import numpy as np
from numpy.typing import NDArray

_OVERLAP = 4
"""Neighbouring windows share at least one part in this many."""


def window_starts(length: int, size: int) -> list[int]:
    """Spread windows of `size` positions evenly over a sequence, as few as overlap by a quarter.

    >>> window_starts(10, 12), window_starts(30, 12)
    ([0], [0, 9, 18])
    """
    if length <= size:
        return [0]
    step = max(1, size - size // _OVERLAP)
    num_windows = -(-(length - size) // step) + 1
    return [number * (length - size) // (num_windows - 1) for number in range(num_windows)]


def best_windows(places: NDArray[np.int64], length: int, size: int) -> NDArray[np.int64]:
    """Give for each place of a sequence the window that shows most on its shorter side, [W].

    At the ends of the sequence the shorter side may be one where nothing is missing. That changes no choice: other
    windows show less on both sides.
    """
    starts = np.array(window_starts(length, size))
    before = places[:, None] - starts  # [W, N]
    after = starts + min(size, length) - 1 - places[:, None]
    best: NDArray[np.int64] = np.minimum(before, after).argmax(1)  # negative outside
    return best
