"""Rows show each target once, behind the token it follows, and documents stay what they were."""

import itertools
import logging
import pickle
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightrail.datamodules.batches.batching import BatchConfig, BatchLoader, BucketSampler
from lightrail.datamodules.batches.block_batches import collate_blocks
from lightrail.datamodules.batches.blocks import (
    NO_TARGET,
    BlockConfig,
    EvaluationPieces,
    PackedBlocks,
    SlidingBlocks,
    training_blocks,
)
from lightrail.datamodules.batches.sampling import SourceDraw
from lightrail.project.basics.errors import ConfigError

START, END = 0, 1


class WrittenDocuments:
    """Documents as a test writes them; of each position, its columns."""

    def __init__(self, **columns: Any) -> None:
        self._columns = columns

    @property
    def columns(self) -> list[str]:
        return list(self._columns)

    def __len__(self) -> int:
        return len(self._columns["input_ids"])

    def cell(self, column: str, index: int) -> Any:
        return self._columns[column][index]

    def lengths(self, column: str) -> np.ndarray:
        return np.array([len(values) for values in self._columns[column]], np.int64)

    def values(self, column: str) -> np.ndarray:
        return np.array(self._columns[column])


def documents(*sizes: int, **more: Any) -> WrittenDocuments:
    """Documents of so many tokens between start and end; no token stands twice in all of them."""
    stops = np.cumsum([0, *sizes]) + 2
    inner = [np.arange(start, stop) for start, stop in itertools.pairwise(stops)]
    ids = [np.array([START, *tokens, END], np.uint16) for tokens in inner]
    spelt = [np.array([0, *(tokens % 7), 0], np.uint8) for tokens in inner]
    return WrittenDocuments(input_ids=ids, num_characters=spelt, num_bytes=[2 * own for own in spelt], **more)


def expected_pairs(written: WrittenDocuments, marks: Sequence[np.ndarray] | None = None) -> Counter[tuple[int, ...]]:
    """Each target with the token that it follows."""
    return Counter(
        (int(ids[place]), int(ids[place - 1]))
        for number, ids in enumerate(written.cell("input_ids", index) for index in range(len(written)))
        for place in range(1, len(ids))
        if marks is None or marks[number][place]
    )


def shown_pairs(rows: Any) -> Counter[tuple[int, ...]]:
    pairs: Counter[tuple[int, ...]] = Counter()
    for number in range(len(rows)):
        row = rows.row(number)
        shown = zip(row["labels"].tolist(), row["input_ids"].tolist(), strict=True)
        pairs.update(pair for pair in shown if pair[0] != NO_TARGET)
    return pairs


some_sizes = st.lists(st.integers(0, 40), min_size=1, max_size=15)
lengths_of_a_row = st.integers(1, 24)


@given(some_sizes, lengths_of_a_row, st.sampled_from(["packed", "sliding", "separate"]), st.integers(0, 3))
def test_each_target_is_learned_once_an_epoch_behind_the_token_it_follows(
    sizes: list[int], length: int, method: Any, seed: int
) -> None:
    written = documents(*sizes)
    blocks = training_blocks(written, BlockConfig(length=length, method=method), seed)
    assert shown_pairs(blocks) == expected_pairs(written)
    found = [len(blocks.row(number)["input_ids"]) for number in range(len(blocks))]
    assert blocks.lengths("input_ids").tolist() == found
    assert max(found) <= length


@given(some_sizes, lengths_of_a_row, st.randoms())
def test_only_marked_positions_are_targets(sizes: list[int], length: int, random: Any) -> None:
    marks = [np.array([0, *(random.randint(0, 1) for _ in range(size + 1))], np.uint8) for size in sizes]
    written = documents(*sizes, is_target=marks)
    for method in ("packed", "sliding", "separate"):
        blocks = training_blocks(written, BlockConfig(length=length, method=method))
        assert shown_pairs(blocks) == expected_pairs(written, marks)
    assert shown_pairs(EvaluationPieces(written, BlockConfig(length=length))) == expected_pairs(written, marks)


@given(some_sizes, st.integers(1, 24))
def test_the_documents_of_a_packed_row_are_those_that_were_written(sizes: list[int], length: int) -> None:
    written = documents(*sizes)
    blocks = training_blocks(written, BlockConfig(length=length))
    whole = {tuple(written.cell("input_ids", number).tolist()) for number in range(len(written))}
    for number in range(len(blocks)):
        row = blocks.row(number)
        numbers = row.get("document_ids", np.zeros(len(row["labels"]), np.int64))
        assert numbers.tolist() == sorted(numbers.tolist())
        assert set(numbers.tolist()) == set(range(int(numbers[-1]) + 1))
        for document in range(int(numbers[-1]) + 1):
            inputs, labels = (row[name][numbers == document].tolist() for name in ("input_ids", "labels"))
            assert inputs[1:] == labels[:-1]  # one stretch of text
            if inputs[0] == START and labels[-1] == END:
                assert (*inputs, END) in whole
            else:  # of one that is too long for a row; only its last piece may be short
                assert len(inputs) == length or labels[-1] == END


def test_rows_of_packed_documents_are_full(caplog: pytest.LogCaptureFixture) -> None:
    sizes = np.clip(np.random.default_rng(0).lognormal(3, 0.9, 3000), 1, 900).astype(int)
    with caplog.at_level(logging.INFO):
        blocks = training_blocks(documents(*sizes.tolist()), BlockConfig(length=128))
    share = blocks.lengths("input_ids").sum() / (len(blocks) * 128)
    assert share > 0.99
    assert caplog.messages == [
        f"packed 3000 documents into {len(blocks)} blocks of 128 positions, {100 - 100 * share:.2f} % of them padding"
    ]


def test_sliding_rows_begin_every_stride_and_cross_the_borders_of_documents() -> None:
    blocks = training_blocks(documents(3, 2), BlockConfig(length=4, method="sliding", stride=2))
    rows = [blocks.row(number) for number in range(len(blocks))]
    # The string of all is 0 2 3 4 1 0 5 6 1; the second 0 begins a document.
    assert [row["input_ids"].tolist() for row in rows] == [[0, 2, 3, 4], [3, 4, 1, 0], [1, 0, 5, 6]]
    assert [row["labels"].tolist() for row in rows] == [[2, 3, 4, 1], [4, 1, NO_TARGET, 5], [NO_TARGET, 5, 6, 1]]


def test_a_stride_of_one_shows_every_stretch_of_a_text() -> None:
    blocks = training_blocks(documents(30), BlockConfig(length=8, method="sliding", stride=1))
    assert len(blocks) == 32 - 8
    text = documents(30).cell("input_ids", 0)
    for number in range(len(blocks)):
        assert blocks.row(number)["input_ids"].tolist() == text[number : number + 8].tolist()
        assert blocks.row(number)["labels"].tolist() == text[number + 1 : number + 9].tolist()


@pytest.mark.parametrize("method", ["packed", "sliding", "separate"])
def test_no_row_holds_documents_of_two_sources(method: Any) -> None:
    sizes, sources = [5, 9, 2, 30, 4, 7, 1, 3], np.array([1, 0, 1, 0, 2, 1, 0, 2], np.uint8)
    written = documents(*sizes, source=sources)
    blocks = training_blocks(written, BlockConfig(length=12, method=method))
    source_of_token = {
        int(token): int(source)
        for number, source in enumerate(sources)
        for token in written.cell("input_ids", number)[1:-1]
    }
    for number, source in enumerate(blocks.values("source").tolist()):
        tokens = set(blocks.row(number)["input_ids"].tolist()) - {START, END}
        assert {source_of_token[token] for token in tokens} <= {source}
    assert shown_pairs(blocks) == expected_pairs(written)


@given(some_sizes, st.integers(2, 24).flatmap(lambda length: st.tuples(st.just(length), st.integers(0, length - 1))))
def test_in_evaluation_each_target_counts_once_and_later_pieces_begin_with_context(
    sizes: list[int], size: tuple[int, int]
) -> None:
    (length, overlap), written = size, documents(*sizes)
    pieces = EvaluationPieces(written, BlockConfig(length=length, overlap=overlap))
    assert shown_pairs(pieces) == expected_pairs(written)
    rows = [pieces.row(number) for number in range(len(pieces))]
    assert pieces.lengths("input_ids").tolist() == [len(row["input_ids"]) for row in rows]
    for row in rows:
        num_context = int((row["labels"] == NO_TARGET).sum())
        assert num_context == (0 if row["input_ids"][0] == START else overlap)
        assert len(row["input_ids"]) <= length
    for name in ("num_characters", "num_bytes"):
        assert sum(row[name] for row in rows) == sum(
            own.sum() for own in (written.cell(name, number) for number in range(len(written)))
        )


def test_a_row_of_evaluation_says_what_its_targets_spell_and_whose_it_is() -> None:
    written = documents(5, 1, line=[7, 9])
    pieces = EvaluationPieces(written, BlockConfig(length=4, overlap=1))
    rows = [{**pieces.row(number), "id": number} for number in range(len(pieces))]
    batch = collate_blocks(rows, lambda ids: "-".join(map(str, ids.tolist())))
    assert batch["input_ids"].tolist() == [[0, 2, 3, 4], [4, 5, 6, 0], [0, 7, 0, 0]]
    assert batch["labels"].tolist() == [
        [2, 3, 4, 5],
        [NO_TARGET, 6, 1, NO_TARGET],
        [7, 1, NO_TARGET, NO_TARGET],
    ]
    assert batch["text"] == ["2-3-4-5", "6-1", "7-1"]
    assert batch["num_characters"] == [2 + 3 + 4 + 5, 6, 0]
    assert batch["num_bytes"] == [28, 12, 0]
    assert (batch["num_tokens"], batch["num_targets"]) == (9, 8)
    assert "document_ids" not in batch
    assert pieces.values("line").tolist() == [7, 7, 9]


def test_a_batch_numbers_the_documents_of_its_rows_and_their_padding() -> None:
    rows = [
        {"id": 4, "input_ids": np.array([0, 5, 0, 6], np.uint8), "labels": np.array([5, 1, 6, 1], np.uint8),
         "document_ids": np.array([0, 0, 1, 1])},
        {"id": 2, "input_ids": np.array([0, 7], np.uint8), "labels": np.array([7, 1], np.uint8)},
    ]  # fmt: skip
    batch = collate_blocks(rows, str)
    assert batch["id"] == [4, 2]
    assert batch["document_ids"].tolist() == [[0, 0, 1, 1], [0, 0, 1, 1]]
    assert batch["labels"].tolist() == [[5, 1, 6, 1], [7, 1, NO_TARGET, NO_TARGET]]
    assert {batch[name].dtype for name in ("input_ids", "labels", "document_ids")} == {batch["input_ids"].long().dtype}
    assert "text" not in batch
    (alone,) = [collate_blocks(rows[1:], str)]
    assert "document_ids" not in alone


def loaders(world_size: int, **more: Any) -> list[BatchLoader]:
    blocks = training_blocks(documents(*range(1, 60)), BlockConfig(length=32), seed=3)
    samplers = [
        BucketSampler(
            blocks.lengths("input_ids"),
            BatchConfig(size=4),
            is_shuffled=True,
            rank=rank,
            world_size=world_size,
            **more,
        )
        for rank in range(world_size)
    ]
    return [BatchLoader(blocks, lambda rows: collate_blocks(rows, str), sampler) for sampler in samplers]


def rows_of(batch: dict[str, Any]) -> list[tuple[int, ...]]:
    labels = batch["labels"].tolist()
    return [] if batch["is_filler"] else [tuple(label for label in row if label != NO_TARGET) for row in labels]


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_share_the_batches_of_one(world_size: int) -> None:
    expected = [sorted(rows_of(batch)) for batch in loaders(1)[0]]
    shares = zip(*loaders(world_size), strict=True)
    assert [sorted(row for batch in batches for row in rows_of(batch)) for batches in shares] == expected


def test_an_epoch_goes_on_where_it_stopped() -> None:
    expected = [rows_of(batch) for batch in loaders(1)[0]]
    (interrupted,) = loaders(1)
    for _, _ in zip(range(3), interrupted, strict=False):
        state = interrupted.state_dict()
    (resumed,) = loaders(1)
    resumed.load_state_dict(state)
    assert [rows_of(batch) for batch in resumed] == expected[3:]


@pytest.mark.parametrize("method", ["packed", "sliding", "separate"])
def test_a_worker_process_gets_the_same_rows(method: Any) -> None:
    blocks: PackedBlocks | SlidingBlocks = training_blocks(documents(5, 40, 3), BlockConfig(length=8, method=method))
    again = pickle.loads(pickle.dumps(blocks))
    assert shown_pairs(again) == shown_pairs(blocks)


def test_an_empty_document_makes_no_row() -> None:
    written = WrittenDocuments(input_ids=[np.zeros(0, np.uint8), np.array([START, 5, END], np.uint8)])
    for method in ("packed", "separate"):
        blocks = training_blocks(written, BlockConfig(length=8, method=method))
        assert [blocks.row(number)["labels"].tolist() for number in range(len(blocks))] == [[5, END]]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (BlockConfig(length=8, stride=9), r"data\.blocks\.stride is 9\. Give 1 to data\.blocks\.length \(8\)"),
        (BlockConfig(length=8, overlap=8), r"data\.blocks\.overlap is 8\. Give 0 to 7"),
    ],
)
def test_rows_that_hold_nothing_or_leave_out_text_are_refused(config: BlockConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        training_blocks(documents(3), config)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=60), st.lists(st.floats(0.1, 3.4), min_size=3, max_size=3))
def test_every_epoch_takes_each_source_as_often_as_its_weight_says(sources: list[int], weights: list[float]) -> None:
    numbers = np.array(sources)
    draw = SourceDraw(numbers, weights, seed=1)
    for epoch in range(4):
        taken = draw(epoch)
        for source, weight in enumerate(weights):
            own = np.flatnonzero(numbers == source)
            times = Counter(taken[numbers[taken] == source].tolist())
            whole = int(weight)
            part = max(round((weight - whole) * len(own)), int(whole == 0 and len(own) > 0))
            assert times.total() == whole * len(own) + part
            assert all(times[number] >= whole for number in own.tolist())
    assert (draw(2) == SourceDraw(numbers, weights, seed=1)(2)).all()


def test_half_of_a_source_is_another_half_in_the_next_epoch() -> None:
    draw = SourceDraw(np.repeat([0, 1], [40, 10]), [0.5, 1], seed=0)
    halves = [set(draw(epoch).tolist()) & set(range(40)) for epoch in range(4)]
    assert [len(half) for half in halves] == [20] * 4
    assert halves[0] | halves[1] == halves[2] | halves[3] == set(range(40))
    assert halves[0] != halves[2]
    assert all(set(range(40, 50)) <= set(draw(epoch).tolist()) for epoch in range(4))


def test_a_source_is_gone_through_before_any_of_it_comes_again() -> None:
    draw = SourceDraw(np.zeros(10, np.uint8), [0.4], seed=0)
    taken = [number for epoch in range(5) for number in draw(epoch).tolist()]
    assert sorted(taken[:10]) == sorted(taken[10:]) == list(range(10))
