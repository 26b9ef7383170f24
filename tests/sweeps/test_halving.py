"""Half of what a batch may hold, twice as many of them for a step."""

from typing import Any

import pytest

from lightrail.project.configuration import Configuration
from lightrail.sweeps.search.worker import with_half_batches


def configuration(batch: dict[str, Any] | None, accumulation: int = 1) -> Configuration:
    data = {"init_args": {"path": "texts", **({} if batch is None else {"batch": batch})}}
    return Configuration({"data": data, "trainer": {"accumulate_grad_batches": accumulation, "max_steps": 9}})


@pytest.mark.parametrize(
    ("batch", "halved"),
    [
        ({"size": 32, "max_tokens": None}, {"size": 16, "max_tokens": None}),
        ({"size": None, "max_tokens": 4096}, {"size": None, "max_tokens": 2048}),
        ({"size": 8, "max_tokens": 513}, {"size": 4, "max_tokens": 256}),
        ({"size": 3, "num_workers": 2}, {"size": 1, "num_workers": 2}),
    ],
)
def test_a_batch_holds_half_and_a_step_takes_twice_as_many(batch: dict[str, Any], halved: dict[str, Any]) -> None:
    before = configuration(batch, accumulation=3)
    after = with_half_batches(before).values
    assert after["data"] == {"init_args": {"path": "texts", "batch": halved}}
    assert after["trainer"] == {"accumulate_grad_batches": 6, "max_steps": 9}
    assert before.values == configuration(batch, accumulation=3).values, "what is given stays as it is"


def test_validations_come_at_the_same_steps_and_see_the_same_examples() -> None:
    counted = {"val_check_interval": 75, "limit_val_batches": 40, "limit_test_batches": 0}
    shares = {"limit_train_batches": 1.0, "max_steps": 300}
    trainer = {"accumulate_grad_batches": 1, **counted, **shares}
    before = Configuration({"data": {"init_args": {"batch": {"size": 8}}}, "trainer": trainer})
    doubled = {
        "accumulate_grad_batches": 2,
        "val_check_interval": 150,
        "limit_val_batches": 80,
        "limit_test_batches": 0,
    }
    assert with_half_batches(before).values["trainer"] == {**doubled, **shares}


@pytest.mark.parametrize("batch", [{"size": 1, "max_tokens": None}, {"size": None}, {"num_workers": 4}, {}, None])
def test_where_nothing_can_be_halved_nothing_changes(batch: dict[str, Any] | None) -> None:
    before = configuration(batch)
    assert with_half_batches(before) == before
