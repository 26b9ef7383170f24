"""Metrics equal other implementations, however the examples are divided."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.text import CharErrorRate

from lightrail.lightning_modules.metrics.mean_loss import MeanLoss
from lightrail.lightning_modules.metrics.sentence_errors import SentenceErrors, num_edits, only_hanzi

hanzi = st.text(st.sampled_from("你好我们"), max_size=9)
sentence_pairs = st.lists(st.tuples(hanzi, hanzi), min_size=1, max_size=8).filter(
    lambda pairs: any(target for _, target in pairs)
)


def edit_distance(one: str, other: str) -> int:
    """Wagner and Fischer's table, cell by cell."""
    table = np.zeros((len(one) + 1, len(other) + 1), np.int64)
    table[:, 0], table[0] = range(len(one) + 1), range(len(other) + 1)
    for row, first in enumerate(one, 1):
        for column, second in enumerate(other, 1):
            steps = (table[row - 1, column] + 1, table[row, column - 1] + 1)
            table[row, column] = min(*steps, table[row - 1, column - 1] + (first != second))
    return int(table[-1, -1])


def computed(metric: SentenceErrors) -> dict[str, float]:
    return {name: float(value) for name, value in metric.compute().items()}


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


@given(sentence_pairs)
def test_rates_follow_from_edits_and_characters(pairs: list[tuple[str, str]]) -> None:
    metric = SentenceErrors()
    metric.update([predicted for predicted, _ in pairs], [target for _, target in pairs])
    edits = [edit_distance(*pair) for pair in pairs]
    rate = sum(edits) / sum(len(target) for _, target in pairs)
    assert computed(metric) == pytest.approx(
        {
            "character_error_rate": rate,
            "character_accuracy": 1 - rate,
            "sentence_accuracy": edits.count(0) / len(edits),
        }
    )


@given(sentence_pairs)
def test_the_error_rate_is_that_of_torchmetrics(pairs: list[tuple[str, str]]) -> None:
    own, other = SentenceErrors(), CharErrorRate()
    for predicted, target in pairs:
        own.update([predicted], [target])
        other.update([predicted], [target])
    assert computed(own)["character_error_rate"] == pytest.approx(float(other.compute()))


@given(sentence_pairs, st.lists(st.integers(0, 8), max_size=3))
def test_batches_and_processes_change_nothing(pairs: list[tuple[str, str]], cuts: list[int]) -> None:
    whole, merged = SentenceErrors(), SentenceErrors()
    whole.update(*zip(*pairs, strict=True))
    bounds = [0, *sorted(cuts), 8]
    for start, end in pairwise(bounds):
        part = SentenceErrors() if start else merged
        part.update([predicted for predicted, _ in pairs[start:end]], [target for _, target in pairs[start:end]])
        if part is not merged:
            merged.merge_state(part)
    assert computed(merged) == computed(whole)


def test_signs_letters_and_spaces_do_not_count() -> None:
    metric = SentenceErrors()
    metric.update(["你好，A1 们。", "我"], ["你好!们", "我？"])
    assert computed(metric) == {"character_accuracy": 1.0, "character_error_rate": 0.0, "sentence_accuracy": 1.0}
    assert only_hanzi("a你〇，㐀\U00020000é") == "你㐀\U00020000"


def test_a_prediction_for_each_target_is_needed() -> None:
    with pytest.raises(ValueError, match="argument 2 is longer"):
        SentenceErrors().update(["你"], ["你", "好"])


def test_a_reset_metric_starts_over() -> None:
    metric = SentenceErrors()
    metric.update(["你"], ["好"])
    metric.reset()
    metric.update(["你"], ["你"])
    assert computed(metric)["character_accuracy"] == 1.0


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
