"""A dry run measures time and memory of a run, on steps of its own data."""

import math
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from lightrail.datamodules.batches.batching import BatchConfig, BatchLoader, BucketSampler
from lightrail.lightning_modules.optimization import OptimConfig
from lightrail.project.running.build import Experiment
from lightrail.project.running.dry_run import NUM_TIMED, Rehearsal, rehearse
from tests.support.tiny import Points, Signs, collate_points, quiet_trainer

LENGTHS = np.array([3] * 8 + [10] * 4 + [100])
"""With at most 40 positions a batch: 8 x 3, 4 x 10 and 1 x 100."""


class Observed(Points):
    """Notes which rows are looked up."""

    def __init__(self) -> None:
        super().__init__(len(LENGTHS))
        self.seen: list[int] = []

    def row(self, index: int) -> dict[str, Any]:
        self.seen.append(index)
        return super().row(index)


def rehearsed(model: Signs | None = None, rows: Points | None = None, **arguments: Any) -> Rehearsal:
    sampler = BucketSampler(LENGTHS, BatchConfig(size=None, max_tokens=40), is_shuffled=True)
    loader = BatchLoader(rows or Points(len(LENGTHS)), collate_points, sampler)
    data = SimpleNamespace(train_dataloader=lambda: loader)
    parts = SimpleNamespace(trainer=quiet_trainer(**arguments), model=model or Signs(), data=data)
    return rehearse(cast(Experiment, parts))


def test_the_largest_batch_comes_first() -> None:
    rows = Observed()
    found = rehearsed(rows=rows, max_steps=1)
    assert rows.seen[0] == 12
    assert found.longest == (1, 100)
    assert set(rows.seen[1:]) == {*range(8, 12), 12}  # from the middle batch up


def test_sizes_are_those_of_the_run() -> None:
    found = rehearsed(max_steps=7)
    assert found.num_parameters == 2 * 2 + 2
    assert found.precision == "32-true"
    assert found.batches_per_epoch == 3
    assert found.peak_bytes > 2**20
    assert found.seconds_per_step > 0


@pytest.mark.parametrize(("precision", "expected"), [("bf16-true", torch.bfloat16), ("64-true", torch.float64)])
def test_steps_are_in_the_number_format_of_the_run(precision: str, expected: torch.dtype) -> None:
    model = Signs()
    assert rehearsed(model, max_steps=1, precision=precision).precision == precision
    assert {parameter.dtype for parameter in model.parameters()} == {expected}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"max_steps": 7}, 7),
        ({"max_epochs": 4}, 12),
        ({"max_epochs": 4, "max_steps": 5}, 5),
        ({"max_epochs": 4, "accumulate_grad_batches": 2}, 8),  # an epoch's last step takes what is left
        ({"max_epochs": 4, "limit_train_batches": 2}, 8),
        ({"max_epochs": 4, "limit_train_batches": 9}, 12),
        ({"max_epochs": 4, "limit_train_batches": 0.4}, 4),
        ({"max_epochs": -1}, math.inf),
    ],
)
def test_the_number_of_steps_is_that_of_the_run(arguments: dict[str, Any], expected: float) -> None:
    assert rehearsed(**arguments).num_steps == expected


def test_a_step_takes_as_many_batches_as_are_accumulated(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, 6.0] * 2)  # two batches are timed, the middle one and the largest
    monkeypatch.setattr("lightrail.project.running.dry_run.time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    assert rehearsed(max_steps=1).seconds_per_step == 3.0
    assert rehearsed(max_steps=1, accumulate_grad_batches=4).seconds_per_step == 12.0
    assert NUM_TIMED > 2


def test_frozen_parameters_are_frozen_in_a_dry_run() -> None:
    model = Signs(optim=OptimConfig(freeze=["head.bias"], lr=0.1, weight_decay=0.5))
    before = model.head.bias.detach().clone()
    rehearsed(model, max_steps=1)
    assert not model.head.bias.requires_grad
    assert model.head.bias.equal(before)


def rendered(**changed: Any) -> list[str]:
    facts: dict[str, Any] = {
        "num_parameters": 12_340_000,
        "precision": "bf16-mixed",
        "longest": (16, 128),
        "peak_bytes": 3 * 2**29,
        "batches_per_epoch": 250,
        "num_steps": 1200,
        "seconds_per_step": 0.25,
    }
    return Rehearsal(**{**facts, **changed}).render().splitlines()


def test_the_page_has_units() -> None:
    assert rendered() == [
        "model        12.3 M parameters, bf16-mixed",
        "memory       1.50 GiB at most: largest batch 16 x 128 positions",
        "epoch        250 batches",
        "run          1200 steps of about 250 ms: 5.0 minutes, without validation",
    ]
    assert rendered(num_steps=math.inf)[-1] == "step         250 ms; ends at trainer.max_time"
