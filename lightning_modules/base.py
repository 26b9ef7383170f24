"""The base of every task: it owns the steps, the logging and the optimizer, and closes them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, final

import lightning.pytorch as pl
import pyarrow as pa
import torch
import torch.distributed
from lightning.fabric.utilities.data import AttributeDict
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torchmetrics import Metric

from lightrail.lightning_modules.arguments import facts_for, to_plain
from lightrail.lightning_modules.checkpoint import check_task, read_checkpoint, rebuild
from lightrail.lightning_modules.figures.figure import Figure, reliability
from lightrail.lightning_modules.heads.head import Head, head_for, own_head
from lightrail.lightning_modules.heads.joint import JointSplit, JointStep, joint_head
from lightrail.lightning_modules.metrics.evaluation import MeanLoss, ScoreSums
from lightrail.lightning_modules.metrics.loss_window import LossWindow
from lightrail.lightning_modules.metrics.scores import Columns, StoredScore
from lightrail.lightning_modules.networks.compiling import as_written, compile_networks
from lightrail.lightning_modules.networks.number_formats import on_parameters
from lightrail.lightning_modules.optimization import (
    OptimConfig,
    build_optimizer,
    build_schedule,
    clip_gradients,
    drop_frozen_gradients,
    freeze,
    gradient_values,
)
from lightrail.project.basics.logs import NO_LOGGER, without_warning

Batch = dict[str, Any]
Stage = Literal["val", "test"]
_TARGETS_PER_UNIT = 1024
"""Scale of the loss while gradients of several batches or processes add up; a power of two, so it rounds nothing."""


class TaskModule(pl.LightningModule, ABC):
    """Learns one task. Subclasses are final and write `forward`, `loss`, `decode` and `scores`.

    Where `self.head` is a `Head`, it does all of them but `forward`.

    The gradient of an optimizer step is that of the mean loss over its targets, however these are spread over
    micro-batches and processes. Evaluation counts each example once, and metrics are computed from sums.

    A task takes what it needs of its data as `FromData` arguments of its constructor.

    Args:
        optim: optimizer, schedule and freezing.
    """

    monitor: str
    """The metric that decides which checkpoint is the best, for example `val/accuracy`."""
    input_columns: ClassVar[tuple[str, ...]] = ()
    """Entries of a batch that are stored beside its predictions, such as `text`."""

    def __init__(self, optim: OptimConfig) -> None:
        super().__init__()
        self.optim = optim
        self._sums: dict[Stage, ScoreSums] = {}
        self.val_loss, self.test_loss = MeanLoss(), MeanLoss()
        self.num_targets = 0
        """Targets of the optimizer step in progress, of this process."""
        self.loss_window = LossWindow()
        self._joint_step, self._joint_split = JointStep(), JointSplit()
        self.late_columns: Mapping[str, Sequence[Any]] = {}
        """Columns of the predictions of an evaluation with a `JointHead`, once it is complete, of this process."""
        self.is_calibrating = False
        self.is_tracked = False
        """Whether a run of lightrail records the metrics, each at its step; else Lightning logs them."""
        self.tables: dict[str, Tensor] = {}
        """Values of the torchmetrics metrics that are attributes of the task and updated in `observe`, over all
        processes at the end of a test, by attribute name; `figures` draws from them."""

    @abstractmethod
    def forward(self, batch: Batch) -> Any:
        """Return the outputs that `loss`, `update` and `decode` share."""

    def loss(self, outputs: Any, batch: Batch) -> tuple[Tensor, int]:
        """Return the mean loss (0 without a target) and the number of targets it is a mean over."""
        return head_for(self, "loss").loss(outputs, batch)

    def decode(self, outputs: Any, batch: Batch) -> Mapping[str, Sequence[Any]]:
        """Return the columns of the stored predictions, a value per example.

        These are `prediction`, `score` (confidence in [0, 1]) and, where the batch has targets, `target`, `loss` (mean
        over the example's targets) and any other column that `scores` reads.
        """
        columns = {name: batch[name] for name in self.input_columns if name in batch}
        return {**columns, **head_for(self, "decode").decode(outputs, batch)}

    def scores(self) -> Mapping[str, StoredScore]:
        """Return every metric of a test by its name without `test/`, computed from the columns of `decode`."""
        return head_for(self, "scores").scores()

    def val_scores(self) -> Mapping[str, StoredScore]:
        """Return the metrics of `scores` that are also computed on the validation split."""
        return self.scores()

    def update(self, sums: ScoreSums, outputs: Any, batch: Batch) -> None:
        """Add a validation batch to the scores. Override it where `decode` computes much that no score reads."""
        sums.update(self.decode(outputs, batch))

    def observe(self, outputs: Any, batch: Batch) -> None:
        """Add a test batch to metrics that stored predictions cannot give; see `tables`."""

    def figures(self, columns: Columns, example: Callable[[int], Mapping[str, Any]]) -> Iterable[Figure]:
        """Yield the figures of a test; called on process zero.

        Args:
            columns: those of the stored predictions, [N] each.
            example: returns the encoded row of the test example with an `id`.
        """
        if head := own_head(self):
            yield from head.figures(columns)
        elif {"prediction", "score"} <= columns.keys():
            yield reliability(columns["score"], columns["prediction"], columns["target"])

    def calibration_rows(self, outputs: Any, batch: Batch) -> Sequence[Any]:
        """Return a value or CPU tensor for each example of a validation batch, for `calibrate` to be fitted on.

        It may not depend on what `calibrate` sets: an interrupted calibration is repeated. A task without rows is not
        calibrated.
        """
        return head.calibration_rows(outputs, batch) if (head := own_head(self)) else ()

    def calibrate(self, rows: list[Any]) -> Mapping[str, float]:
        """Fit buffers, such as a temperature, and return metrics to log. Called once, with the weights that are tested.

        `rows` are those of the whole validation split, in the order of the examples. Until then the buffers change
        nothing.
        """
        return head_for(self, "calibrate").calibrate(rows)

    def column_labels(self) -> Mapping[str, Sequence[str]]:
        """Return what the entries of a list stand for: name of a list column of `decode` to a label per entry."""
        return head.column_labels() if (head := own_head(self)) else {}

    def column_types(self) -> Mapping[str, pa.DataType]:
        """Return the stored types of those columns of `decode` whose values do not show them, such as lists."""
        return head.column_types() if (head := own_head(self)) else {}

    @final
    def can_be_calibrated(self) -> bool:
        """Whether the task, or its head, writes `calibration_rows`."""
        writer, head = type(self).calibration_rows, own_head(self)
        return writer is not TaskModule.calibration_rows or (
            head is not None and type(head).calibration_rows is not Head.calibration_rows
        )

    @final
    @classmethod
    def for_facts(cls, facts: Mapping[str, Any], **arguments: Any) -> Self:
        """Build a task with those `facts()` of data that it takes. Raises: ConfigError when the data lacks one."""
        return cls(**facts_for(cls, facts), **arguments)

    @final
    def data_facts(self) -> dict[str, Any]:
        """Return the facts of the data that the task was built with, by name."""
        return facts_for(type(self), self.hparams)

    @final
    @property
    def hparams_initial(self) -> AttributeDict:
        """The constructor's arguments as plain values, which every logger can write."""
        return AttributeDict(to_plain(dict(super().hparams_initial)))

    @final
    @property
    def monitor_mode(self) -> Literal["min", "max"]:
        """Return `min` where the smaller of two values of `monitor` is better, as its score states, else `max`."""
        name = self.monitor.removeprefix("val/")
        score = self.scores().get(name)
        return "min" if name == "loss" or (score is not None and not score.higher_is_better) else "max"

    @final
    def configure_model(self) -> None:
        """Freeze parameters and compile networks as the settings ask, before the optimizer is built."""
        freeze(self, self.optim.freeze)
        compile_networks(self.children())

    @final
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Change the number format of parameters only: in half precision, sums of metrics would be wrong after a few
        hundred batches, and calibrated values would differ from the tested ones.
        """
        super()._apply(on_parameters(self, fn), recurse)  # type: ignore[no-untyped-call]
        return self

    @final
    def on_train_start(self) -> None:
        """Move the sum of losses to the device; what an interrupted training left of a step does not count."""
        self.num_targets, self._joint_step = 0, JointStep()
        self.loss_window.to(self.device)

    @final
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the mean loss of a batch, weighted by its targets where a step sums over batches or processes."""
        mean, num_targets = self._step_loss(batch, batch_idx)
        self.num_targets += num_targets
        self.loss_window.add(mean, num_targets)
        return mean * self._weight(num_targets)

    @final
    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Scale the sum of gradients to the gradient of the mean over all targets of this step."""
        if self.optim.unfreeze_fraction:
            steps_per_layer = self.optim.unfreeze_fraction * self.trainer.estimated_stepping_batches
            drop_frozen_gradients(optimizer, self.trainer.global_step, steps_per_layer)
        if not self._is_alone():
            num_targets = torch.tensor(float(self.num_targets), device=self.device)
            if self.trainer.world_size > 1:
                torch.distributed.all_reduce(num_targets)
            # Lightning and DDP divided by the number of parts.
            num_parts = self.trainer.accumulate_grad_batches * self.trainer.world_size
            # One call for all: a loop starts a kernel for each parameter.
            torch._foreach_mul_(gradient_values(self), _TARGETS_PER_UNIT * num_parts / num_targets.clamp(min=1))
        self.num_targets = 0
        # Here rather than after the step: a checkpoint of this step then finds the window closed and the point logged.
        step, every = self.trainer.global_step + 1, self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and step % every == 0:
            rate = optimizer.param_groups[-1]["lr"]
            self._track({"train/loss": self.loss_window.close(), "train/learning_rate": rate}, step)

    @final
    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Show the mean loss since the last logged step on the progress bar of a plain Trainer."""
        if not self.is_tracked:
            self.log("train/loss", self.loss_window.mean(), prog_bar=True, logger=False)

    @final
    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by `clip_gradients` instead of Lightning's own clipping."""
        clip_gradients(self, gradient_clip_val, gradient_clip_algorithm)

    @final
    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Sequence[Any]] | None:
        """Add a batch to the validation metrics; while calibrating, return its ids and calibration rows."""
        outputs = self._evaluate("val", batch)
        if batch["is_filler"] or joint_head(self):
            return None
        self.update(self._score_sums("val"), outputs, batch)
        if not self.is_calibrating:
            return None
        return {"id": batch["id"], "row": self.calibration_rows(outputs, batch)}

    @final
    def on_validation_epoch_end(self) -> None:
        """Compute, log and reset the validation metrics."""
        self._log_evaluation("val")

    @final
    def test_step(self, batch: Batch, batch_idx: int) -> Mapping[str, Sequence[Any]]:
        """Add a test batch and return the columns of its predictions; {} for padding, or those are `late_columns`."""
        outputs = self._evaluate("test", batch)
        if batch["is_filler"] or joint_head(self):
            return {}
        columns = self.decode(outputs, batch)
        self._score_sums("test").update(columns)
        self.observe(outputs, batch)
        return {"id": batch["id"], **columns}

    @final
    def on_test_epoch_end(self) -> None:
        """Compute, log and reset the test metrics."""
        self._log_evaluation("test")

    @final
    def predict_step(self, batch: Batch, batch_idx: int) -> Mapping[str, Sequence[Any]]:
        """Return the columns of the predictions for a batch; {} for a padding batch."""
        if batch["is_filler"]:
            return {}
        with as_written(self.children()):
            return {"id": batch["id"], **self.decode(self(batch), batch)}

    @final
    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Return the optimizer and a schedule that advances with each optimizer step."""
        # A fused optimizer unscales float16 gradients itself, which is after clipping needs them.
        optimizer = build_optimizer(self, self.optim, is_fused=self.trainer.precision != "16-mixed")
        num_steps = self.trainer.estimated_stepping_batches
        schedule = build_schedule(optimizer, self.optim, num_steps, self.monitor_mode)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @final
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the task's class, its arguments as plain values, and the loss since the last logged step."""
        checkpoint["task"] = f"{type(self).__module__}.{type(self).__qualname__}"
        checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY] = to_plain(dict(self.hparams))
        checkpoint["loss_window"] = self.loss_window.state().tolist()

    @final
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the loss since the last logged step."""
        self.loss_window.restore(*checkpoint["loss_window"] if self.trainer.is_global_zero else (0.0, 0))

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
        """Rebuild a task from a checkpoint that was read already; `name` stands for its file in messages."""
        check_task(cls, checkpoint, name)
        return rebuild(cls, checkpoint, name)

    @final
    def validation_metrics(self) -> set[str]:
        """Return the names of the metrics that checkpoints and early stopping may monitor."""
        return {"val/loss", *(f"val/{name}" for name in self.val_scores())}

    def _is_alone(self) -> bool:
        """Whether an optimizer step takes its gradient from one batch on one process."""
        return self.trainer.accumulate_grad_batches == 1 and self.trainer.world_size == 1

    def _weight(self, num_targets: int) -> float:
        return 1.0 if self._is_alone() else num_targets / _TARGETS_PER_UNIT

    def _step_loss(self, batch: Batch, batch_idx: int) -> tuple[Tensor, int]:
        """Return the mean loss of a batch, or of this process's part of a step, and the number of its targets."""
        if joint := joint_head(self):
            return self._joint_step.loss(self, joint, batch, batch_idx, 1 / _TARGETS_PER_UNIT)
        mean, num_targets = self.loss(self(batch), batch)
        return mean, 0 if batch["is_filler"] else num_targets

    def _evaluate(self, stage: Stage, batch: Batch) -> Any:
        with as_written(self.children()):
            outputs = self(batch)
        if batch["is_filler"]:
            return outputs
        if joint := joint_head(self):
            self._joint_split.add(joint.rows(outputs, batch), batch, self.input_columns)
        else:
            mean, num_targets = self.loss(outputs, batch)
            (self.val_loss if stage == "val" else self.test_loss).update(mean, num_targets)
        return outputs

    def _score_sums(self, stage: Stage) -> ScoreSums:
        if stage not in self._sums:  # not in the constructor: scores depend on what the subclass's sets
            scores = self.val_scores() if stage == "val" else self.scores()
            self._sums[stage] = ScoreSums({name: own for name, own in scores.items() if name != "loss"})
        return self._sums[stage]

    def _log_evaluation(self, stage: Stage) -> None:
        loss, sums = (self.val_loss if stage == "val" else self.test_loss), self._score_sums(stage)
        if joint := joint_head(self):
            self.late_columns = self._joint_split.columns(joint)
            if losses := self.late_columns.get("loss"):
                sums.update(self.late_columns)
                loss.update(torch.tensor(losses, dtype=torch.float64).mean(), len(losses))
        values = {f"{stage}/loss": loss.compute()}
        for name, own in sums.compute().items():
            # On the device, to which Lightning (2.6) moves no logged tensor: NCCL reduces none on the CPU.
            values[f"{stage}/{name}"] = torch.tensor(own, dtype=torch.float64, device=self.device)
        sums.reset()
        loss.reset()
        if stage == "test":
            for name, part in self.named_children():
                if isinstance(part, Metric) and name not in ("val_loss", "test_loss"):
                    self.tables[name] = part.compute().cpu()
                    part.reset()
        # For checkpoints and early stopping. The processes agree already, and the largest of equal values is exact.
        with without_warning(NO_LOGGER):  # what is for loggers is returned without one too
            self.log_dict(values, logger=not self.is_tracked, sync_dist=True, reduce_fx="max")
        if not (self.trainer.sanity_checking or self.is_calibrating):
            if self.is_tracked:  # a test at step 0: of such values MLflow draws bars that compare runs
                self._track(values, 0 if stage == "test" else self.trainer.global_step)
            if self.optim.follows_metric and self.trainer.state.fn == "fit":
                (schedule,) = self.trainer.lr_scheduler_configs
                schedule.scheduler.validated(float(values[self.monitor]))  # type: ignore[union-attr]

    def _track(self, values: Mapping[str, Any], step: int) -> None:
        for own in self.loggers:
            own.log_metrics(dict(values), step=step)

    @property
    def recent_loss(self) -> float:
        """Mean training loss of this process since the last logged step (just after it: up to it), in nats."""
        return float(self.loss_window.mean())
