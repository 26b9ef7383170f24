"""The settings of optimizer, schedule and freezing."""

import math
from dataclasses import dataclass, field
from typing import Literal

from lightrail.lightning_modules.optimization.classes import OptimizerClass, ScheduleClass
from lightrail.project.basics.annotations import (
    NaturalInt,
    NotNegative,
    Positive,
    Ranged,
    Share,
    ShareAboveZero,
    ShareBelowOne,
    ShareBetween,
)
from lightrail.project.basics.errors import ConfigError

ScheduleName = Literal["cosine", "linear", "constant", "plateau"]


@dataclass(frozen=True, kw_only=True)
class OptimConfig(Ranged):
    """Optimizer, learning-rate schedule, decay and freezing of a task."""

    optimizer: Literal["adamw", "sgd"] | OptimizerClass = "adamw"
    """adamw: fused, betas (0.9, `beta2`). sgd: momentum 0.9. Or a class of torch.optim, such as `torch.optim.NAdam`,
    with its further arguments. `torch.optim.Muon` updates matrices, and adamw all else."""
    lr: Positive = 5e-5
    """Peak learning rate, reached when warm-up ends."""
    table_lr: Positive = 0.05
    """Peak learning rate of large tables of hashed n-grams, of which a step changes only the rows that it reads, by
    Adagrad: the change of a row becomes smaller the more it was changed before. Other parameters learn at `lr`."""
    layer_decay: ShareAboveZero = 1.0
    """Learning rate of an encoder layer as a fraction of that of the layer above it, in (0, 1]. The head learns at
    `lr`, the embeddings at `lr` x `layer_decay` ** (layers + 1)."""
    weight_decay: NotNegative = 0.01
    """Decoupled for adamw, and as its class says for others. Norms, biases and embeddings get none."""
    l1: NotNegative = 0.0
    """Each step moves weights, those with decay, towards 0 by learning rate x `l1`, and not past it. A step of adamw is
    about the learning rate itself: with 1 nothing is left."""
    beta2: ShareBetween = 0.98
    """Decay of adamw's second moment, in (0, 1)."""
    schedule: ScheduleName | ScheduleClass = "linear"
    """Shape after warm-up: cosine or linear, down to `final_fraction` by the last step; constant; plateau, which is
    constant until the metric that decides which checkpoint is the best stops getting better. Or a class of
    torch.optim.lr_scheduler, which counts optimizer steps from the end of warm-up (ReduceLROnPlateau: validations)."""
    warmup_fraction: ShareBelowOne = 0.06
    """Fraction of all optimizer steps spent warming up, in [0, 1). 0 starts at the peak."""
    final_fraction: Share = 0.0
    """Learning rate at the last step as a fraction of the peak, in [0, 1]; with plateau the least that it falls to."""
    plateau_factor: ShareBetween = 0.5
    """Factor by which a plateau lowers the learning rate, in (0, 1)."""
    plateau_patience: NaturalInt = 2
    """Validations without a better metric before the one that lowers the rate, at least 0."""
    freeze: list[str] = field(default_factory=list)
    """Regular expressions; a parameter whose name one of them matches from its start is not trained."""
    unfreeze_fraction: ShareBelowOne = 0.0
    """Fraction of all optimizer steps after which the next layer begins to be trained, from the head down to the
    embeddings, in [0, 1). 0: all are trained from the start."""

    @property
    def follows_metric(self) -> bool:
        """Whether the schedule advances by the metrics of validations."""
        if isinstance(self.schedule, ScheduleClass):
            return self.schedule.follows_metric
        return self.schedule == "plateau"

    def check_end(self, num_steps: float) -> None:
        """Check that no setting counts towards an unknown end, `num_steps` being infinite. Raises: ConfigError."""
        if math.isfinite(num_steps):
            return
        is_to_end = isinstance(self.schedule, ScheduleClass) and self.schedule.counts_to_end
        if self.schedule in ("cosine", "linear") or is_to_end or self.warmup_fraction:
            raise ConfigError(
                "the learning-rate schedule needs the number of steps. Set trainer.max_steps or trainer.max_epochs, "
                "or model.optim.schedule=constant (or plateau) with warmup_fraction=0."
            )
        if self.unfreeze_fraction:
            raise ConfigError(
                f"model.optim.unfreeze_fraction={self.unfreeze_fraction} is a fraction of all steps, whose number is "
                "not known. Set trainer.max_steps or trainer.max_epochs, or leave it at 0."
            )

    def check_validation(self, share: float) -> None:
        """Check that a plateau has validations: their `share`, or number, is not 0. Raises: ConfigError."""
        if self.follows_metric and not share:
            name = self.schedule.name if isinstance(self.schedule, ScheduleClass) else self.schedule
            raise ConfigError(
                f"model.optim.schedule={name} lowers the learning rate by what validations find, and "
                "trainer.limit_val_batches is 0. Leave that out, or choose another schedule."
            )
