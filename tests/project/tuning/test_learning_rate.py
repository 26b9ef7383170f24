"""The learning-rate range test: what it suggests, on one process and for two, and that it leaves nothing behind."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from lightrail.lightning_modules.optimization import OptimConfig
from lightrail.project.running.build import Experiment
from lightrail.project.running.tuning.learning_rate import FIRST_RATE, LAG, NUM_STEPS, RateTest, find_rate
from tests.support.tiny import Signs, points_loader, quiet_trainer

RATES = np.geomspace(1e-7, 10, NUM_STEPS).tolist()


def found(optim: OptimConfig | None = None, **arguments: Any) -> RateTest:
    """Test rates of a logistic regression on points that a line separates."""
    torch.manual_seed(0)
    data = SimpleNamespace(
        train_dataloader=lambda: points_loader(24, is_shuffled=True), val_dataloader=lambda: points_loader(4)
    )
    model = Signs(optim=optim or OptimConfig(optimizer="sgd"))
    parts = SimpleNamespace(
        trainer=quiet_trainer(**arguments), model=model, data=data, configuration=SimpleNamespace(seed=7)
    )
    return find_rate(cast(Experiment, parts))


def test_a_logistic_regression_is_given_a_rate_at_which_it_learns() -> None:
    test = found()
    assert len(test.rates) == NUM_STEPS
    assert not test.is_diverged, "the loss of separable points falls at any rate"
    assert test.suggestion is not None
    assert 0.01 < test.suggestion < 3
    assert min(test.losses) < 0.5 * test.losses[0]


@pytest.mark.parametrize("accumulated", [1, 2])
def test_two_processes_are_suggested_what_one_is(accumulated: int) -> None:
    one = found(accumulate_grad_batches=accumulated)
    two = found(accumulate_grad_batches=accumulated, devices=2, strategy="ddp_fork")
    assert two.losses == pytest.approx(one.losses, rel=1e-4)
    assert two.suggestion == one.suggestion is not None


def test_each_group_keeps_its_share_of_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[float]] = []
    step = torch.optim.SGD.step

    def noted(self: Any, closure: Any) -> Any:
        loss = step(self, closure)  # which sets the rate, before the update
        seen.append([group["lr"] for group in self.param_groups])
        return loss

    monkeypatch.setattr(torch.optim.SGD, "step", noted)
    found(OptimConfig(optimizer="sgd", lr=0.5, schedule="cosine"), limit_train_batches=3)
    rates = [max(own) for own in seen]
    assert [rates[0], rates[-1]] == pytest.approx([FIRST_RATE, 10.0])
    assert np.diff(np.log(rates)) == pytest.approx(np.log(1e8) / 99)


def test_random_numbers_are_as_if_there_had_been_no_test() -> None:
    torch.manual_seed(0)
    Signs()
    expected = torch.rand(3)
    found()
    assert torch.rand(3).equal(expected)


def curve(*levels: float) -> RateTest:
    losses = np.interp(np.arange(NUM_STEPS), np.linspace(0, NUM_STEPS - 1, len(levels)), levels)
    return RateTest(RATES, losses.tolist(), is_diverged=False)


def test_the_steepest_descent_before_the_minimum_is_suggested() -> None:
    test = curve(3, 3, 3, 2, 2.9, 50, 9)
    assert test.suggestion is not None
    assert RATES[33 - LAG] * 0.95 <= test.suggestion <= RATES[50 - LAG], "not the fall after the explosion"


@pytest.mark.parametrize("levels", [(3, 3), (1, 2, 3), (3, 2.99, 3, 7)])
def test_nothing_is_suggested_where_the_loss_hardly_falls(levels: tuple[float, ...]) -> None:
    test = curve(*levels)
    assert test.suggestion is None
    assert "no rate is suggested" in test.render()


def test_a_loss_that_explodes_or_is_not_finite_ends_the_test() -> None:
    for decay, is_short in ((1.0, False), (1e38, True)):
        test = found(OptimConfig(optimizer="sgd", weight_decay=decay))
        assert test.is_diverged
        assert (len(test.losses) < 10) == is_short
        assert np.isfinite(test.losses).all()


def test_the_curve_is_a_short_table_with_an_option_to_use() -> None:
    test = RateTest(RATES, curve(3, 3, 3, 1, 1).losses[:61], is_diverged=True)
    title, head, *rows, last = test.render().splitlines()
    assert title == "lr           61 steps at a growing rate; the smoothed loss diverges at 7.1e-03"
    assert head == "             rate      loss"
    assert rows[0] == "             1.0e-07   3.0000"
    assert 8 <= len(rows) <= 12
    assert last == f"             --lr {test.suggestion:g}: there the loss falls fastest"
