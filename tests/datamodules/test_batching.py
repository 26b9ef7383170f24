"""Batches hold every example once, within their limits, whoever asks and wherever a run goes on."""

import time
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from lightrail.datamodules.batches.batching import BatchConfig, BatchLoader, BucketSampler, batch_bounds, length_buckets
from lightrail.project.basics.errors import ConfigError
from tests.support.counted_rows import CountedRows, collate, ids, many_lengths
from tests.support.tiny import quiet_trainer

WORLDS = (1, 2, 3, 5)

some_lengths = st.lists(st.integers(0, 300), min_size=1, max_size=80).map(np.array)
limits = st.tuples(st.none() | st.integers(1, 20), st.none() | st.integers(1, 700)).filter(any)


def loader(num_workers: int = 0, *, num_rows: int = 23, size: int = 4, **more: Any) -> BatchLoader:
    rows = CountedRows(many_lengths(num_rows).tolist())
    sampler = BucketSampler(rows.lengths, BatchConfig(size=size), is_shuffled=True, **more)
    return BatchLoader(rows, collate, sampler, num_workers)


@given(some_lengths)
def test_a_length_is_rounded_up_by_at_most_8_percent(lengths: np.ndarray) -> None:
    buckets = length_buckets(lengths)
    assert (buckets >= np.maximum(lengths, 1)).all()
    assert (buckets <= np.maximum(lengths * 1.08, 1)).all()
    assert buckets.max() == max(1, lengths.max())
    assert (np.diff(buckets[np.argsort(lengths, kind="stable")]) >= 0).all()


@given(some_lengths, limits)
def test_batches_are_cut_where_one_more_example_would_pass_a_limit(
    lengths: np.ndarray, limits: tuple[int | None, int | None]
) -> None:
    size, max_tokens = limits
    buckets = np.sort(length_buckets(lengths)).tolist()
    expected, count = [0], 0
    for place, length in enumerate(buckets):  # one by one, as a person would
        is_full = count == (size or np.inf) or (count + 1) * length > (max_tokens or np.inf)
        if count and is_full:
            expected.append(place)
            count = 0
        count += 1
    assert batch_bounds(np.array(buckets), size, max_tokens).tolist() == [*expected, len(buckets)]


@given(some_lengths, limits, st.booleans(), st.integers(0, 3))
def test_a_batch_stays_within_both_limits_unless_it_is_one_long_example(
    lengths: np.ndarray, limits: tuple[int | None, int | None], is_shuffled: bool, epoch: int
) -> None:
    size, max_tokens = limits
    sampler = BucketSampler(lengths, BatchConfig(size=size, max_tokens=max_tokens), is_shuffled=is_shuffled)
    sampler.set_epoch(epoch)
    for batch in sampler.global_batches():
        positions = len(batch) * lengths[batch].max()
        assert 1 <= len(batch) <= (size or np.inf)
        assert len(batch) == 1 or positions <= (max_tokens or np.inf)


@pytest.mark.parametrize("world_size", WORLDS)
@given(some_lengths, limits, st.booleans(), st.integers(0, 3))
@settings(max_examples=40)
def test_every_example_comes_once_in_an_epoch_and_batches_do_not_depend_on_the_number_of_processes(
    world_size: int, lengths: np.ndarray, limits: tuple[int | None, int | None], is_shuffled: bool, epoch: int
) -> None:
    config = BatchConfig(size=limits[0], max_tokens=limits[1])
    alone = BucketSampler(lengths, config, is_shuffled=is_shuffled)
    alone.set_epoch(epoch)
    expected = [sorted(share.indices) for share in alone]
    dealt: list[list[int]] = [[] for _ in expected]
    for rank in range(world_size):
        own = BucketSampler(lengths, config, is_shuffled=is_shuffled, rank=rank, world_size=world_size)
        own.set_epoch(epoch)
        shares = list(own)
        assert len(shares) == len(own) == len(expected)  # a process with a step less would leave the others waiting
        for number, share in enumerate(shares):
            assert share.is_filler == (len(expected[number]) <= rank)
            assert len(share.indices) >= 1
            assert set(share.indices) <= set(expected[number])
            dealt[number] += [] if share.is_filler else share.indices
    assert [sorted(batch) for batch in dealt] == expected
    assert sorted(index for batch in dealt for index in batch) == list(range(len(lengths)))


@pytest.mark.parametrize("world_size", WORLDS)
def test_the_examples_of_a_batch_are_dealt_out_evenly(world_size: int) -> None:
    lengths, config = many_lengths(1000), BatchConfig(size=32)
    ranks = [BucketSampler(lengths, config, rank=rank, world_size=world_size) for rank in range(world_size)]
    for shares in zip(*ranks, strict=True):
        counts = [len(share.indices) for share in shares]
        assert max(counts) - min(counts) <= 1


@given(some_lengths, limits, st.integers(0, 5))
def test_every_epoch_has_the_same_number_of_batches(
    lengths: np.ndarray, limits: tuple[int | None, int | None], seed: int
) -> None:
    sampler = BucketSampler(lengths, BatchConfig(size=limits[0], max_tokens=limits[1]), seed=seed, is_shuffled=True)
    for epoch in range(4):
        sampler.set_epoch(epoch)
        assert len(sampler.global_batches()) == len(list(sampler)) == len(sampler)


@pytest.mark.parametrize("max_tokens", [1024, 4096, 16_384])
def test_batches_under_a_token_budget_are_well_filled(max_tokens: int) -> None:
    lengths = many_lengths()
    sampler = BucketSampler(lengths, BatchConfig(size=None, max_tokens=max_tokens), is_shuffled=True)
    batches = sampler.global_batches()
    positions = np.array([len(batch) * lengths[batch].max() for batch in batches])
    assert (positions / max_tokens).mean() > 0.9
    assert lengths.sum() / positions.sum() > 0.9  # the rest is padding


def test_batches_of_a_fixed_size_are_full_but_one() -> None:
    lengths = many_lengths(1001)
    sizes = sorted(len(batch) for batch in BucketSampler(lengths, BatchConfig(size=10)).global_batches())
    assert sizes == [1] + [10] * 100


def test_both_limits_hold_together() -> None:
    lengths = np.array([1] * 20 + [10] * 20)
    batches = BucketSampler(lengths, BatchConfig(size=8, max_tokens=30)).global_batches()
    assert [len(batch) for batch in batches] == [8, 8, 4, 3, 3, 3, 3, 3, 3, 2]  # a ten beside four ones: 50
    assert all(len(batch) * lengths[batch].max() <= 30 for batch in batches)


def test_an_example_longer_than_the_budget_is_a_batch_of_its_own() -> None:
    batches = BucketSampler(np.array([5, 500, 5, 400]), BatchConfig(size=None, max_tokens=100)).global_batches()
    assert [batch.tolist() for batch in batches] == [[0, 2], [3], [1]]


def test_every_epoch_and_seed_has_an_order_and_neighbours_of_its_own() -> None:
    def batches(seed: int, epoch: int) -> list[tuple[int, ...]]:
        sampler = BucketSampler(many_lengths(500), BatchConfig(size=8), seed=seed, is_shuffled=True)
        sampler.set_epoch(epoch)
        return [tuple(batch) for batch in sampler.global_batches()]

    orders = {(seed, epoch): batches(seed, epoch) for seed in (0, 1) for epoch in (0, 1)}
    for one, order in orders.items():
        assert batches(*one) == order
        for other in orders.keys() - {one}:
            shared = {frozenset(batch) for batch in order} & {frozenset(batch) for batch in orders[other]}
            assert len(shared) < 10  # of 63 batches: not only their order differs


def test_in_evaluation_every_epoch_begins_with_the_shortest() -> None:
    lengths = many_lengths(200)
    sampler = BucketSampler(lengths, BatchConfig(size=8), seed=3)
    first = sampler.global_batches()
    sampler.set_epoch(1)
    assert all((one == other).all() for one, other in zip(first, sampler.global_batches(), strict=True))
    longest = [length_buckets(lengths)[batch].max() for batch in first]
    assert longest == sorted(longest)


def test_training_batches_come_short_and_long_mixed() -> None:
    lengths = many_lengths(2000)
    sampler = BucketSampler(lengths, BatchConfig(size=8), is_shuffled=True)
    longest = np.array([lengths[batch].max() for batch in sampler.global_batches()])
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": None}, "size and max_tokens are both null"),
        ({"size": 0}, r"BatchConfig\.size: expected a whole number of at least 1 or null, found 0"),
        ({"max_tokens": -1}, r"BatchConfig\.max_tokens: expected a whole number of at least 1 or null, found -1"),
        ({"num_workers": -1}, r"BatchConfig\.num_workers: expected a whole number of at least 0, found -1"),
    ],
)
def test_limits_that_hold_nothing_are_refused(settings: dict[str, int | None], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BucketSampler(np.array([1, 2]), BatchConfig(**settings))  # type: ignore[arg-type]


def test_a_loader_collates_rows_with_their_numbers() -> None:
    rows = CountedRows([3, 1, 2])
    batches = list(BatchLoader(rows, collate, BucketSampler(rows.lengths, BatchConfig(size=2))))
    assert [batch["id"] for batch in batches] == [[1, 2], [0]]
    assert [batch["lengths"].tolist() for batch in batches] == [[1, 2], [3]]
    assert [batch["is_filler"] for batch in batches] == [False, False]


def test_a_process_without_an_example_of_its_own_gets_a_marked_one() -> None:
    rows = CountedRows([3, 1, 2])
    sampler = BucketSampler(rows.lengths, BatchConfig(size=2), rank=1, world_size=2)
    batches = list(BatchLoader(rows, collate, sampler))
    assert [(batch["id"], batch["is_filler"]) for batch in batches] == [([2], False), ([0], True)]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_workers_change_no_order(num_workers: int) -> None:
    expected = [share.indices for share in loader().sampler]
    several = loader(num_workers)
    assert ids(several) == expected
    several.sampler.set_epoch(1)  # the workers live on
    second = ids(several)
    assert second != expected
    assert sorted(chain.from_iterable(second)) == sorted(chain.from_iterable(expected))


@pytest.mark.parametrize("epoch", [0, 2])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loader_goes_on_in_the_middle_of_an_epoch_with_exactly_the_rest(num_workers: int, epoch: int) -> None:
    whole = loader()
    whole.sampler.set_epoch(epoch)
    expected = ids(whole)
    whole.sampler.set_epoch(epoch + 1)
    following = ids(whole)
    for num_seen in (1, 4):
        interrupted = loader(num_workers)
        interrupted.sampler.set_epoch(epoch)
        for _, _ in zip(range(num_seen), interrupted, strict=False):
            state = interrupted.state_dict()
        resumed = loader(num_workers)
        resumed.load_state_dict(state)
        resumed.sampler.set_epoch(epoch)
        assert ids(resumed) == expected[num_seen:]
        resumed.sampler.set_epoch(epoch + 1)
        assert ids(resumed) == following


def test_after_the_last_batch_a_new_epoch_begins() -> None:
    finished = loader()
    expected = ids(finished)
    resumed = loader()
    resumed.load_state_dict(finished.state_dict())
    assert ids(resumed) == expected


def test_an_epoch_that_was_broken_off_leaves_nothing_behind() -> None:
    batches = loader()
    expected = ids(batches)
    next(iter(batches))
    assert ids(batches) == expected


def test_a_run_may_go_on_with_another_number_of_processes() -> None:
    alone = loader()
    for _, _ in zip(range(2), alone, strict=False):
        state = alone.state_dict()
    rest = [sorted(batch.tolist()) for batch in loader().sampler.global_batches()[2:]]
    dealt: list[list[int]] = [[] for _ in rest]
    for rank in range(3):
        resumed = loader(rank=rank, world_size=3)
        resumed.load_state_dict(state)
        for number, batch in enumerate(resumed):
            dealt[number] += [] if batch["is_filler"] else batch["id"]
    assert [sorted(batch) for batch in dealt] == rest


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: loader(num_rows=24), "num_examples was 23 and is 24"),
        (lambda: loader(seed=1), "seed was 0 and is 1"),
        (lambda: loader(size=5), "num_batches was 6 and is 5"),
    ],
)
def test_going_on_with_other_data_seed_or_limits_is_refused(other: Callable[[], BatchLoader], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        other().load_state_dict(loader().state_dict())


class Recorder(pl.LightningModule):
    """Remembers which examples it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.seen: list[tuple[int, list[int]]] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        self.seen.append((self.current_epoch, batch["id"]))
        out: torch.Tensor = self.layer(batch["lengths"].float()[:, None]).sum()
        return out

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def recorded(folder: Path, *, resume_from: Path | None = None, **more: Any) -> list[tuple[int, list[int]]]:
    keep = ModelCheckpoint(folder, filename="{step}", save_top_k=-1, every_n_train_steps=1)
    trainer = quiet_trainer(max_epochs=3, callbacks=[keep], enable_checkpointing=True, **more)
    recorder = Recorder()
    trainer.fit(recorder, loader(), ckpt_path=resume_from, weights_only=True)
    return recorder.seen


def test_lightning_gives_every_epoch_its_own_order(tmp_path: Path) -> None:
    seen = recorded(tmp_path)
    epochs = [[batch for epoch, batch in seen if epoch == number] for number in range(3)]
    for number, batches in enumerate(epochs):
        expected = loader().sampler
        expected.set_epoch(number)
        assert batches == [batch.tolist() for batch in expected.global_batches()]


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize("limit", [None, 4])
def test_lightning_goes_on_at_the_batch_of_the_checkpoint(tmp_path: Path, limit: int | None) -> None:
    whole = recorded(tmp_path, limit_train_batches=limit)
    assert len(whole) == 3 * (limit or 6)
    for step in range(1, len(whole)):
        resumed = recorded(tmp_path, resume_from=tmp_path / f"step={step}.ckpt", limit_train_batches=limit)
        assert resumed == whole[step:], step


def test_an_epoch_of_millions_of_equal_rows_begins_at_once() -> None:
    started = time.process_time()
    sampler = BucketSampler(np.full(2_000_000, 64), BatchConfig(size=4, max_tokens=512), is_shuffled=True)
    first = next(iter(sampler))
    assert time.process_time() - started < 2  # 0.2 s; 15 s when every batch is cut out beforehand
    assert len(first.indices) == 4
    assert len(sampler) == 500_000


@given(some_lengths, limits)
def test_batches_can_be_measured_without_looking_at_them(
    lengths: np.ndarray, limits: tuple[int | None, int | None]
) -> None:
    sampler = BucketSampler(lengths, BatchConfig(size=limits[0], max_tokens=limits[1]), is_shuffled=True)
    batches = sampler.global_batches()
    assert batches.sizes().tolist() == [len(batch) for batch in batches]
    assert sampler.buckets[batches.longest()].tolist() == [sampler.buckets[batch].max() for batch in batches]


PAIRS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=1, max_size=80)


@settings(max_examples=60)
@given(PAIRS, st.integers(1, 300), st.none() | st.integers(1, 9), st.booleans())
def test_a_token_budget_counts_source_and_target(
    pairs: list[tuple[int, int]], max_tokens: int, size: int | None, is_shuffled: bool
) -> None:
    lengths = np.array(pairs)
    sampler = BucketSampler(lengths, BatchConfig(size=size, max_tokens=max_tokens), is_shuffled=is_shuffled)
    batches = list(sampler.global_batches())
    assert sorted(number for batch in batches for number in batch.tolist()) == list(range(len(pairs)))
    for batch in batches:
        positions = len(batch) * lengths[batch].max(0).sum()
        assert len(batch) == 1 or (positions <= max_tokens and len(batch) <= (size or len(pairs)))
    for epoch in (1, 2):
        sampler.set_epoch(epoch)
        assert len(sampler.global_batches()) == len(sampler)


def test_pairs_that_are_alike_in_both_lengths_share_a_batch() -> None:
    source = np.random.default_rng(0).integers(5, 60, 2000)
    lengths = np.stack([source, source + np.random.default_rng(1).integers(0, 12, 2000)], axis=1)  # as translations
    batches = BucketSampler(lengths, BatchConfig(size=None, max_tokens=1000), is_shuffled=True).global_batches()
    padded = sum(len(batch) * lengths[batch].max(0).sum() for batch in batches)
    assert padded < 1.25 * lengths.sum()


def drawn_by(loader: BatchLoader) -> dict[int, float]:
    """What each example draws, by its number."""
    return {number: value for batch in loader for number, value in batch["drawn"]}


def draw(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"drawn": [(row["id"], np.random.default_rng(row["draw_seed"]).random()) for row in rows]}


@pytest.mark.parametrize("is_shuffled", [True, False])
def test_what_is_drawn_for_an_example_follows_from_seed_and_epoch_alone(is_shuffled: bool) -> None:
    def loader(seed: int = 5, rank: int = 0, world_size: int = 1, size: int = 4, workers: int = 0) -> BatchLoader:
        rows, config = CountedRows(many_lengths(40).tolist()), BatchConfig(size=size)
        sampler = BucketSampler(
            rows.lengths, config, seed=seed, is_shuffled=is_shuffled, rank=rank, world_size=world_size
        )
        sampler.set_epoch(3)
        return BatchLoader(rows, draw, sampler, workers)

    expected = drawn_by(loader())
    assert len(set(expected.values())) == 40
    assert drawn_by(loader(size=7, workers=1)) == expected
    assert drawn_by(loader(rank=0, world_size=2)) | drawn_by(loader(rank=1, world_size=2)) == expected
    assert drawn_by(loader(seed=6)) != expected
    other_epoch = loader()
    other_epoch.sampler.set_epoch(4)
    assert (drawn_by(other_epoch) == expected) is not is_shuffled
