"""Metrics of language models follow from sums: by hand, against torchmetrics, and again from stored columns."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.text import Perplexity as TheirPerplexity

from lightrail.lightning_modules.metrics.evaluation import ScoreSums
from lightrail.lightning_modules.metrics.language import LossByPosition
from lightrail.lightning_modules.metrics.language_scores import BitsPerUnit, Perplexity
from lightrail.lightning_modules.metrics.scores import Score, SumRatio
from lightrail.project.models.predictions import scores_from_json, scores_to_json

FLIP = math.log(2)
"""Nats of a coin."""


SCORES: dict[str, Score] = {
    "perplexity": Perplexity(higher_is_better=False),
    "bits_per_character": BitsPerUnit(units="num_characters", higher_is_better=False),
    "bits_per_byte": BitsPerUnit(units="num_bytes", higher_is_better=False),
    "token_accuracy": SumRatio(numerator="num_correct", denominator="num_targets"),
}


def counted(*rows: tuple[list[float], list[bool], int, int]) -> dict[str, float]:
    """The metrics of texts: the nats of each target, which of them are right, and what they spell."""
    sums = ScoreSums(SCORES)
    for losses, are_correct, num_characters, num_bytes in rows:
        row = {"loss": sum(losses) / max(1, len(losses)), "num_targets": len(losses), "num_correct": sum(are_correct)}
        row |= {"num_characters": num_characters, "num_bytes": num_bytes}
        sums.update({name: [value] for name, value in row.items()})
    return sums.compute()


def test_metrics_are_those_computed_by_hand() -> None:
    # 3 + 1 bits over two targets that spell two hanzi, six bytes; then a document's end, which costs 2 bits.
    metrics = counted(([3 * FLIP, FLIP], [False, True], 2, 6), ([2 * FLIP], [True], 0, 0))
    assert metrics == pytest.approx(
        {"perplexity": 4, "bits_per_character": 3, "bits_per_byte": 1, "token_accuracy": 2 / 3}
    )


def test_means_of_batches_are_not_averaged() -> None:
    together = counted(([1.0, 2.0, 6.0], [True, False, False], 9, 9))
    assert counted(([1.0], [True], 5, 5), ([2.0, 6.0], [False, False], 4, 4)) == pytest.approx(together)


def test_what_spells_nothing_has_no_bits_per_character() -> None:
    metrics = counted(([1.0], [True], 0, 0))
    assert math.isinf(metrics["bits_per_character"])
    assert metrics["perplexity"] == pytest.approx(math.e)
    assert math.isnan(counted(([], [], 0, 0))["bits_per_character"])


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(0, 1000))
def test_perplexity_is_that_of_torchmetrics(lengths: list[int], seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    rows: list[tuple[list[float], list[bool], int, int]] = []
    theirs = TheirPerplexity(ignore_index=-100)
    for length in lengths:
        logits = torch.randn(2, length, 7, generator=random)
        targets = torch.randint(7, (2, length), generator=random)
        targets[0, 0] = -100
        theirs.update(logits, targets)
        is_target = targets >= 0
        losses = torch.nn.functional.cross_entropy(logits[is_target], targets[is_target], reduction="none")
        rows.append((losses.tolist(), [], 1, 1))
    assert counted(*rows)["perplexity"] == pytest.approx(float(theirs.compute()), rel=1e-5)


ROWS = st.lists(st.tuples(st.floats(0, 20), st.integers(1, 50), st.integers(1, 200), st.integers(0, 3)), min_size=1)


@given(ROWS)
def test_stored_rows_give_the_same_metrics(rows: list[tuple[float, int, int, int]]) -> None:
    losses, counts, characters, more = (np.array(column) for column in zip(*rows, strict=True))
    columns = {"loss": losses, "num_targets": counts, "num_characters": characters, "num_bytes": characters + more}
    scores = {name: SCORES[name] for name in ("perplexity", "bits_per_character", "bits_per_byte")}
    expected = counted(*(([loss] * count, [True] * count, own, own + extra) for loss, count, own, extra in rows))
    restored = scores_from_json(scores_to_json(scores))
    assert restored == scores
    for name, score in restored.items():
        assert score.of(columns) == pytest.approx(expected[name], rel=1e-5)


def test_stored_rows_without_characters_are_undefined_or_infinite() -> None:
    columns = {"loss": np.array([1.0]), "num_targets": np.array([1]), "num_characters": np.array([0])}
    assert math.isinf(BitsPerUnit(units="num_characters").of(columns))
    columns["num_targets"] = np.array([0])
    assert math.isnan(BitsPerUnit(units="num_characters").of(columns))
    assert math.isnan(Perplexity().of(columns))


def test_loss_by_position_keeps_the_first_positions_apart() -> None:
    metric = LossByPosition()
    metric.update(torch.tensor([5.0, 3.0, 2.0, 1.0]), torch.tensor([0, 1, 2, 100]))
    metric.update(torch.tensor([7.0, 2.0]), torch.tensor([0, 101]))
    assert metric.compute().tolist() == [[1, 6, 2], [2, 3, 1], [3, 2, 1], [101.5, 1.5, 2]]


def test_without_targets_there_is_no_position() -> None:
    metric = LossByPosition()
    metric.update(torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    assert metric.compute().shape == (0, 3)
