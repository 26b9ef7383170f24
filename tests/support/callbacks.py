"""Callbacks for trainings of the tests: what goes wrong, is interrupted or slow, by settings that a sweep can vary."""

import hashlib
import math
import os
import signal
import time
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from tests.support import blank_figures  # noqa: F401 - in trials and drivers too, which import what they are allowed

ALLOW = "--allow_modules=tests.support.callbacks"
"""What a command is given to use these."""
EVERY_STEP = "--tracking.checkpoint.every_minutes=0"
How = Literal["well", "crash", "nan", "memory", "memory of a GPU", "small memory"]


class Going(Callback):
    """Has a training go as a setting says.

    Args:
        how: "small memory" suffices for batches of less than 4.
        seconds: taken by each batch.
    """

    def __init__(self, how: How = "well", seconds: float = 0.0) -> None:
        self.how, self.seconds = how, seconds

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, out: Any, batch: Any, at: int) -> None:
        time.sleep(self.seconds)
        if trainer.global_step < 3:
            return
        if self.how == "crash":
            raise RuntimeError("as asked")
        if self.how == "nan":
            with torch.no_grad():
                for parameter in pl_module.parameters():
                    parameter.mul_(math.nan)
        if self.how == "memory of a GPU":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        if self.how == "memory" or (self.how == "small memory" and len(batch["id"]) > 3):
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: not enough memory")


class SpoiltStep(Callback):
    """Has the loss of the third optimizer step be NaN, by an embedding that is, before its first micro-batch."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 2:
            with torch.no_grad():
                next(pl_module.parameters()).fill_(math.nan)


class Together(Callback):
    """Lets a training go on once so many trainings have begun.

    Args:
        folder: for a file of each process that trains.
    """

    def __init__(self, folder: str, number: int = 2) -> None:
        self.folder, self.number = Path(folder), number

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.folder.mkdir(exist_ok=True)
        (self.folder / f"{os.getpid()}").touch()
        while len(list(self.folder.iterdir())) < self.number:
            time.sleep(0.1)


class Weights(Callback):
    """Writes down what each process of a training has for weights at the start of every step.

    Args:
        folder: for one file of each process of a run, named RANK.txt, with a line STEP DIGEST for each batch, and
            STEP EXCEPTION where one ends the training.
        seconds: taken by each batch.
    """

    def __init__(self, folder: str, seconds: float = 0.0) -> None:
        self.folder, self.seconds = folder, seconds

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        name = trainer.strategy.broadcast(trainer.logger.run_id if trainer.is_global_zero else "")  # type: ignore[union-attr]
        self.file = Path(self.folder) / str(name) / f"{trainer.global_rank}.txt"
        self.file.parent.mkdir(parents=True, exist_ok=True)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, at: int) -> None:
        time.sleep(self.seconds)
        weights = b"".join(parameter.detach().numpy().tobytes() for parameter in pl_module.parameters())
        with self.file.open("a", encoding="utf-8") as file:
            file.write(f"{trainer.global_step} {hashlib.sha256(weights).hexdigest()}\n")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        with self.file.open("a", encoding="utf-8") as file:
            file.write(f"{trainer.global_step} {type(exception).__name__}\n")


class Interrupt(Callback):
    """Raises KeyboardInterrupt after an optimizer step, once for each marker file that is not there yet."""

    def __init__(self, marker: str, step: int = 3) -> None:
        self.marker, self.step = Path(marker), step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        if trainer.global_step == self.step and not self.marker.exists():
            self.marker.touch()
            raise KeyboardInterrupt


class InterruptSeed(Callback):
    """Raises KeyboardInterrupt after the second step of the second run that trains with it, once."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        (self.folder / f"{len(list(self.folder.iterdir()))}").touch()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        if trainer.global_step == 2 and len(list(self.folder.iterdir())) == 2:
            raise KeyboardInterrupt


class WarnAt(Callback):
    """Sends the signal that SLURM warns with, at a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGUSR1)


class RaiseAt(Callback):
    """Goes wrong at the end of an optimizer step."""

    def __init__(self, step: int, error: Literal["RuntimeError", "KeyboardInterrupt"] = "RuntimeError") -> None:
        self.step, self.error = step, error

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise {"RuntimeError": RuntimeError, "KeyboardInterrupt": KeyboardInterrupt}[self.error]("as asked")


class SpoilAt(Callback):
    """Turns all weights round before an optimizer step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step + 1 == self.step:
            with torch.no_grad():
                for parameter in pl_module.parameters():
                    parameter.neg_()


class Slow(Callback):
    """Takes its time after each batch, as a larger network would."""

    def __init__(self, seconds: float = 0.05) -> None:
        self.seconds = seconds

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        time.sleep(self.seconds)
