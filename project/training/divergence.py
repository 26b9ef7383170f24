"""Ends a training whose loss is no longer finite, and says at which step and example that began."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed
from lightning.pytorch import Callback
from torch import Tensor

from lightrail.datamodules.base import DataModule
from lightrail.lightning_modules.base import TaskModule
from lightrail.lightning_modules.optimization import gradient_values
from lightrail.project.basics.errors import Diverged
from lightrail.project.basics.private_names import loss_scale

SMALLEST_LOSS_SCALE = 2.0**-8
"""Float16 training halves its scale, at first 2**16, at each step that overflows; below this none succeeds."""
NUM_SHOWN = 5
ADVICE = (
    "Lower the learning rate (model.optim.lr), set trainer.gradient_clip_val, or look at the examples; then fit "
    "again, or resume from the last finite checkpoint. To train on, set tracking.non_finite_loss=continue."
)


@dataclass
class _Step:
    """The micro-batches of one optimizer step on this process."""

    parts: list[tuple[Tensor, Sequence[int]]] = field(default_factory=list)
    """Loss, and ids of the examples."""
    number: int = 0
    is_bad: Tensor | None = None
    """1.0 if a loss of any process is not finite, else 0.0."""
    is_copied: torch.cuda.Event | None = None


class StopWhenNotFinite(Callback):
    """Raises Diverged where the loss is not finite, on all processes at the same step, before a state is written.

    On a CPU a step is judged at once. On a GPU it is judged after the next step has been started, when its loss has
    long been computed, so that the device never waits; before a validation or a checkpoint, at once.
    """

    def __init__(self) -> None:
        self.is_on = True
        self._step = _Step()
        self._unread: _Step | None = None
        self._global_step = 0
        self._validation_total = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._step, self._unread, self._global_step = _Step(), None, trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self.is_on:
            return
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor):  # of manual optimization it need not be known
            self._step.parts.append((loss.detach().mean(), batch["id"] if _has_ids(batch) else ()))
        if trainer.global_step == self._global_step:
            return  # gradients are still being accumulated
        done, self._step = self._step, _Step()
        done.number = self._global_step = trainer.global_step
        if not done.parts:
            return
        self._start_reading(trainer, done)
        self._judge(trainer, pl_module)
        self._unread = done
        if done.is_copied is None:
            self._judge(trainer, pl_module)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._judge(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if isinstance(pl_module, TaskModule):  # not the mean, which is NaN for a split without targets
            self._validation_total = float(_largest(trainer, _is_bad(pl_module.val_loss.total)))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.is_on and self._validation_total and trainer.state.fn == "fit" and not trainer.sanity_checking:
            value = float(trainer.callback_metrics["val/loss"])
            norm = _gradient_norm(pl_module)
            self._stop(trainer, f"val/loss is {value} at step {trainer.global_step}; {norm}. {ADVICE}")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._judge(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if not self.is_on or trainer.state.fn != "fit":
            return
        self._judge(trainer, pl_module)
        # The last step may have left weights whose loss nothing has computed yet.
        weights = [weight.detach() for weight in pl_module.parameters() if weight.requires_grad]
        if _largest(trainer, _is_bad(torch.nn.utils.get_total_norm(weights, math.inf))):
            norm = _gradient_norm(pl_module)
            self._stop(trainer, f"weights are not finite after step {trainer.global_step}; {norm}. {ADVICE}")

    def _start_reading(self, trainer: pl.Trainer, step: _Step) -> None:
        is_bad = torch.stack([_is_bad(loss) for loss, _ in step.parts]).amax()
        scale = loss_scale(trainer)
        if scale is not None:  # infinite gradients are normal there, and their steps are skipped
            is_bad = torch.maximum(is_bad, (scale < SMALLEST_LOSS_SCALE).float())
        step.is_bad = _largest(trainer, is_bad)
        if step.is_bad.device.type == "cuda":
            step.is_bad = step.is_bad.to("cpu", non_blocking=True)
            step.is_copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            step.is_copied.record()

    def _judge(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Read the flag of the last step that is unread, if any. Raises: Diverged."""
        step, self._unread = self._unread, None
        if step is None or step.is_bad is None:
            return
        if step.is_copied is not None:
            step.is_copied.synchronize()
        if not step.is_bad:
            return
        bad = [(float(loss), ids) for loss, ids in step.parts if not math.isfinite(float(loss))]
        ids = _of_all(trainer, [number for _, own in bad for number in own])
        value = bad[0][0] if bad else math.nan
        for own in trainer.loggers if step.number % (trainer.log_every_n_steps or 1) else ():  # type: ignore[attr-defined]
            own.log_metrics({"train/loss": value}, step.number)
        what = f"train/loss is {value}" if bad or ids else "no gradient was finite for many steps"
        self._stop(trainer, f"{what} at step {step.number}; {_gradient_norm(module)}{_shown(trainer, ids)}. {ADVICE}")

    def _stop(self, trainer: pl.Trainer, message: str) -> None:
        self.is_on = False  # a state that another callback writes because of this exception is its own affair
        if not trainer.is_global_zero:
            raise SystemExit(0)  # on another status Lightning kills the first process, which still writes the run's end
        raise Diverged(message)


def _has_ids(batch: Any) -> bool:
    return isinstance(batch, Mapping) and "id" in batch and "is_filler" in batch


def _is_bad(value: Tensor) -> Tensor:
    return 1.0 - torch.isfinite(value.detach()).float()


def _largest(trainer: pl.Trainer, value: Tensor) -> Tensor:
    """Return the largest value of all processes, without waiting for the device."""
    if trainer.world_size > 1:
        value = value.to(trainer.strategy.root_device)
        torch.distributed.all_reduce(value, torch.distributed.ReduceOp.MAX)
    return value


def _of_all(trainer: pl.Trainer, ids: list[int]) -> list[int]:
    parts: list[list[int]] = [ids]
    if trainer.world_size > 1:
        parts = [[] for _ in range(trainer.world_size)]
        torch.distributed.all_gather_object(parts, ids)
    return [number for part in parts for number in part]


def _gradient_norm(module: pl.LightningModule) -> str:
    return f"the gradient norm is {float(torch.nn.utils.get_total_norm(gradient_values(module))):g}"


def _shown(trainer: pl.Trainer, ids: Sequence[int]) -> str:
    """Name the first examples of a batch by file and line, or by number where the data has no lines."""
    data = getattr(trainer, "datamodule", None)
    if not ids or not isinstance(data, DataModule):
        return ""
    more = f" and {len(ids) - NUM_SHOWN} more" if len(ids) > NUM_SHOWN else ""
    return f"; its examples are {', '.join(data.place('train', number) for number in ids[:NUM_SHOWN])}{more}"
