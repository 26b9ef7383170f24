"""A plain LightningModule that is resumed from any state ends with the weights of one that was left alone."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from lightrail.project.configuration import parse
from lightrail.project.running.build import build_any
from lightrail.project.training.checkpoints import LastCheckpoint, place_checkpoints
from lightrail.testing.resuming import Curves, assert_same_weights, keep_all, weights_in

pytestmark = pytest.mark.filterwarnings(
    "ignore:Checkpoint directory .* exists and is not empty",
    "ignore:You're resuming from a checkpoint that ended before the epoch ended",
    "ignore:The '.*_dataloader' does not have many workers",
    "ignore:It is recommended to use `self.log",
)
MODULES = "tests.support.plain_modules"
QUIET = [
    *("--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.log_every_n_steps=1"),
    "--tracking.checkpoint.every_minutes=0",
]
CASES = {
    "random transforms, and a generator of the loader's own": ["LitModel", "NoisyData"],
    "loader workers": ["LitModel", "NoisyData", "--data.num_workers=2"],
    "a plateau schedule": ["PlateauModel", "LitData"],
    "validation in the epoch": ["PlateauModel", "LitData", "--trainer.val_check_interval=2"],
    "weights that a hook of the module changes": ["AveragingModel", "LitData"],
    "two optimizers by hand": ["Gan", "TrainOnly"],
    "accumulated gradients": ["LitModel", "LitData", "--trainer.accumulate_grad_batches=4"],
    "a stream without a length": ["LitModel", "StreamData"],
    "two loaders of different lengths": ["PairedModel", "PairedData"],
    "loaders of its own": ["OwnLoadersModel", ""],
    "neither validation nor test": ["NoEvaluation", "TrainOnly"],
    "stopped by steps in an epoch": ["LitModel", "LitData", "--trainer.max_steps=10", "--trainer.val_check_interval=5"],
}


def settings(model: str, data: str, *more: str) -> list[str]:
    own = [f"--data={MODULES}.{data}"] if data else []
    return [f"--model={MODULES}.{model}", *own, "--trainer.max_epochs=2", *QUIET, *more]


def train(arguments: list[str], folder: Path, resume_from: Path | None = None, keep: Path | None = None) -> Any:
    experiment = build_any(parse(arguments), "fit")
    trainer, curves = experiment.trainer, Curves()
    trainer.logger = curves
    place_checkpoints(trainer, folder)
    (last,) = (own for own in trainer.callbacks if isinstance(own, LastCheckpoint))  # type: ignore[attr-defined]
    if keep is not None:
        last.after_saving = lambda: keep_all(folder, keep)
    trainer.fit(experiment.module, datamodule=experiment.datamodule, ckpt_path=resume_from, weights_only=True)
    return experiment.module.state_dict(), curves, experiment.monitor


def of_steps(curves: Curves, after: int) -> dict[tuple[int, str], float]:
    """What was logged past a step, but means over an epoch in training, of which a resumed one has seen the rest."""
    return {
        (step, name): value
        for step, values in curves.points
        for name, value in values.items()
        if step > after and not name.startswith("throughput/") and name != "train_acc_epoch"
    }


@pytest.mark.parametrize("case", CASES)
def test_every_state_of_a_plain_module_leads_to_the_same_end(tmp_path: Path, case: str) -> None:
    arguments = settings(*CASES[case])
    weights, curves, monitor = train(arguments, tmp_path / "whole", keep=tmp_path / "kept")
    states = sorted((tmp_path / "kept").iterdir())
    assert len(states) >= 4
    for number in (0, len(states) // 2, len(states) // 2 + 1):
        state = shutil.copytree(states[number], tmp_path / "again" / f"{number}")
        stored = torch.load(state / "last.ckpt", weights_only=True)
        found, again, chosen = train(arguments, state, resume_from=state / "last.ckpt")
        place = f"resumed from state {number}, step {stored['global_step']}"
        assert_same_weights(found, weights, place)
        assert (chosen, of_steps(again, stored["global_step"])) == (monitor, of_steps(curves, stored["global_step"]))


def test_two_processes_resume_to_the_same_weights(tmp_path: Path) -> None:
    arguments = settings("LitModel", "NoisyData", "--trainer.devices=2", "--trainer.strategy=ddp_fork")
    train(arguments, tmp_path / "whole")
    train([*arguments, "--trainer.max_steps=2"], tmp_path / "part")
    train(arguments, tmp_path / "rest", resume_from=tmp_path / "part" / "last.ckpt")
    found, whole = (weights_in(tmp_path / name / "last.ckpt") for name in ("rest", "whole"))
    assert_same_weights(found, whole, "resumed on two processes")
