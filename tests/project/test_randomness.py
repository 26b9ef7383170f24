"""Random numbers of a step follow from the seed and the step, whatever happened before."""

import random
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from lightrail.project.training.checkpoints import StepSeeds, seed_all
from tests.support.tiny import fit

Draw = tuple[float, float, float]


def draw() -> Draw:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


class Drawing(pl.LightningModule):
    """Draws a number of each generator in every step."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.drawn: list[Draw] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        self.drawn.append(draw())
        loss: torch.Tensor = self.layer(batch["points"]).sum()
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        draw()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


class Meddler(Callback):
    """Draws numbers of its own between steps."""

    def on_train_batch_end(self, *_: Any) -> None:
        draw()


def drawn(*, seed: int = 1, callbacks: tuple[Callback, ...] = (), **arguments: Any) -> list[Draw]:
    model = Drawing()
    fit(model, max_epochs=2, callbacks=[StepSeeds(seed), *callbacks], **arguments)
    return model.drawn


def test_seeds_make_all_generators_repeat() -> None:
    draws = []
    for entropy in ([1, 2], [1, 2], [2, 1], [1, 2, 3], [2**32 - 1, 2]):
        seed_all(entropy)
        draws.append(draw())
    assert draws[0] == draws[1]
    assert len(set(draws)) == 4


def test_generators_do_not_repeat_each_other() -> None:
    seed_all([7])
    assert len(set(draw())) == 3


def test_every_step_has_numbers_of_its_own() -> None:
    draws = drawn()
    assert len(draws) == len(set(draws)) == 6
    assert not set(draws) & set(drawn(seed=2))


def test_neither_validation_nor_a_callback_moves_the_numbers_of_a_step() -> None:
    expected = drawn()
    assert drawn(limit_val_batches=1.0, val_check_interval=1) == expected
    assert drawn(callbacks=(Meddler(),)) == expected
    assert drawn(accumulate_grad_batches=3) == expected


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_resumed_run_draws_what_it_would_have_drawn(tmp_path: Path) -> None:
    each = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=1)
    expected = drawn(callbacks=(each,), enable_checkpointing=True)
    for step in (1, 3, 4):
        torch.manual_seed(step)
        resumed = drawn(callbacks=(each,), enable_checkpointing=True, resume_from=tmp_path / f"step={step}.ckpt")
        assert resumed == expected[step:]


def test_processes_draw_different_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    first = drawn()
    monkeypatch.setattr(pl.Trainer, "global_rank", property(lambda _: 1))
    assert not set(first) & set(drawn())
