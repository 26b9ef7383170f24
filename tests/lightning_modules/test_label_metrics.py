"""Metrics of classification are those of scikit-learn, also where labels are missing, however examples are divided."""

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as sklearn_metrics
from torchmetrics.functional.classification import multiclass_auroc, multiclass_calibration_error
from torchmetrics.functional.classification import multilabel_average_precision as torchmetrics_average_precision

from lightrail.lightning_modules.metrics.evaluation import ScoreSums
from lightrail.lightning_modules.metrics.label_scores import (
    SEPARATOR,
    CalibrationError,
    auroc,
    average_precision,
    label_scores,
)

LABELS = ["a", "b", "c", "d"]


class Answers:
    """Random answers of a model, and the metrics of them."""

    def __init__(self, number: int, present: str, *, seed: int, has_many: bool, labels: list[str] = LABELS) -> None:
        generator = np.random.default_rng(seed)
        self.labels, self.has_many = labels, has_many
        shape, allowed = (number, len(labels)), np.isin(labels, list(present))
        # Few different values, so that ties are frequent.
        raw = generator.integers(1, 8, shape) / 8
        self.probabilities = (raw if has_many else raw / raw.sum(1, keepdims=True)).astype(np.float32)
        if has_many:
            self.is_predicted = self.probabilities >= 0.5
            self.is_target = (generator.random(shape) < 0.4) & allowed
            right = np.where(self.is_predicted, self.probabilities, 1 - self.probabilities)
            self.confidences = right.prod(1)
        else:
            one = np.eye(len(labels), dtype=bool)
            self.is_predicted = one[self.probabilities.argmax(1)]
            self.is_target = one[generator.choice(np.flatnonzero(allowed), number)]
            self.confidences = self.probabilities.max(1)

    def part(self, start: int, end: int) -> dict[str, list[Any]]:
        """As a task decodes a batch."""
        return {name: own[start:end].tolist() for name, own in self.columns().items()}

    def columns(self) -> dict[str, NDArray[Any]]:
        losses = np.ones(len(self.confidences), np.float32)
        rows = np.empty(len(losses), object)
        rows[:] = list(self.probabilities)
        names = {"prediction": self._names(self.is_predicted), "target": self._names(self.is_target)}
        return {**names, "score": self.confidences, "probabilities": rows, "loss": losses}

    def logged(self) -> dict[str, float]:
        sums = self.sums()
        sums.update(self.part(0, len(self.confidences)))
        return sums.compute()

    def sums(self) -> ScoreSums:
        return ScoreSums(label_scores(self.labels, has_many=self.has_many))

    def _names(self, flags: NDArray[np.bool_]) -> NDArray[Any]:
        names = [SEPARATOR.join(np.array(self.labels)[row]) for row in flags]
        return np.array(names, dtype=object)


def answers(*, has_many: bool, least: int = 1) -> st.SearchStrategy[Answers]:
    return st.builds(
        lambda number, present, seed: Answers(number, present, seed=seed, has_many=has_many),
        st.integers(least, 30),
        st.sampled_from(["abcd", "abd", "bc", "d"]),
        st.integers(0, 10_000),
    )


def expected_counts(given_answers: Answers) -> dict[str, float]:
    targets, predicted = given_answers.is_target, given_answers.is_predicted
    if not given_answers.has_many:
        targets, predicted = targets.argmax(1), predicted.argmax(1)
    # Labels that are neither expected nor predicted do not count.
    present = np.flatnonzero((given_answers.is_target | given_answers.is_predicted).any(0)).tolist()
    macro: dict[str, Any] = {"average": "macro", "zero_division": 0, "labels": present}
    return {
        "accuracy": sklearn_metrics.accuracy_score(targets, predicted),
        "f1_macro": sklearn_metrics.f1_score(targets, predicted, **macro),
        "f1_micro": sklearn_metrics.f1_score(targets, predicted, average="micro", zero_division=0),
        "f1_weighted": sklearn_metrics.f1_score(targets, predicted, average="weighted", zero_division=0),
        "precision_macro": sklearn_metrics.precision_score(targets, predicted, **macro),
        "recall_macro": sklearn_metrics.recall_score(targets, predicted, **macro),
    }


@settings(deadline=None)
@given(answers(has_many=False))
def test_counts_of_one_label_each_are_those_of_sklearn(given_answers: Answers) -> None:
    logged = given_answers.logged()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sklearn: that only one label occurs
        matthews = sklearn_metrics.matthews_corrcoef(
            given_answers.is_target.argmax(1), given_answers.is_predicted.argmax(1)
        )
    expected = {**expected_counts(given_answers), "mcc": matthews}
    assert {name: logged[name] for name in expected} == pytest.approx(expected, abs=1e-9)


@settings(deadline=None)
@given(answers(has_many=True).filter(lambda own: bool((own.is_target | own.is_predicted).any())))
def test_counts_of_many_labels_are_those_of_sklearn(given_answers: Answers) -> None:
    logged = given_answers.logged()
    expected = expected_counts(given_answers)
    assert {name: logged[name] for name in expected} == pytest.approx(expected, abs=1e-9)
    assert "mcc" not in logged


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=30))
def test_areas_are_those_of_sklearn_also_with_ties(pairs: list[tuple[int, bool]]) -> None:
    scores, is_positive = np.array([score / 9 for score, _ in pairs]), np.array([own for _, own in pairs])
    if is_positive.any() and not is_positive.all():
        assert auroc(scores, is_positive) == pytest.approx(sklearn_metrics.roc_auc_score(is_positive, scores))
    else:
        assert math.isnan(auroc(scores, is_positive))
    if is_positive.any():
        expected = sklearn_metrics.average_precision_score(is_positive, scores)
        assert average_precision(scores, is_positive) == pytest.approx(expected)
    else:
        assert math.isnan(average_precision(scores, is_positive))


def test_areas_are_means_over_the_labels_for_which_they_are_defined() -> None:
    own = Answers(40, "abd", seed=1, has_many=True)
    each = [sklearn_metrics.roc_auc_score(own.is_target[:, n], own.probabilities[:, n]) for n in (0, 1, 3)]
    precisions = [
        sklearn_metrics.average_precision_score(own.is_target[:, n], own.probabilities[:, n]) for n in (0, 1, 3)
    ]
    assert own.logged()["auroc"] == pytest.approx(np.mean(each))
    assert own.logged()["average_precision"] == pytest.approx(np.mean(precisions))


def test_areas_are_those_of_torchmetrics_where_all_labels_occur() -> None:
    one, many = Answers(60, "abcd", seed=2, has_many=False), Answers(60, "abcd", seed=3, has_many=True)
    labels = torch.from_numpy(one.is_target.argmax(1))
    expected = multiclass_auroc(torch.from_numpy(one.probabilities), labels, num_classes=4)
    assert one.logged()["auroc"] == pytest.approx(float(expected), rel=1e-6)
    flags = torch.from_numpy(many.is_target.astype(np.int64))
    precision = torchmetrics_average_precision(torch.from_numpy(many.probabilities), flags, num_labels=4)
    assert many.logged()["average_precision"] == pytest.approx(float(precision), rel=1e-6)


def test_of_two_labels_the_second_is_the_positive_one() -> None:
    own = Answers(50, "no yes".replace(" ", ""), seed=4, has_many=False, labels=["n", "y"])
    scores, is_positive = own.probabilities[:, 1], own.is_target[:, 1]
    assert own.logged()["average_precision"] == pytest.approx(
        sklearn_metrics.average_precision_score(is_positive, scores)
    )
    assert own.logged()["auroc"] == pytest.approx(sklearn_metrics.roc_auc_score(is_positive, scores))


def test_an_area_nowhere_defined_is_not_a_number() -> None:
    own = Answers(9, "d", seed=5, has_many=False)
    assert math.isnan(own.logged()["auroc"])
    assert not math.isnan(own.logged()["average_precision"])


def test_the_calibration_error_is_that_of_torchmetrics() -> None:
    own = Answers(200, "abcd", seed=6, has_many=False)
    generator = torch.Generator().manual_seed(6)
    probabilities = torch.rand(200, 4, generator=generator).softmax(-1)
    labels = torch.from_numpy(own.is_target.argmax(1))
    expected = multiclass_calibration_error(probabilities, labels, num_classes=4, n_bins=10)
    columns = {
        "score": probabilities.amax(-1).numpy(),
        "prediction": probabilities.argmax(-1).numpy(),
        "target": labels.numpy(),
    }
    assert CalibrationError().of(columns) == pytest.approx(float(expected), rel=1e-5)


@settings(deadline=None, max_examples=60)
@given(answers(has_many=False) | answers(has_many=True))
def test_what_is_logged_follows_from_the_stored_columns(given_answers: Answers) -> None:
    columns = given_answers.columns()
    scores = label_scores(LABELS, has_many=given_answers.has_many)
    stored = {name: score.of(columns) for name, score in scores.items()}
    assert given_answers.logged() == pytest.approx(stored, rel=1e-9, nan_ok=True)


@settings(deadline=None, max_examples=60)
@given(answers(has_many=False, least=2) | answers(has_many=True, least=2), st.integers(0, 30))
def test_batches_change_nothing(given_answers: Answers, cut: int) -> None:
    number = len(given_answers.confidences)
    sums = given_answers.sums()
    for start in range(min(cut, number)):
        sums.update(given_answers.part(start, start + 1))
    sums.update(given_answers.part(min(cut, number), number))
    assert sums.compute() == pytest.approx(given_answers.logged(), rel=1e-9, nan_ok=True)
