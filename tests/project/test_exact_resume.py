"""Going on from any state ends where the training left alone ends, whatever the schedule of validations and epochs.

The classifier stands for all tasks here; what a task could break is in `tests/support/contract.py`, with the plainest
schedules and loader workers.
"""

import json
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.precision import MixedPrecision
from torch.amp.grad_scaler import GradScaler

from lightrail.project.configuration import parse
from lightrail.project.running.build import Experiment, build
from lightrail.project.training.checkpoints import place_checkpoints
from lightrail.testing.resuming import BY_BATCHES, BY_EPOCHS, EVERY_STEP, check_every_state, train, weights_in
from tests.support.tasks import text_classification

pytestmark = pytest.mark.filterwarnings(
    "ignore:Checkpoint directory .* exists and is not empty",
    "ignore:You're using the WeightAveraging callback with a model that overrides",
)
STOP = ["--trainer.callbacks=EarlyStopping", "--trainer.callbacks.monitor=val/loss", "--trainer.callbacks.mode=max"]
SCHEDULES = {
    "validation at the end of epochs, by batches": [*BY_BATCHES, "--trainer.val_check_interval=4"],
    "validation twice an epoch": [*BY_EPOCHS, "--trainer.val_check_interval=0.5"],
    "validation every other epoch": [*BY_EPOCHS, "--trainer.max_epochs=4", "--trainer.check_val_every_n_epoch=2"],
    "epochs cut short": [*BY_EPOCHS, "--trainer.max_epochs=3", "--trainer.limit_train_batches=3"],
    "a step of several batches": [*BY_BATCHES, "--trainer.max_steps=5", "--trainer.accumulate_grad_batches=3"],
    "a last step of fewer batches": [*BY_EPOCHS, "--trainer.max_epochs=3", "--trainer.accumulate_grad_batches=3"],
    "stopped early in an epoch": [*BY_BATCHES, "--trainer.max_steps=40", *STOP, "--trainer.callbacks.patience=1"],
    "stopped early after an epoch": [*BY_EPOCHS, "--trainer.max_epochs=9", *STOP, "--trainer.callbacks.patience=1"],
}


def settings(folder: Path, *more: str) -> list[str]:
    quiet = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.precision=32-true"]
    batches = ["--data.batch.max_tokens=null", "--data.batch.size=2"]
    return [*text_classification.settings(folder), *quiet, *batches, *EVERY_STEP, *more]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_state_leads_to_the_same_end(tmp_path: Path, schedule: str) -> None:
    arguments = settings(tmp_path, *SCHEDULES[schedule])
    assert check_every_state(lambda: build(parse(arguments), "fit"), tmp_path) >= 5


def test_averaged_weights_return(tmp_path: Path) -> None:
    average = ["--trainer.callbacks=EMAWeightAveraging", "--trainer.callbacks.decay=0.5"]
    arguments = settings(tmp_path, *BY_BATCHES, *average)
    plain = train(build(parse(settings(tmp_path, *BY_BATCHES)), "fit"), tmp_path / "plain")
    # The last state is left out: there is nothing more to train, and Lightning copies the average at its end.
    assert check_every_state(lambda: build(parse(arguments), "fit"), tmp_path, only=range(8)) == 9
    averaged = torch.load(tmp_path / "whole" / "best.ckpt", weights_only=True)["state_dict"]
    assert not all(torch.equal(averaged[name], value) for name, value in plain.best.items())


class Shares(Callback):
    """Writes down which examples each process gets, a line for each batch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        own = [] if batch["is_filler"] else batch["id"]
        with (self.folder / f"rank{trainer.global_rank}").open("a") as file:
            file.write(f"{json.dumps([trainer.global_step, own])}\n")

    def batches(self) -> list[list[int]]:
        """The examples of each batch, put together from all processes."""
        ranks = [map(json.loads, file.read_text().splitlines()) for file in sorted(self.folder.glob("rank*"))]
        return [sorted(number for _, own in shares for number in own) for shares in zip(*ranks, strict=True)]


def train_on(num_processes: int, arguments: list[str], folder: Path, resume_from: Path | None = None) -> Shares:
    folder.mkdir()
    shares = Shares(folder)
    devices = [f"--trainer.devices={num_processes}", *(["--trainer.strategy=ddp_fork"] if num_processes > 1 else [])]
    experiment = build(parse([*arguments, *devices]), "fit")
    experiment.trainer.callbacks.insert(0, shares)  # type: ignore[attr-defined]
    place_checkpoints(experiment.trainer, folder)
    experiment.trainer.fit(experiment.model, datamodule=experiment.data, ckpt_path=resume_from, weights_only=True)
    return shares


@pytest.mark.parametrize(("before", "after"), [(2, 2), (2, 1), (1, 2), (3, 2)])
def test_another_number_of_processes_resumes_with_the_same_batches_to_the_same_weights(
    tmp_path: Path, before: int, after: int
) -> None:
    still = ["--model.optim.optimizer=sgd", "--model.optim.schedule=constant", "--model.optim.warmup_fraction=0"]
    size = ["--data.batch.size=3", "--trainer.max_steps=-1", "--trainer.max_epochs=3"]
    arguments = settings(tmp_path, *still, *size, *text_classification.WITHOUT_DROPOUT)
    whole = train_on(before, arguments, tmp_path / "whole")
    part = train_on(before, [*arguments, "--trainer.max_steps=4"], tmp_path / "part")
    rest = train_on(after, arguments, tmp_path / "rest", tmp_path / "part" / "last.ckpt")
    assert whole.batches() == part.batches() + rest.batches()
    assert sorted(chain.from_iterable(whole.batches())) == sorted([*range(8)] * 3), "each example once an epoch"
    for name, expected in weights_in(tmp_path / "whole" / "last.ckpt").items():
        found = weights_in(tmp_path / "rest" / "last.ckpt")[name]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
        assert before != after or torch.equal(found, expected)


def test_the_scale_of_float16_gradients_returns(tmp_path: Path) -> None:
    arguments = settings(tmp_path, *BY_BATCHES)

    def scaled() -> tuple[Experiment, GradScaler]:
        experiment = build(parse(arguments), "fit")
        scaler = GradScaler("cpu", init_scale=2.0**10, growth_interval=2)
        strategy = experiment.trainer.strategy
        strategy.precision_plugin = MixedPrecision("16-mixed", "cpu", scaler)
        return experiment, scaler

    first, scaler = scaled()
    train(first, tmp_path / "first", keep=tmp_path / "kept")
    assert scaler.get_scale() > 2.0**10, "a scale that does not grow would prove little"
    again, restored = scaled()
    train(again, tmp_path / "again", resume_from=tmp_path / "kept" / "003" / "last.ckpt")
    assert restored.state_dict() == scaler.state_dict()
