"""Packing of pieces of documents into blocks with hardly any padding.

Shapes: P pieces.
"""

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.integer]


def pack(lengths: Numbers, capacity: int, generator: np.random.Generator) -> NDArray[np.int32]:
    """Pack pieces into few blocks by best-fit-decreasing: the longest first, each into the fullest block it fits.

    Pieces of one length are placed together, so that time grows with the number of distinct lengths; their order is
    random.

    Args:
        lengths: length of each piece, 1 to `capacity`, [P].
        capacity: capacity of a block.

    Returns: index of the block of each piece, from 0 without gaps, [P].

    Source: H. Ding et al. (2024), "Fewer truncations improve language modeling", section 3.2; placing by histogram is
    from M. Krell et al. (2021), "Efficient sequence packing without cross-contamination".
    """
    capacity = min(capacity, int(lengths.sum(dtype=np.int64)))  # its memory grows with the capacity
    blocks = np.empty(len(lengths), np.int32)
    is_full = lengths == capacity
    opened = _OpenBlocks(capacity, num_blocks=int(is_full.sum()))
    blocks[is_full] = np.arange(opened.num_blocks)
    order = generator.permutation(np.flatnonzero(~is_full))
    order = order[np.argsort(lengths[order], kind="stable")]
    distinct, counts = np.unique(lengths[order], return_counts=True)
    ends = np.cumsum(counts)
    for length, count, end in reversed(list(zip(distinct.tolist(), counts.tolist(), ends.tolist(), strict=True))):
        pieces = order[end - count : end]
        while len(pieces):
            placed = opened.place(length, len(pieces))
            blocks[pieces[: len(placed)]] = placed
            pieces = pieces[len(placed) :]
    return blocks


class _OpenBlocks:
    """Blocks by their remaining room.

    Args:
        num_blocks: number of full blocks.
    """

    def __init__(self, capacity: int, num_blocks: int) -> None:
        self.capacity, self.num_blocks = capacity, num_blocks
        self.by_room: list[list[NDArray[np.int32]]] = [[] for _ in range(capacity + 1)]
        self.num_by_room = np.zeros(capacity + 1, np.int64)

    def place(self, length: int, most: int) -> NDArray[np.int32]:
        """Place up to `most` pieces of a length into the fullest blocks that they fit, or into new ones.

        Returns: the block of each placed piece, at least one.
        """
        room = self._least_room(length)
        each = room // length  # with one more piece of this length a block is again the fullest
        taken = self._take(room, -(-most // each))
        placed = np.repeat(taken, each)[:most]
        num_filled, rest = divmod(len(placed), each)
        self._put(room - each * length, taken[:num_filled])
        if rest:
            self._put(room - rest * length, taken[num_filled:])
        return placed

    def _least_room(self, length: int) -> int:
        is_open = self.num_by_room[length:] > 0
        return length + int(is_open.argmax()) if is_open.any() else self.capacity

    def _take(self, room: int, most: int) -> NDArray[np.int32]:
        if not self.num_by_room[room]:  # then all of them are new
            first, self.num_blocks = self.num_blocks, self.num_blocks + most
            return np.arange(first, self.num_blocks, dtype=np.int32)
        there = np.concatenate(self.by_room[room])
        self.by_room[room] = [there[most:]]
        self.num_by_room[room] -= min(most, len(there))
        return there[:most]

    def _put(self, room: int, blocks: NDArray[np.int32]) -> None:
        if room and len(blocks):
            self.by_room[room].append(blocks)
            self.num_by_room[room] += len(blocks)
