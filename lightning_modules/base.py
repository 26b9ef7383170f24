"""The base of every task: it owns the steps, the logging and the optimizer, and closes them."""

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, final

import lightning.pytorch as pl
import torch
import torch.distributed
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torchmetrics import MetricCollection

from lightrail.lightning_modules.metrics.mean_loss import MeanLoss
from lightrail.lightning_modules.metrics.scores import StoredScore
from lightrail.lightning_modules.networks.decoders.decoder import Decoder
from lightrail.lightning_modules.networks.encoders.encoder import Encoder
from lightrail.lightning_modules.optimization import (
    OptimConfig,
    build_optimizer,
    build_schedule,
    clip_gradients,
    drop_frozen_gradients,
    freeze,
)
from lightrail.lightning_modules.plain import from_plain, to_plain
from lightrail.project.basics.errors import ConfigError
from lightrail.project.basics.private_names import is_compiled, norms_with_statistics
from lightrail.project.basics.renamed import with_current_paths

Batch = dict[str, Any]
Stage = Literal["val", "test"]
_TARGETS_PER_UNIT = 1024
"""Scale of the loss while gradients of several batches or processes add up; a power of two, so it rounds nothing."""


def compile_networks(parts: Iterable[nn.Module]) -> None:
    """Have those networks compiled whose settings ask for it; names of weights stay as they are."""
    for network in filter(_is_compiled, parts):
        if not is_compiled(network):
            network.compile()


def as_written(parts: Iterable[nn.Module]) -> AbstractContextManager[object]:
    """A context in which nothing that was compiled is used."""
    return torch.compiler.set_stance("force_eager") if any(map(_is_compiled, parts)) else nullcontext()


def _is_compiled(part: nn.Module) -> bool:
    return isinstance(part, Encoder | Decoder) and part.config.is_compiled


class TaskModule(pl.LightningModule, ABC):
    """Learns one task. Subclasses are final and write `forward`, `loss`, `update`, `decode` and `scores`.

    The gradient of an optimizer step is that of the mean loss over its targets, however these are spread over
    micro-batches and processes. Evaluation counts each example once, and metrics are computed from sums.

    Args:
        metrics: updated by `update`, computed at the end of an evaluation over all processes.
        optim: optimizer, schedule and freezing.
    """

    monitor: str
    """The metric that decides which checkpoint is the best, for example `val/accuracy`."""
    monitor_mode: ClassVar[Literal["min", "max"]] = "max"
    from_data: ClassVar[frozenset[str]] = frozenset(
        {
            "vocabulary",
            "tokenizer",
            "labels",
            "label_counts",
            "has_many_labels",
            "has_nested",
            "candidates",
            "image_shape",
            "pixel_mean",
            "pixel_std",
        }
    )
    """Constructor arguments that come from the datamodule when a run is built, never from a configuration."""

    def __init__(self, metrics: MetricCollection, optim: OptimConfig) -> None:
        super().__init__()
        self.optim = optim
        self.val_metrics = metrics.clone()
        self.test_metrics = metrics.clone()
        self.val_loss, self.test_loss = MeanLoss(), MeanLoss()
        # Of this process: targets of the optimizer step in progress, and targets and sum of losses since the last
        # logged step. The sum is no buffer, which DDP would overwrite.
        self.num_targets = self.window_targets = 0
        self.window_loss = torch.zeros((), dtype=torch.float64)
        self.logged_loss = torch.tensor(math.nan)
        self.is_calibrating = False
        self.tables: dict[str, Tensor] = {}
        """What the metrics of the last evaluation computed that is more than a number; figures are drawn from it."""

    @abstractmethod
    def forward(self, batch: Batch) -> Any:
        """Compute the outputs that `loss`, `update` and `decode` share."""

    @abstractmethod
    def loss(self, outputs: Any, batch: Batch) -> tuple[Tensor, int]:
        """Give the mean loss (zero if there is no target), and how many targets it is a mean over."""

    @abstractmethod
    def update(self, metrics: MetricCollection, outputs: Any, batch: Batch) -> None:
        """Count a batch into the metrics."""

    @abstractmethod
    def decode(self, outputs: Any, batch: Batch) -> Mapping[str, Sequence[Any]]:
        """Restate outputs for people: one column each for `prediction`, `score` (confidence in [0, 1]) and, where the
        batch has targets, `target`, `loss` (mean over the example's targets) and what else `scores` needs; a value per
        example.
        """

    @abstractmethod
    def scores(self) -> Mapping[str, StoredScore]:
        """Every metric of a test, named without `test/`, as computed again from the columns that `decode` gives."""

    def calibration_rows(self, outputs: Any, batch: Batch) -> Sequence[Any]:
        """Give what `calibrate` must know of each example of a validation batch, a value or tensor on the CPU each.

        It may not depend on what `calibrate` sets: a calibration that was broken off is done again over itself. A task
        that does not write this method is not calibrated.
        """
        return ()

    def calibrate(self, rows: list[Any]) -> Mapping[str, float]:
        """Fit buffers, such as a temperature, on the rows of the whole validation split, in the order of the examples.

        Called once, with the weights that are tested. While a model trains, these buffers say that nothing is
        calibrated. Returns: figures to log.
        """
        return {}

    def per_label(self) -> Mapping[str, Sequence[float]]:
        """Numbers that the task keeps for each of its labels, in their order, for the table of labels."""
        return {}

    def column_labels(self) -> Mapping[str, Sequence[str]]:
        """Say what the numbers of a list stand for, by the column of `decode` that holds such lists."""
        return {}

    @final
    def can_be_calibrated(self) -> bool:
        return type(self).calibration_rows is not TaskModule.calibration_rows

    @final
    def configure_model(self) -> None:
        freeze(self, self.optim.freeze)
        compile_networks(self.children())

    @final
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Change the number format of parameters only: in half precision sums of metrics would be wrong after a few
        hundred batches, and what was calibrated would not be what is tested. Statistics of a batch norm go with its
        weights, without which PyTorch refuses them.
        """
        norms = norms_with_statistics()
        converted = {id(tensor) for own in self.parameters() for tensor in (own, own.grad)}
        converted |= {id(own) for part in self.modules() if isinstance(part, norms) for own in part.buffers()}

        def apply(tensor: Tensor) -> Tensor:
            changed = fn(tensor)
            is_own = id(tensor) in converted or changed.dtype == tensor.dtype
            return changed if is_own else tensor.to(changed.device)

        super()._apply(apply, recurse)  # type: ignore[no-untyped-call]
        return self

    @final
    def on_train_start(self) -> None:
        self.num_targets = 0
        self.window_loss = self.window_loss.to(self.device)

    @final
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        mean, num_targets = self.loss(self(batch), batch)
        if batch["is_filler"]:
            num_targets = 0
        self.num_targets += num_targets
        self.window_targets += num_targets
        self.window_loss += mean.detach().double() * num_targets
        return mean * self._weight(num_targets)

    @final
    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Turn the sum of gradients into the gradient of the mean over all targets of this step."""
        if self.optim.unfreeze_fraction:
            steps_per_layer = self.optim.unfreeze_fraction * self.trainer.estimated_stepping_batches
            drop_frozen_gradients(optimizer, self.trainer.global_step, steps_per_layer)
        if not self._is_alone():
            num_targets = torch.tensor(float(self.num_targets), device=self.device)
            if self.trainer.world_size > 1:
                torch.distributed.all_reduce(num_targets)
            # Lightning and DDP divided by the number of parts.
            num_parts = self.trainer.accumulate_grad_batches * self.trainer.world_size
            gradients = [parameter.grad for parameter in self.parameters() if parameter.grad is not None]
            torch._foreach_mul_(gradients, _TARGETS_PER_UNIT * num_parts / num_targets.clamp(min=1))
        self.num_targets = 0
        # Here rather than after the step: a checkpoint of this step then finds the window closed and the point logged.
        step, every = self.trainer.global_step + 1, self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and step % every == 0:
            rate = optimizer.param_groups[-1]["lr"]
            self._track({"train/loss": self._close_loss_window(), "train/learning_rate": rate}, step)

    @final
    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        clip_gradients(self, gradient_clip_val, gradient_clip_algorithm)

    @final
    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Sequence[Any]] | None:
        outputs = self._evaluate("val", batch)
        if not self.is_calibrating or batch["is_filler"]:
            return None
        return {"id": batch["id"], "row": self.calibration_rows(outputs, batch)}

    @final
    def on_validation_epoch_end(self) -> None:
        self._log_evaluation("val")

    @final
    def test_step(self, batch: Batch, batch_idx: int) -> Mapping[str, Sequence[Any]]:
        return self._rows(self._evaluate("test", batch), batch)

    @final
    def on_test_epoch_end(self) -> None:
        self._log_evaluation("test")

    @final
    def predict_step(self, batch: Batch, batch_idx: int) -> Mapping[str, Sequence[Any]]:
        with as_written(self.children()):
            outputs = self(batch)
        return self._rows(outputs, batch)

    @final
    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        # A fused optimizer unscales float16 gradients itself, which is after clipping needs them.
        optimizer = build_optimizer(self, self.optim, is_fused=self.trainer.precision != "16-mixed")
        num_steps = self.trainer.estimated_stepping_batches
        schedule = build_schedule(optimizer, self.optim, num_steps, self.monitor_mode)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @final
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["task"] = f"{type(self).__module__}.{type(self).__qualname__}"
        checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY] = to_plain(dict(self.hparams))
        checkpoint["loss_window"] = self._loss_window().tolist()

    @final
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # One process goes on with everybody's sum, or it would be counted once for each.
        total, num_targets = checkpoint["loss_window"] if self.trainer.is_global_zero else (0.0, 0)
        self.window_loss, self.window_targets = torch.tensor(total, dtype=torch.float64), int(num_targets)

    @final
    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: str | Path, map_location: str | torch.device = "cpu"
    ) -> Self:
        """Rebuild a task with its weights from the checkpoint alone.

        Raises: ConfigError when the file is no checkpoint, or one of another task.
        """
        return cls.from_checkpoint(read_checkpoint(checkpoint_path, map_location), str(checkpoint_path))

    @final
    @classmethod
    def from_checkpoint(cls, checkpoint: Mapping[str, Any], name: str) -> Self:
        """As `load_from_checkpoint`, for a checkpoint that was read already; `name` is used in messages."""
        own = f"{cls.__module__}.{cls.__qualname__}"
        if checkpoint["task"] != own:
            raise ConfigError(
                f"{name} is a checkpoint of {checkpoint['task'].rpartition('.')[2]}, not of {cls.__name__}. "
                f"Name a checkpoint of this task, or the configuration that it was trained with."
            )
        task = cls(**from_plain(checkpoint[cls.CHECKPOINT_HYPER_PARAMS_KEY]))
        task.load_state_dict(checkpoint["state_dict"])
        return task

    @final
    def validation_metrics(self) -> set[str]:
        """Names of what an evaluation of the validation split gives checkpoints and early stopping to go by."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torchmetrics: that nothing has been counted yet
            computed = self.val_metrics.clone().compute()
        return {"val/loss", *(f"val/{name}" for name, value in computed.items() if value.ndim == 0)}

    def _is_alone(self) -> bool:
        """Whether an optimizer step takes its gradient from one batch on one process."""
        return self.trainer.accumulate_grad_batches == 1 and self.trainer.world_size == 1

    def _weight(self, num_targets: int) -> float:
        return 1.0 if self._is_alone() else num_targets / _TARGETS_PER_UNIT

    def _evaluate(self, stage: Stage, batch: Batch) -> Any:
        with as_written(self.children()):
            outputs = self(batch)
        if not batch["is_filler"]:
            mean, num_targets = self.loss(outputs, batch)
            (self.val_loss if stage == "val" else self.test_loss).update(mean, num_targets)
            self.update(self.val_metrics if stage == "val" else self.test_metrics, outputs, batch)
        return outputs

    def _rows(self, outputs: Any, batch: Batch) -> Mapping[str, Sequence[Any]]:
        return {} if batch["is_filler"] else {"id": batch["id"], **self.decode(outputs, batch)}

    def _log_evaluation(self, stage: Stage) -> None:
        metrics, loss = (self.val_metrics, self.val_loss) if stage == "val" else (self.test_metrics, self.test_loss)
        computed = metrics.compute()
        values = {f"{stage}/loss": loss.compute()}
        values.update({f"{stage}/{name}": value for name, value in computed.items() if value.ndim == 0})
        self.tables = {name: value.cpu() for name, value in computed.items() if value.ndim > 0}
        metrics.reset()
        loss.reset()
        # For checkpoints and early stopping. The processes agree already, and the largest of equal values is exact.
        self.log_dict(values, logger=False, sync_dist=True, reduce_fx="max")
        if not (self.trainer.sanity_checking or self.is_calibrating):
            # A test belongs to the run, not to a step; of values at step 0 MLflow draws bars that compare runs.
            self._track(values, 0 if stage == "test" else self.trainer.global_step)
            if self.optim.schedule == "plateau" and self.trainer.state.fn == "fit":
                (schedule,) = self.trainer.lr_scheduler_configs
                schedule.scheduler.validated(float(values[self.monitor]))  # type: ignore[union-attr]

    def _track(self, values: Mapping[str, Any], step: int) -> None:
        if self.logger is not None:
            self.logger.log_metrics(dict(values), step=step)

    @property
    def recent_loss(self) -> float:
        """Mean training loss since the last logged step (right after it: up to it), of this process. Waits for it."""
        return float(self.window_loss) / self.window_targets if self.window_targets else float(self.logged_loss)

    def _close_loss_window(self) -> Tensor:
        window = self._loss_window()
        self.window_loss.zero_()
        self.window_targets = 0
        self.logged_loss = window[0] / window[1]
        return self.logged_loss

    def _loss_window(self) -> Tensor:
        """Sum of losses and number of targets since the last logged step, over all processes, [2]."""
        window = torch.stack([self.window_loss, self.window_loss.new_tensor(self.window_targets)])
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(window)
        return window


PLAIN_PARTS = ("task", "configuration", TaskModule.CHECKPOINT_HYPER_PARAMS_KEY)
"""Of a checkpoint: what names classes."""


def read_checkpoint(path: str | Path, map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """Read a checkpoint without running anything in it.

    Raises: ConfigError when the file is missing, damaged or not a task's checkpoint.
    """
    try:
        checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such checkpoint. Name a file, or runs:/RUN_ID.") from error
    except Exception as error:
        raise ConfigError(
            f"{path} is not a checkpoint that can be read ({type(error).__name__}). "
            f"Name one that `lightrail fit` wrote."
        ) from error
    if not isinstance(checkpoint, dict) or "task" not in checkpoint:
        raise ConfigError(f"{path} is not a checkpoint of a lightrail task. Name one that `lightrail fit` wrote.")
    # Not the weights: a plain copy would lose the versions that PyTorch keeps beside them.
    plain = {name: value for name, value in checkpoint.items() if name in PLAIN_PARTS}
    return {**checkpoint, **with_current_paths(plain)}
