"""The settings of optimizer, schedule and freezing."""

import math
from dataclasses import dataclass, field
from typing import Literal

from lightrail.project.basics.errors import ConfigError

ScheduleName = Literal["cosine", "linear", "constant", "plateau"]


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How weights are updated."""

    optimizer: Literal["adamw", "sgd"] = "adamw"
    """adamw: fused, betas (0.9, `beta2`). sgd: momentum 0.9."""
    lr: float = 5e-5
    """Peak learning rate, reached when warm-up ends."""
    layer_decay: float = 1.0
    """Learning rate of an encoder layer as a share of that of the layer above it, in (0, 1]. The head learns at `lr`,
    the embeddings at `lr` x `layer_decay` ** (layers + 1)."""
    weight_decay: float = 0.01
    """Decoupled for adamw. Norms, biases and embeddings get none."""
    l1: float = 0.0
    """Each step moves weights, those with decay, towards 0 by learning rate x `l1`, and not past it. A step of adamw is
    about the learning rate itself: with 1 nothing is left."""
    beta2: float = 0.98
    """Decay of adamw's second moment, in (0, 1)."""
    schedule: ScheduleName = "linear"
    """Shape after warm-up: cosine or linear, down to `final_fraction` by the last step; constant; plateau, which is
    constant until the metric that decides which checkpoint is the best stops getting better."""
    warmup_fraction: float = 0.06
    """Share of all optimizer steps spent warming up, in [0, 1). 0 starts at the peak."""
    final_fraction: float = 0.0
    """Learning rate at the last step as a share of the peak, in [0, 1]; with plateau the least that it falls to."""
    plateau_factor: float = 0.5
    """What a plateau multiplies the learning rate by, in (0, 1)."""
    plateau_patience: int = 2
    """Validations without a better metric that a plateau forgives; the next one lowers the rate."""
    freeze: list[str] = field(default_factory=list)
    """Regular expressions; a parameter whose name one of them matches from its start is not trained."""
    unfreeze_fraction: float = 0.0
    """Share of all optimizer steps after which the next layer begins to be trained, from the head down to the
    embeddings, in [0, 1). 0: all are trained from the start."""

    def check(self) -> None:
        """Raises: ConfigError naming the setting that is out of range."""
        for name, is_valid, valid in (
            ("lr", self.lr > 0, "a number above 0"),
            ("layer_decay", 0 < self.layer_decay <= 1, "a number in (0, 1]"),
            ("weight_decay", self.weight_decay >= 0, "a number of at least 0"),
            ("l1", self.l1 >= 0, "a number of at least 0"),
            ("beta2", 0 < self.beta2 < 1, "a number between 0 and 1"),
            ("warmup_fraction", 0 <= self.warmup_fraction < 1, "a number in [0, 1)"),
            ("final_fraction", 0 <= self.final_fraction <= 1, "a number in [0, 1]"),
            ("plateau_factor", 0 < self.plateau_factor < 1, "a number between 0 and 1"),
            ("plateau_patience", self.plateau_patience >= 0, "a number of at least 0"),
            ("unfreeze_fraction", 0 <= self.unfreeze_fraction < 1, "a number in [0, 1)"),
        ):
            if not is_valid:
                raise ConfigError(f"model.optim.{name} is {getattr(self, name)}. Give {valid}.")

    def check_end(self, num_steps: float) -> None:
        """Raises: ConfigError when a setting counts towards an end that is not known, `num_steps` being infinite."""
        if math.isfinite(num_steps):
            return
        if self.schedule in ("cosine", "linear") or self.warmup_fraction:
            raise ConfigError(
                "the learning-rate schedule needs the number of steps. Set trainer.max_steps or trainer.max_epochs, "
                "or model.optim.schedule=constant (or plateau) with warmup_fraction=0."
            )
        if self.unfreeze_fraction:
            raise ConfigError(
                f"model.optim.unfreeze_fraction={self.unfreeze_fraction} is a share of all steps, and their number is "
                "not known. Set trainer.max_steps or trainer.max_epochs, or leave it at 0."
            )

    def check_validation(self, share: float) -> None:
        """Raises: ConfigError when a plateau waits for validations and `share`, or number, of their batches is 0."""
        if self.schedule == "plateau" and not share:
            raise ConfigError(
                "model.optim.schedule=plateau lowers the learning rate by what validations find, and "
                "trainer.limit_val_batches is 0. Leave that out, or choose another schedule."
            )
