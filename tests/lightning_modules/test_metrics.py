"""Metrics equal other implementations, however the examples are divided."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightrail.lightning_modules.metrics.evaluation import MeanLoss
from lightrail.lightning_modules.metrics.sentence_errors import num_edits, only_hanzi

hanzi = st.text(st.sampled_from("你好我们"), max_size=9)


def edit_distance(one: str, other: str) -> int:
    """Wagner and Fischer's table, cell by cell."""
    table = np.zeros((len(one) + 1, len(other) + 1), np.int64)
    table[:, 0], table[0] = range(len(one) + 1), range(len(other) + 1)
    for row, first in enumerate(one, 1):
        for column, second in enumerate(other, 1):
            steps = (table[row - 1, column] + 1, table[row, column - 1] + 1)
            table[row, column] = min(*steps, table[row - 1, column - 1] + (first != second))
    return int(table[-1, -1])


def test_edits_of_known_pairs() -> None:
    assert [num_edits(*pair) for pair in (("你好", "好你"), ("你好我们", "好我们你"), ("", "你"), ("你", ""))] == [
        2,
        2,
        1,
        1,
    ]


@settings(max_examples=300, deadline=None)
@given(*[hanzi | st.text(st.sampled_from("你好我\U00020000"), max_size=80)] * 2)
def test_edits_are_the_levenshtein_distance(one: str, other: str) -> None:
    assert num_edits(one, other) == edit_distance(one, other)


def test_only_hanzi_count() -> None:
    assert only_hanzi("a你〇，㐀\U00020000é") == "你㐀\U00020000"


losses = st.lists(st.tuples(st.floats(0, 100, width=32), st.integers(0, 50)), min_size=1, max_size=20).filter(
    lambda batches: any(count for _, count in batches)
)


@given(losses)
def test_the_mean_loss_is_weighted_by_targets(batches: list[tuple[float, int]]) -> None:
    metric = MeanLoss()
    for mean, count in batches:
        metric.update(torch.tensor(mean), count)
    values, weights = np.array(batches).T
    assert float(metric.compute()) == pytest.approx(np.average(values, weights=weights))


@given(losses, losses)
def test_the_mean_loss_of_two_processes_is_that_of_one(
    one: list[tuple[float, int]], other: list[tuple[float, int]]
) -> None:
    whole, parts = MeanLoss(), [MeanLoss(), MeanLoss()]
    for part, batches in zip(parts, (one, other), strict=True):
        for mean, count in batches:
            whole.update(torch.tensor(mean), count)
            part.update(torch.tensor(mean), count)
    parts[0].merge_state(parts[1])
    assert float(parts[0].compute()) == pytest.approx(float(whole.compute()))


def test_a_batch_without_targets_does_not_count() -> None:
    metric = MeanLoss()
    metric.update(torch.tensor(2.0), 3)
    metric.update(torch.tensor(torch.nan), 0)
    assert float(metric.compute()) == 2.0


def test_small_losses_are_not_lost_beside_a_large_sum() -> None:
    metric = MeanLoss()
    metric.update(torch.tensor(1e9), 1)
    for _ in range(1000):
        metric.update(torch.tensor(1.0), 1)  # each below the resolution of float32 at 1e9
    assert float(metric.compute()) == pytest.approx((1e9 + 1000) / 1001, rel=1e-12)
