"""Throughput counts what was learned from in the time it took."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from lightrail.datamodules.batches.batching import Batch
from lightrail.project.training.system_metrics import Throughput
from lightrail.testing.resuming import Curves
from tests.support.tiny import Signs, fit, points_loader


class Clock(Callback):
    """A batch takes 2 seconds, a validation 100, and what happens between training and its first batch 50."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        self.seconds += 2

    def on_validation_batch_start(self, *_: Any) -> None:
        self.seconds += 100


def rates(monkeypatch: pytest.MonkeyPatch, *callbacks: Callback, **arguments: Any) -> dict[str, dict[int, float]]:
    """Fit 10 points of 2 tokens, in batches of 4, 4 and 2."""
    clock, curves = Clock(), Curves()
    monkeypatch.setattr(
        "lightrail.project.training.system_metrics.time", SimpleNamespace(perf_counter=lambda: clock.seconds)
    )
    model = Signs()
    fit(model, points_loader(10), callbacks=[clock, *callbacks, Throughput()], logger=curves, **arguments)
    names = ("examples_per_second", "tokens_per_second")
    return {name: curves.of(f"throughput/{name}") for name in names}


def test_examples_and_tokens_are_counted_between_logged_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    found = rates(monkeypatch, max_epochs=2, log_every_n_steps=2)
    assert found["examples_per_second"] == {2: 8 / 4, 4: 6 / 4, 6: 6 / 4}
    assert found["tokens_per_second"] == {2: 16 / 4, 4: 12 / 4, 6: 12 / 4}


def test_validation_takes_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    often = {"limit_val_batches": 1.0, "val_check_interval": 1, "num_sanity_val_steps": 2}
    assert rates(monkeypatch, max_epochs=2, log_every_n_steps=2, **often) == rates(
        monkeypatch, max_epochs=2, log_every_n_steps=2
    )


@pytest.mark.parametrize(
    ("accumulation", "expected"),
    # An epoch's last step takes what is left: steps of 8 and 2 examples, and of 10.
    [(2, {1: 8 / 4, 2: 2 / 2, 3: 8 / 4, 4: 2 / 2}), (3, {1: 10 / 6, 2: 10 / 6})],
)
def test_every_step_has_one_point_however_many_batches_it_takes(
    monkeypatch: pytest.MonkeyPatch, accumulation: int, expected: dict[int, float]
) -> None:
    found = rates(monkeypatch, max_epochs=2, accumulate_grad_batches=accumulation, log_every_n_steps=1)
    assert found["examples_per_second"] == pytest.approx(expected)


def test_steps_that_end_with_an_epoch_are_logged_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    found = rates(monkeypatch, max_epochs=2, accumulate_grad_batches=2, log_every_n_steps=2)
    assert found["examples_per_second"] == pytest.approx({2: 10 / 6, 4: 10 / 6})


class Filling(Callback):
    """Marks each batch as a filler before throughput sees it."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int) -> None:
        batch["is_filler"] = True


def test_fillers_count_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rates(monkeypatch, Filling(), max_epochs=1)["examples_per_second"] == {1: 0, 2: 0, 3: 0}


def test_counts_are_summed_over_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    def all_reduce(counts: torch.Tensor) -> None:
        counts.mul_(3)

    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    curves, throughput = Curves(), Throughput()
    monkeypatch.setattr(
        "lightrail.project.training.system_metrics.time", SimpleNamespace(perf_counter=iter([0.0, 4.0, 4.0]).__next__)
    )
    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    monkeypatch.setattr(Trainer, "world_size", 3)
    monkeypatch.setattr(Trainer, "global_step", 0)
    trainer.logger = curves
    trainer.log_every_n_steps = 1  # type: ignore[attr-defined]
    throughput.on_train_start(trainer, Signs())
    monkeypatch.setattr(Trainer, "global_step", 1)
    throughput.on_train_batch_end(trainer, Signs(), None, next(iter(points_loader())), 0)
    assert curves.of("throughput/examples_per_second") == {1: 3 * 4 / 4}
