"""What goes wrong in a training, by a setting that a sweep can vary; and a slow one."""

import math
import time
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
