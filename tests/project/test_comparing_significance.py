"""Intervals and p values are those of scipy, or follow by hand."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from benchmarks.comparing import MADE_WORSE, World, alarms
from lightrail.lightning_modules.metrics.scores import Columns, Score, ShareZero, SumRatio, Values, WeightedMean
from lightrail.project.comparing import significance
from lightrail.project.comparing.measuring import Difference, measure
from lightrail.project.comparing.significance import (
    Spread,
    bootstrap_sums,
    holm,
    mcnemar,
    share_as_large,
    student_interval,
    student_p,
    swapped_sums,
)

RATE: dict[str, Score] = {"rate": SumRatio(numerator="num_edits", denominator="num_hanzi", higher_is_better=False)}
ZERO: dict[str, Score] = {"zero": ShareZero(column="num_edits")}
LOSS: dict[str, Score] = {"loss": WeightedMean(column="loss", higher_is_better=False)}


def answers(number: int, seed: int, rate: float = 0.1) -> Columns:
    """The sentences are the same for every seed, and what is wrong with them is not."""
    lengths = np.random.default_rng(99).integers(4, 20, number)
    generator = np.random.default_rng(seed)
    return {
        "num_hanzi": lengths,
        "num_edits": generator.binomial(lengths, rate),
        "loss": generator.exponential(size=number),
    }


def only_difference(sides: list[list[Columns]], scores: dict[str, Score], **settings: Any) -> Difference:
    (difference,) = measure(sides, scores, **settings).differences
    return difference


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (3, 9), (9, 3), (5, 5), (0, 6), (40, 70)])
def test_mcnemar_is_the_binomial_test_on_discordant_pairs(gained: int, lost: int) -> None:
    one = np.array([0.0] * gained + [1.0] * lost + [1, 1, 0])
    other = np.array([1.0] * gained + [0.0] * lost + [1, 1, 0])
    expected = stats.binomtest(gained, gained + lost, 0.5).pvalue if gained + lost else 1.0
    assert mcnemar(one, other) == pytest.approx(expected, rel=1e-12)


def test_randomization_agrees_with_all_swaps_there_are() -> None:
    one, other = answers(10, seed=1, rate=0.1), answers(10, seed=2, rate=0.2)
    edits = np.stack([one["num_edits"], other["num_edits"]])
    differences = [
        abs(np.where(swap, edits[::-1], edits).sum(1) @ [-1, 1]) for swap in itertools.product([0, 1], repeat=10)
    ]
    exact = np.mean(np.array(differences) >= abs(edits.sum(1) @ [-1, 1]))
    found = only_difference([[one], [other]], RATE, num_swaps=20_000)
    assert 0.01 < exact < 0.5
    assert found.test == "randomization"
    assert found.p == pytest.approx(exact, abs=0.01)


def test_randomization_agrees_with_scipy() -> None:
    one, other = answers(300, seed=1, rate=0.1), answers(300, seed=2, rate=0.12)
    theirs = stats.permutation_test(
        (one["loss"], other["loss"]),
        lambda first, second, axis: first.mean(axis) - second.mean(axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=9_999,
        rng=np.random.default_rng(0),
    )
    assert only_difference([[one], [other]], LOSS).p == pytest.approx(theirs.pvalue, abs=0.02)


def test_equal_predictions_are_never_different() -> None:
    same = answers(40, seed=1)
    for scores in (RATE, ZERO, LOSS):
        found = only_difference([[same], [same]], scores)
        assert (found.value, found.low, found.high, found.p, found.is_shown) == (0, 0, 0, 1, False)
    assert share_as_large(0.0, np.zeros(99)) == 1


def test_a_difference_no_swap_reaches_has_the_smallest_p_there_is() -> None:
    assert share_as_large(-2.0, np.linspace(-1, 1, 999)) == 1 / 1000
    assert share_as_large(1.0, np.array([-1.0, 1.0, 0.5, math.nan])) == 4 / 5


@pytest.mark.parametrize("scores", [RATE, ZERO], ids=["rate", "zero"])
def test_intervals_are_those_of_scipy(scores: dict[str, Score]) -> None:
    one, other = answers(400, seed=1), answers(400, seed=2, rate=0.13)
    found = measure([[one], [other]], scores, num_resamples=4_000)
    (score,) = scores.values()

    def statistic(*columns: Values, axis: int) -> Values:
        values = [score.value(np.stack([first.sum(axis), second.sum(axis)], -1)) for first, second in pairs(columns)]
        return values[0] if len(values) == 1 else values[1] - values[0]

    rows = [score.statistics(side).T for side in (one, other)]
    (name,) = scores
    own, difference = found.estimates[name][1], found.differences[0]
    for ends, data in [((own.low, own.high), rows[1]), ((difference.low, difference.high), np.concatenate(rows))]:
        interval = stats.bootstrap(
            tuple(data), statistic, paired=True, method="percentile", n_resamples=4_000, rng=np.random.default_rng(1)
        ).confidence_interval
        assert ends == pytest.approx(tuple(interval), abs=0.06 * (interval.high - interval.low))


def pairs(columns: tuple[Values, ...]) -> list[tuple[Values, Values]]:
    return list(zip(columns[::2], columns[1::2], strict=True))


def test_runs_are_resampled_in_pairs() -> None:
    one = answers(300, seed=1)
    other = {**one, "num_edits": one["num_edits"] + 1}  # one more edit in each sentence: the difference hardly varies
    found = only_difference([[one], [other]], RATE)
    own = measure([[one], [other]], RATE).estimates["rate"][0]
    assert found.high - found.low < 0.5 * (own.high - own.low)


def test_without_spread_over_examples_a_group_is_tested_by_welch() -> None:
    """Each run has the same loss everywhere: nothing but the seeds varies."""
    groups = [[0.30, 0.33, 0.36, 0.31], [0.37, 0.42, 0.39]]
    sides = [[{"loss": np.full(50, loss)} for loss in group] for group in groups]
    measured = measure(sides, LOSS)
    theirs = stats.ttest_ind(groups[1], groups[0], equal_var=False)
    (found,) = measured.differences
    assert found.test == "Student"
    assert found.p == pytest.approx(theirs.pvalue, rel=1e-6)
    interval = theirs.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-6)
    assert measured.estimates["loss"][0].value == pytest.approx(np.mean(groups[0]))
    assert measured.estimates["loss"][0].deviation == pytest.approx(np.std(groups[0], ddof=1))


def test_a_group_counts_the_spread_over_examples_and_over_seeds() -> None:
    sides = [[answers(200, seed=10 * side + run) for run in range(8)] for side in range(2)]
    found = only_difference(sides, LOSS)
    losses = [np.stack([run["loss"] for run in side]) for side in sides]  # [8, 200]
    over_examples = np.var(losses[1].mean(0) - losses[0].mean(0), ddof=1) / 200
    sources = [Spread(np.var(own.mean(1), ddof=1) / 8, 7) for own in losses]
    low, high = student_interval(found.value, [Spread(over_examples, 199), *sources], 0.95)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.05 * (high - low))
    assert found.p == pytest.approx(student_p(found.value, [Spread(over_examples, 199), *sources]), abs=0.02)
    for fewer in ([Spread(over_examples, 199)], sources):
        assert student_interval(found.value, fewer, 0.95) != pytest.approx((low, high), abs=0.05 * (high - low))
        assert student_p(found.value, fewer) < found.p - 0.03


def test_a_group_and_a_single_run_are_compared_by_what_is_known() -> None:
    sides = [[answers(200, seed=run) for run in range(4)], [answers(200, seed=9)]]
    measured = measure(sides, LOSS)
    assert measured.differences[0].test == "Student"
    assert [estimate.deviation is None for estimate in measured.estimates["loss"]] == [False, True]


def test_two_sources_of_variance_add_up_as_welch_and_satterthwaite_say() -> None:
    sources = [Spread(4.0, 3), Spread(1.0, 10)]
    freedom = 25 / (16 / 3 + 1 / 10)
    margin = stats.t.ppf(0.975, freedom) * math.sqrt(5)
    assert student_interval(2.0, sources, 0.95) == pytest.approx((2 - margin, 2 + margin))
    assert student_p(2.0, sources) == pytest.approx(2 * stats.t.sf(2 / math.sqrt(5), freedom))


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    corrected = holm([math.nan, 0.02, 0.03])
    assert math.isnan(corrected[0])
    assert corrected[1:] == pytest.approx([0.04, 0.04])


def test_the_table_is_corrected_as_a_whole() -> None:
    sides = [[answers(300, seed=seed, rate=rate)] for seed, rate in ((1, 0.1), (2, 0.12), (3, 0.13))]
    found = measure(sides, {**RATE, **ZERO, **LOSS}).differences
    assert [(own.metric, own.side) for own in found] == [
        (name, side) for name in ("rate", "zero", "loss") for side in (1, 2)
    ]
    assert [own.corrected_p for own in found] == holm([own.p for own in found])


def test_a_loss_that_is_not_a_number_spoils_no_other_metric() -> None:
    one, other = answers(60, seed=1), answers(60, seed=2)
    spoiled = {**other, "loss": np.where(np.arange(60) == 3, np.nan, other["loss"])}
    infinite = {**other, "loss": np.where(np.arange(60) == 3, np.inf, other["loss"])}
    for bad in (spoiled, infinite):
        rate, loss = measure([[one], [bad]], {**RATE, **LOSS}).differences
        assert math.isnan(loss.p)
        assert not loss.is_shown
        assert rate.p == only_difference([[one], [other]], RATE).p


def test_the_same_comparison_gives_the_same_numbers_in_any_part_size(monkeypatch: pytest.MonkeyPatch) -> None:
    statistics = RATE["rate"].statistics(answers(64, seed=1))
    whole = list(bootstrap_sums(statistics, 100, seed=3))
    monkeypatch.setattr(significance, "PART_NUMBERS", 64 * 7)
    parts = list(bootstrap_sums(statistics, 100, seed=3))
    assert [len(part) for part in parts] == [7] * 14 + [2]
    assert np.array_equal(np.concatenate(parts), np.concatenate(whole))
    assert [len(part) for part in swapped_sums(statistics, 100, seed=3)] == [7] * 14 + [2]


def test_swaps_take_each_example_half_of_the_time() -> None:
    sums = np.concatenate(list(swapped_sums(np.eye(5), 4_000, seed=0)))
    assert set(np.unique(sums)) == {0.0, 1.0}
    assert sums.mean(0) == pytest.approx(np.full(5, 0.5), abs=0.03)
    assert np.corrcoef(sums.T) == pytest.approx(np.eye(5), abs=0.06)


@pytest.mark.parametrize("num_seeds", [1, 5])
def test_equal_models_are_seldom_called_different(num_seeds: int) -> None:
    found = alarms(World(num_seeds=num_seeds), num_comparisons=200, num_resamples=200, num_swaps=1_000)
    assert len(found.by_metric) == 4
    assert max(found.by_metric.values()) <= 0.08
    assert sum(found.by_metric.values()) / 4 >= 0.02  # nor is it that nothing is ever called different
    assert found.any_metric <= 0.08


@pytest.mark.parametrize("num_seeds", [1, 5])
def test_a_model_made_worse_is_found_out(num_seeds: int) -> None:
    world = World(num_seeds=num_seeds, gap=0.03, correlation=MADE_WORSE)
    found = alarms(world, num_comparisons=50, num_resamples=200, num_swaps=1_000)
    assert found.any_metric > 0.6
    assert found.by_metric["accuracy"] > 0.8


def test_a_metric_that_repeats_another_is_named_once() -> None:
    sides = [[answers(50, 1)], [answers(50, 2, 0.5)]]
    scores = {**RATE, "error": RATE["rate"], **LOSS}
    measured = measure(sides, scores, 100, tested=["rate"])

    assert measured.repeated == {"error": "rate"}
    assert [own.metric for own in measured.differences] == ["rate", "loss"]
    assert measure(sides, scores, 100, tested=["rate", "error"]).repeated == {}
    assert measure([[answers(50, 1, 0.0)], [answers(50, 2, 0.0)]], scores, 100, tested=["rate"]).repeated == {}, (
        "all of them are 0"
    )
