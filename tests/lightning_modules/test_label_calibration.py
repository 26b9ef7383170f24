"""A calibrated head is as certain as it is right, and gives labels from where that serves F1 best."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from torch import Tensor

from lightrail.lightning_modules.heads.label_head import LabelHead
from lightrail.lightning_modules.heads.label_loss import LabelLossConfig
from lightrail.lightning_modules.metrics.calibration import best_temperature, fit_temperature, fit_thresholds

LABELS = ["a", "b", "c"]


def overconfident(number: int = 3000, factor: float = 3.0, *, has_many: bool) -> tuple[Tensor, Tensor]:
    """Logits three times too large for labels drawn from the right ones."""
    generator = torch.Generator().manual_seed(0)
    logits = 1.5 * torch.randn(number, 3, generator=generator)
    if has_many:
        return factor * logits, (torch.rand(number, 3, generator=generator) < logits.sigmoid()).float()
    return factor * logits, torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(-1)


def head(*, has_many: bool) -> LabelHead:
    loss = LabelLossConfig()
    return LabelHead(4, LABELS, [1, 1, 1], has_many=has_many, dropout=0.0, loss=loss).eval()


@pytest.mark.parametrize("has_many", [False, True])
@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_the_temperature_is_what_the_logits_are_too_large_by(has_many: bool, factor: float) -> None:
    assert fit_temperature(*overconfident(factor=factor, has_many=has_many)) == pytest.approx(factor, rel=0.1)


def test_the_temperature_has_the_least_loss() -> None:
    logits, labels = overconfident(200, has_many=False)
    scale = torch.nn.Parameter(torch.ones((), dtype=torch.float64))
    optimizer = torch.optim.LBFGS([scale], line_search_fn="strong_wolfe", max_iter=200)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(logits.double() * scale, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    assert fit_temperature(logits, labels) == pytest.approx(1 / float(scale.detach()), rel=1e-3)


def test_where_every_answer_is_right_no_temperature_is_fitted() -> None:
    logits = torch.eye(3).repeat(4, 1)
    assert fit_temperature(logits, torch.arange(12) % 3) == 1.0
    assert fit_temperature(2 * logits - 1, logits) == 1.0
    assert fit_temperature(logits, torch.tensor([1, *(torch.arange(11) % 3)])) > 1


def test_a_temperature_that_does_not_lower_the_loss_is_not_applied() -> None:
    def loss(temperature: float) -> float:
        """Have a wide minimum of 0 at 7, which the search finds, and a narrow one of about -1 at 1."""
        return math.log(temperature / 7) ** 2 - (5 if abs(temperature - 1) < 1e-3 else 0)

    assert best_temperature(loss) == 1.0
    assert best_temperature(lambda temperature: math.log(temperature / 7) ** 2) == pytest.approx(7, rel=1e-3)


def test_a_model_that_has_diverged_keeps_its_temperature() -> None:
    assert fit_temperature(torch.full((3, 3), torch.nan), torch.arange(3)) == 1.0


def best_by_trying(probabilities: np.ndarray, is_target: np.ndarray) -> float:
    tried = [0.0, *np.unique(probabilities), 1.1]
    return max(float(f1_score(is_target, probabilities >= threshold, zero_division=0)) for threshold in tried)


def test_thresholds_have_the_highest_f1() -> None:
    generator = np.random.default_rng(0)
    is_target = generator.random((80, 3)) < [0.1, 0.4, 0.8]
    probabilities = np.clip(0.3 * is_target + 0.6 * generator.random((80, 3)), 0, 1).round(2)
    thresholds = fit_thresholds(probabilities, is_target)
    for number, threshold in enumerate(thresholds):
        own = f1_score(is_target[:, number], probabilities[:, number] >= threshold)
        assert own == pytest.approx(best_by_trying(probabilities[:, number], is_target[:, number]))
        assert own > f1_score(is_target[:, number], probabilities[:, number] >= 0.5, zero_division=0) - 1e-12


def test_of_equally_good_thresholds_the_nearest_to_a_half_is_given() -> None:
    is_target = np.array([True] * 5 + [False] * 5)[:, None]
    apart = np.array([0.9] * 5 + [0.2] * 5)[:, None]
    low = np.array([0.3] * 5 + [0.1] * 5)[:, None]
    assert fit_thresholds(apart, is_target) == [0.5]
    assert fit_thresholds(low, is_target) == pytest.approx([0.2])
    two_ways = np.array([0.6] * 4 + [0.2] * 5 + [0.1] * 3)[:, None]  # 4 of 4, or 6 of 9, of 6: F1 is 0.8 both times
    assert fit_thresholds(two_ways, np.array([True] * 6 + [False] * 6)[:, None]) == [0.5]


def test_a_rare_label_keeps_its_threshold() -> None:
    is_target = np.array([True] * 4 + [False] * 6)[:, None]
    assert fit_thresholds(np.array([0.3] * 4 + [0.1] * 6)[:, None], is_target) == [0.5]


@pytest.mark.parametrize("has_many", [False, True])
def test_calibration_lowers_loss_and_error_and_leaves_training_alone(has_many: bool) -> None:
    logits, labels = overconfident(has_many=has_many)
    own = head(has_many=has_many)
    before = float(own.loss(logits, {"labels": labels})[0])
    in_training = float(own.train().loss(logits, {"labels": labels})[0])
    own.eval()
    figures = own.calibrate(own.calibration_rows(logits, {"labels": labels}))
    assert float(own.loss(logits, {"labels": labels})[0]) < 0.8 * before
    assert figures["calibration/temperature"] == float(own.temperature)
    assert figures["calibration/ece_after"] < 0.3 * figures["calibration/ece_before"]
    assert float(own.train().loss(logits, {"labels": labels})[0]) == in_training
    assert {"temperature", *(["thresholds"] if has_many else [])} <= own.state_dict().keys()


@pytest.mark.parametrize("has_many", [False, True])
def test_a_calibration_that_is_done_again_ends_the_same(has_many: bool) -> None:
    logits, labels = overconfident(300, has_many=has_many)
    rows = head(has_many=has_many).calibration_rows(logits, {"labels": labels})
    once, twice = head(has_many=has_many), head(has_many=has_many)
    first = once.calibrate(rows)
    twice.calibrate(rows)
    assert twice.calibrate(rows) == first
    assert torch.equal(twice.temperature, once.temperature)


@pytest.mark.parametrize("has_many", [False, True])
def test_columns_hold_calibrated_probabilities(has_many: bool) -> None:
    logits, labels = overconfident(300, has_many=has_many)
    own = head(has_many=has_many)
    own.calibrate(own.calibration_rows(logits, {"labels": labels}))
    columns = own.decode(logits, {"labels": labels})
    scaled = logits / own.temperature
    expected = scaled.sigmoid() if has_many else scaled.softmax(-1)
    torch.testing.assert_close(torch.tensor(columns["probabilities"]), expected)
    assert float(np.mean(columns["loss"])) == pytest.approx(float(own.loss(logits, {"labels": labels})[0]), rel=1e-5)


def test_several_labels_are_named_in_order_and_none_is_an_empty_text() -> None:
    own = LabelHead(4, ["b", "a", "c"], [1, 1, 1], has_many=True, dropout=0.0, loss=LabelLossConfig()).eval()
    own.thresholds.copy_(torch.tensor([0.5, 0.5, 0.9]))
    columns = own.decode(torch.tensor([[2.0, 2, 2], [-2, -2, -2]]), {})
    assert columns["prediction"] == ["a|b", ""]
    probability = 1 / (1 + np.exp(-2.0))
    assert columns["score"] == pytest.approx([probability**2 * (1 - probability), probability**3])
    assert columns.keys() == {"prediction", "score", "probabilities"}
