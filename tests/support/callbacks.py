"""What goes wrong in a training, by a setting that a sweep can vary; a slow one; and one that shows its weights."""

import hashlib
import math
import time
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

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
