"""The batch-size finder: what fits, from where on a CPU gets no faster, and that the optimizer step stays the same."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from lightrail.datamodules.batches.batching import BatchConfig, BatchLoader, BucketSampler
from lightrail.project.running.build import Experiment
from lightrail.project.running.tuning import batch_size
from lightrail.project.running.tuning.batch_size import BatchSize, find_batch_size, fits, largest_fitting, same_step
from tests.support.tiny import Points, Signs, collate_points, quiet_trainer

LENGTHS = np.array([3] * 40 + [10] * 60)


@pytest.mark.parametrize("most", [0, 1, 2, 37, 63, 64, 100])
def test_the_largest_size_that_fits_is_found(most: int) -> None:
    tried: list[int] = []

    def is_fitting(size: int) -> bool:
        tried.append(size)
        return size <= most

    assert largest_fitting(is_fitting, 100) == most
    assert max(tried) <= 100
    assert len(tried) == len(set(tried)) < 15


def test_a_step_out_of_memory_does_not_fit_and_other_errors_are_raised() -> None:
    def step(size: int) -> None:
        if size > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        torch.ones(size) @ torch.ones(2)

    assert fits(step, 2)
    assert not fits(step, 4)
    with pytest.raises(RuntimeError, match="size"):
        fits(step, 3)


class Clock:
    """Time that passes by the examples that are looked up: 1 s for a step, and 0.1 s for each beyond the tenth."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def train(self, size: int) -> None:
        self.now += 1 + 0.1 * max(0, size - 10)


def test_sizes_double_until_twice_in_a_row_they_are_no_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(batch_size, "time", clock)
    found = batch_size.throughput_by_size(clock.train, 10_000)
    assert list(found)[:6] == [1, 2, 4, 8, 16, 32]
    assert found[8] == pytest.approx(8)
    assert found[32] == pytest.approx(10)
    assert max(found) < 200
    assert list(batch_size.throughput_by_size(clock.train, 12)) == [1, 2, 4, 8, 12]


def found(monkeypatch: pytest.MonkeyPatch, limits: BatchConfig, **arguments: Any) -> tuple[BatchSize, list[int]]:
    """Find the size for rows of which the last 60 are the longest; return the rows of the last step too."""
    clock, looked_up = Clock(), []

    class Timed(Points):
        def row(self, index: int) -> dict[str, Any]:
            looked_up.append(index)
            return super().row(index)

    def collate(rows: Any) -> Any:
        clock.train(len(rows))
        return collate_points(rows)

    monkeypatch.setattr(batch_size, "time", clock)
    loader = BatchLoader(Timed(len(LENGTHS)), collate, BucketSampler(LENGTHS, limits, is_shuffled=True))
    data = SimpleNamespace(train_dataloader=lambda: loader, batch=limits)
    parts = SimpleNamespace(trainer=quiet_trainer(**arguments), model=Signs(), data=data)
    return find_batch_size(cast(Experiment, parts)), looked_up


def test_the_longest_examples_are_tried_and_the_step_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    result, looked_up = found(monkeypatch, BatchConfig(size=48), accumulate_grad_batches=2)
    assert min(looked_up[: 3 * (1 + 2 + 4 + 8 + 16 + 32)]) >= 40, "the longest"
    assert result.positions == 10
    assert result.most == 16
    assert result.settings == {"data.batch.size": 16, "trainer.accumulate_grad_batches": 6}
    assert "--data.batch.size 16 --trainer.accumulate_grad_batches 6: " in result.render()
    assert "stops growing at 16 examples of 10 positions" in result.render()


def test_a_budget_of_tokens_is_divided_too_and_processes_count(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = BatchConfig(size=None, max_tokens=640)
    result, _ = found(monkeypatch, limits, devices=2, strategy="ddp_fork")
    assert result.most == 16
    assert result.settings == {"data.batch.max_tokens": 320, "trainer.accumulate_grad_batches": 2}


@pytest.mark.parametrize(
    ("totals", "most", "expected"),
    [
        ((96, None), 96, (96, None, 1)),
        ((96, None), 95, (48, None, 2)),
        ((7, None), 6, (1, None, 7)),
        ((None, 4096), 20, (None, 128, 32)),
        ((64, 4096), 16, (16, 1024, 4)),
    ],
)
def test_a_step_is_divided_without_remainder(
    totals: tuple[int | None, ...], most: int, expected: tuple[int | None, ...]
) -> None:
    names = ("data.batch.size", "data.batch.max_tokens", "trainer.accumulate_grad_batches")
    given = {name: own for name, own in zip(names, totals, strict=False) if own}
    assert same_step(given, 10, most) == {name: own for name, own in zip(names, expected, strict=True) if own}


def test_what_fits_on_a_gpu_is_said() -> None:
    fitting = BatchSize(96, 256, {}, {"data.batch.size": 64, "trainer.accumulate_grad_batches": 2})
    assert fitting.render().splitlines() == [
        "batch size   96 examples of 256 positions, the longest, fit into the memory of a process",
        "             --data.batch.size 64 --trainer.accumulate_grad_batches 2: batches up to that size, and the same "
        "optimizer step",
    ]
    assert BatchSize(0, 256, {}, {}).render() == "batch size   not even one example of 256 positions fits into memory"
