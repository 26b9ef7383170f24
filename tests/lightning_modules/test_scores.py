"""Scores count as other implementations do, from sums alone, and survive being stored."""

import json
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score
from torchmetrics.classification import MulticlassF1Score

from lightrail.lightning_modules.metrics.evaluation import ScoreSums
from lightrail.lightning_modules.metrics.label_scores import (
    CalibrationError,
    MacroAuroc,
    MacroAveragePrecision,
    MacroPrecision,
    MacroRecall,
    Matthews,
    MicroF1,
    WeightedF1,
)
from lightrail.lightning_modules.metrics.scores import (
    Columns,
    MacroF1,
    Score,
    ShareEqual,
    ShareZero,
    StoredScore,
    SumRatio,
    WeightedMean,
)
from lightrail.project.basics.errors import ConfigError, DataError
from lightrail.project.models.predictions import PATHS_0_1, scores_from_json, scores_to_json

LABELS = ("a", "b", "c", "d")


def columns(number: int, labels: str = "abcd", seed: int = 0) -> Columns:
    generator = np.random.default_rng(seed)
    targets = generator.choice(list(labels), number)
    others = generator.choice(list(labels), number)
    return {
        "target": targets.astype(object),
        "prediction": np.where(generator.random(number) < 0.6, targets, others).astype(object),
        "loss": generator.exponential(size=number).astype(np.float32),
        "num_targets": generator.integers(0, 9, number),
        "num_edits": generator.integers(0, 3, number),
        "score": generator.random(number),
    }


def value(score: Score, table: Columns) -> float:
    return float(score.value(score.statistics(table).sum(0)))


def test_accuracy_is_that_of_sklearn() -> None:
    table = columns(200)
    assert value(ShareEqual(), table) == accuracy_score(table["target"], table["prediction"])


@pytest.mark.parametrize("present", ["abcd", "abd", "b"])
def test_macro_f1_is_that_of_torchmetrics_also_where_labels_are_absent(present: str) -> None:
    table = columns(60, present)
    numbers = {name: torch.tensor([LABELS.index(label) for label in table[name]]) for name in ("prediction", "target")}
    theirs = MulticlassF1Score(len(LABELS), average="macro")(numbers["prediction"], numbers["target"])
    assert value(MacroF1(labels=LABELS), table) == pytest.approx(float(theirs), rel=1e-6)


def test_macro_f1_is_that_of_sklearn() -> None:
    table = columns(300)
    theirs = f1_score(table["target"], table["prediction"], average="macro")
    assert value(MacroF1(labels=LABELS), table) == pytest.approx(theirs, rel=1e-12)


def test_a_label_that_is_predicted_but_never_expected_counts_as_zero() -> None:
    table = {"target": np.array(["a", "a"], object), "prediction": np.array(["a", "b"], object)}
    assert value(MacroF1(labels=LABELS), table) == pytest.approx((2 / 3 + 0) / 2)


def test_a_label_the_model_does_not_have_is_refused() -> None:
    table = {"target": np.array(["a"], object), "prediction": np.array(["x"], object)}
    with pytest.raises(DataError, match="'x' is none of the 4 labels"):
        MacroF1(labels=LABELS).statistics(table)


def test_means_and_ratios_are_those_of_numpy() -> None:
    table = columns(100)
    losses, weights, edits = (table[name].astype(float) for name in ("loss", "num_targets", "num_edits"))
    weighted = WeightedMean(column="loss", weight="num_targets", higher_is_better=False)
    assert value(weighted, table) == pytest.approx(np.average(losses, weights=weights))
    assert value(WeightedMean(column="loss"), table) == pytest.approx(losses.mean())
    rate = SumRatio(numerator="num_edits", denominator="num_targets")
    assert value(rate, table) == edits.sum() / weights.sum()
    lacking = SumRatio(numerator="num_edits", denominator="num_targets", is_complement=True)
    assert value(lacking, table) == 1 - edits.sum() / weights.sum()
    assert value(ShareZero(column="num_edits"), table) == (edits == 0).mean()


EACH = {
    "accuracy": ShareEqual(),
    "zero": ShareZero(column="num_edits"),
    "loss": WeightedMean(column="loss", weight="num_targets", higher_is_better=False),
    "rate": SumRatio(numerator="num_edits", denominator="num_targets", is_complement=True),
    "f1": MacroF1(labels=LABELS),
    "f1_micro": MicroF1(labels=LABELS),
    "f1_weighted": WeightedF1(labels=LABELS),
    "precision": MacroPrecision(labels=LABELS),
    "recall": MacroRecall(labels=LABELS),
    "mcc": Matthews(labels=LABELS),
    "ece": CalibrationError(),
}
OF_ALL_EXAMPLES = {"auroc": MacroAuroc(labels=LABELS, separator="|"), "ap": MacroAveragePrecision(labels=LABELS)}


OF_ENTITIES = {"EntityScore", "EntityErrors"}
"""Tested with the metrics of entities."""
OF_LANGUAGE = {"Perplexity", "BitsPerUnit"}
"""Tested with the metrics of language models."""


def test_each_kind_is_tested_here() -> None:
    scores = [*EACH.values(), *OF_ALL_EXAMPLES.values()]
    assert {type(score).__name__ for score in scores} == PATHS_0_1.keys() - OF_ENTITIES - OF_LANGUAGE


@pytest.mark.parametrize("name", EACH)
def test_the_value_of_many_sums_at_once_is_that_of_each(name: str) -> None:
    score = EACH[name]
    sums = np.stack([score.statistics(columns(30, seed=seed)).sum(0) for seed in range(6)])
    each = [float(score.value(own)) for own in sums]
    assert score.value(sums.reshape(2, 3, -1)).ravel().tolist() == pytest.approx(each, rel=1e-12)


@pytest.mark.parametrize("name", EACH)
def test_only_a_binary_score_is_a_share_of_right_examples(name: str) -> None:
    score = EACH[name]
    rows = score.statistics(columns(50))
    is_share = bool(np.isin(rows[:, 0], (0, 1)).all() and value(score, columns(50)) == rows[:, 0].mean())
    assert score.is_binary is is_share


def test_a_ratio_to_nothing_is_undefined() -> None:
    assert np.isnan(WeightedMean(column="loss").value(np.zeros(2)))


def test_scores_come_back_from_json_as_they_were() -> None:
    assert scores_from_json(scores_to_json({**EACH, **OF_ALL_EXAMPLES})) == {**EACH, **OF_ALL_EXAMPLES}
    assert scores_from_json(scores_to_json({"f1": MacroF1(labels=("好", "坏"))}))["f1"] == MacroF1(labels=("好", "坏"))


@dataclass(frozen=True, kw_only=True)
class Longest(StoredScore):
    """A score of somebody's own, which needs all examples."""

    column: str = "text"

    def statistics(self, columns: Columns) -> NDArray[np.float64]:
        return np.array([[len(text)] for text in columns[self.column]], np.float64)

    def of_rows(self, rows: NDArray[np.floating]) -> float:
        return float(rows.max())


def test_a_score_of_ones_own_is_stored_by_its_class() -> None:
    scores = {"longest": Longest(column="prediction", higher_is_better=False), "accuracy": ShareEqual()}
    assert scores_from_json(scores_to_json(scores)) == scores
    sums = ScoreSums(scores)
    for predictions in (["a", "abc"], ["ab"]):
        sums.update({"prediction": predictions, "target": predictions})
    assert sums.compute() == {"longest": 3.0, "accuracy": 1.0}
    sums.reset()
    assert all(math.isnan(value) for value in sums.compute().values())


def test_what_version_0_1_0_stored_is_read() -> None:
    text = json.dumps({"f1": {"kind": "MacroF1", "higher_is_better": True, "labels": ["a", "b"], "separator": None}})
    assert scores_from_json(text) == {"f1": MacroF1(labels=("a", "b"))}


def test_a_class_that_is_no_score_is_refused() -> None:
    stored = {"class_path": "lightrail.lightning_modules.optimization.config.OptimConfig", "init_args": {}}
    with pytest.raises(ConfigError, match=r"metric 'f1' is computed by .*OptimConfig., .* or is no StoredScore"):
        scores_from_json(json.dumps({"f1": stored}))


def test_scores_with_the_same_rows_compute_them_once() -> None:
    scores = {"f1": MacroF1(labels=LABELS), "micro": MicroF1(labels=LABELS), "other": MicroF1(labels=LABELS[:2])}
    assert sorted(map(len, ScoreSums(scores).groups.values())) == [1, 2]


def test_a_kind_of_a_later_version_is_refused() -> None:
    with pytest.raises(ConfigError, match="metric 'bleu' is computed by 'CorpusBleu', which cannot be built here"):
        scores_from_json(json.dumps({"bleu": {"kind": "CorpusBleu"}}))
