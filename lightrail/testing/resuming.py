"""Resumes from every state that a training writes, and compares each end with that of the uninterrupted training."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers.logger import Logger

from lightrail.project.running.build import Experiment
from lightrail.project.training.checkpoints import LastCheckpoint, place_checkpoints

EVERY_STEP = ["--tracking.checkpoint.every_minutes=0", "--trainer.log_every_n_steps=1"]
BY_BATCHES = ["--trainer.val_check_interval=3", "--trainer.check_val_every_n_epoch=null", "--trainer.max_steps=9"]
BY_EPOCHS = ["--trainer.max_epochs=2", "--trainer.max_steps=-1", "--trainer.val_check_interval=1.0"]


class Curves(Logger):
    """A logger that keeps what is logged: step to name to value."""

    name, version = "curves", 0

    def __init__(self) -> None:
        super().__init__()
        self.points: list[tuple[int, dict[str, float]]] = []

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None: ...

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        assert step is not None
        self.points.append((step, {name: float(value) for name, value in metrics.items()}))

    def of(self, name: str) -> dict[int, float]:
        """Return the values of a metric by step."""
        steps = [step for step, values in self.points if name in values]
        assert steps == sorted(set(steps))
        return {step: values[name] for step, values in self.points if name in values}


@dataclass
class Trained:
    """A finished training."""

    folder: Path
    weights: dict[str, torch.Tensor]
    curves: Curves
    order: list[list[int]]
    """Numbers of the examples of each batch."""

    @property
    def best(self) -> dict[str, torch.Tensor]:
        """Weights of the best checkpoint."""
        return weights_in(self.folder / "best.ckpt")

    def points(self, after: int) -> dict[tuple[int, str], float]:
        """Return every logged value past a step, 0 in place of durations, which vary."""
        return {
            (step, name): 0.0 if name.startswith("throughput/") else value
            for step, values in self.curves.points
            for name, value in values.items()
            if step > after
        }


class Order(Callback):
    """Records the examples of each batch."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.batches.append(list(batch["id"]))


def train(experiment: Experiment, folder: Path, resume_from: Path | None = None, keep: Path | None = None) -> Trained:
    """Train with checkpoints in `folder`; copy all of them to a new folder in `keep` whenever one is written."""
    curves, order, trainer = Curves(), Order(), experiment.trainer
    trainer.logger = curves
    experiment.model.is_tracked = True  # as in a run: points at the steps of the training
    trainer.callbacks.insert(0, order)  # type: ignore[attr-defined]
    place_checkpoints(trainer, folder)
    (last,) = (own for own in trainer.callbacks if isinstance(own, LastCheckpoint))  # type: ignore[attr-defined]
    if keep is not None:
        last.after_saving = lambda: keep_all(folder, keep)
    trainer.fit(experiment.model, datamodule=experiment.data, ckpt_path=resume_from, weights_only=True)
    weights = {name: value.clone() for name, value in experiment.model.state_dict().items()}
    return Trained(folder, weights, curves, order.batches)


def keep_all(folder: Path, keep: Path) -> None:
    """Copy all checkpoints to a new folder in `keep`."""
    keep.mkdir(exist_ok=True)
    shutil.copytree(folder, keep / f"{len(list(keep.iterdir())):03d}")


def check_every_state(build: Callable[[], Experiment], folder: Path, only: Sequence[int] | None = None) -> int:
    """Check that every resumed training equals the uninterrupted one; return the number of states.

    Weights, metrics, best checkpoint and order of the examples must be equal, bit for bit.

    Args:
        only: numbers of the states to resume from; None for all.
    """
    whole = train(build(), folder / "whole", keep=folder / "kept")
    states = sorted((folder / "kept").iterdir())
    for number in range(len(states)) if only is None else only:
        state = shutil.copytree(states[number], folder / "again" / f"{number}")
        stored = torch.load(state / "last.ckpt", weights_only=True)
        step = stored["global_step"]
        again = train(build(), state, resume_from=state / "last.ckpt")
        place = f"resumed from state {number}, step {step}"
        assert_same_weights(again.weights, whole.weights, place)
        assert_same_weights(again.best, whole.best, f"best.ckpt {place}")
        assert again.points(after=step) == whole.points(after=step), place
        assert again.order == whole.order[len(whole.order) - len(again.order) :], place
    return len(states)


def assert_same_weights(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], place: str) -> None:
    """Assert that weights are equal, bit for bit."""
    assert found.keys() == expected.keys()
    different = [name for name in expected if not torch.equal(found[name], expected[name])]
    assert not different, f"{place}: {different}"


def weights_in(path: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a checkpoint."""
    weights: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return weights
