"""Half of what a batch may hold, twice as many of them for a step."""

from typing import Any

import pytest

from project.configuration import Configuration
from sweeps.halving import with_half_batches


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


@pytest.mark.parametrize("batch", [{"size": 1, "max_tokens": None}, {"size": None}, {"num_workers": 4}, {}, None])
def test_where_nothing_can_be_halved_nothing_changes(batch: dict[str, Any] | None) -> None:
    before = configuration(batch)
    assert with_half_batches(before) == before
