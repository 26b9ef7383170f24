"""Packing loses no piece, overfills no block, and leaves as little room as placing pieces one by one does."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightrail.datamodules.batches.packing import pack

cases = st.integers(1, 40).flatmap(
    lambda capacity: st.tuples(st.just(capacity), st.lists(st.integers(1, capacity), max_size=120).map(np.array))
)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def fills(lengths: np.ndarray, blocks: np.ndarray) -> list[int]:
    return sorted(np.bincount(blocks, weights=lengths).astype(int).tolist())


def one_by_one(lengths: np.ndarray, capacity: int) -> list[int]:
    """Best fit decreasing, as a person would do it: the positions filled of each block."""
    filled: list[int] = []
    for length in sorted(lengths.tolist(), reverse=True):
        fitting = [number for number, own in enumerate(filled) if own + length <= capacity]
        if fitting:
            filled[max(fitting, key=lambda number: filled[number])] += length
        else:
            filled.append(length)
    return sorted(filled)


@given(cases)
def test_blocks_are_filled_as_by_placing_each_piece_where_least_room_is_left(case: tuple[int, np.ndarray]) -> None:
    capacity, lengths = case
    blocks = pack(lengths.astype(np.int64), capacity, generator())
    assert len(blocks) == len(lengths)
    assert set(blocks.tolist()) == set(range(int(blocks.max(initial=-1)) + 1))  # without gaps
    assert fills(lengths, blocks) == one_by_one(lengths, capacity)


def test_which_pieces_share_a_block_follows_from_the_seed_alone() -> None:
    lengths = generator().integers(1, 100, 500)
    first = pack(lengths, 100, generator(1))
    assert (pack(lengths, 100, generator(1)) == first).all()
    assert (pack(lengths, 100, generator(2)) != first).mean() > 0.5


def test_the_lengths_of_sentences_fill_blocks_to_more_than_99_percent() -> None:
    lengths = np.clip(generator().lognormal(4.5, 0.8, 20_000), 1, 512).astype(np.int64)
    num_blocks = int(pack(lengths, 512, generator()).max()) + 1
    assert lengths.sum() / (num_blocks * 512) > 0.99


@pytest.mark.parametrize("capacity", [256, 4096])
def test_time_does_not_grow_with_the_pieces_times_the_blocks(capacity: int) -> None:
    lengths = generator().integers(1, capacity + 1, 300_000)
    started = time.process_time()
    pack(lengths, capacity, generator())
    assert time.process_time() - started < 3  # 0.3 s; one by one it takes minutes
