"""Optimizer, learning-rate schedule and freezing: the settings every task shares."""

import math
import re
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from project.errors import ConfigError

ScheduleName = Literal["cosine", "linear", "constant"]


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How weights are updated."""

    optimizer: Literal["adamw", "sgd"] = "adamw"
    """adamw: fused, betas (0.9, `beta2`). sgd: momentum 0.9."""
    lr: float = 5e-5
    """Peak learning rate, reached when warm-up ends."""
    weight_decay: float = 0.01
    """Decoupled for adamw. Norms, biases and embeddings get none."""
    beta2: float = 0.98
    """Decay of adamw's second moment, in (0, 1)."""
    schedule: ScheduleName = "linear"
    """Shape after warm-up: down to `final_fraction` by the last step, or constant."""
    warmup_fraction: float = 0.06
    """Share of all optimizer steps spent warming up, in [0, 1). 0 starts at the peak."""
    final_fraction: float = 0.0
    """Learning rate at the last step as a share of the peak, in [0, 1]."""
    freeze: list[str] = field(default_factory=list)
    """Regular expressions; a parameter whose name one of them matches from its start is not trained."""

    def check(self) -> None:
        """Raises: ConfigError naming the setting that is out of range."""
        for name, is_valid, valid in (
            ("lr", self.lr > 0, "a number above 0"),
            ("weight_decay", self.weight_decay >= 0, "a number of at least 0"),
            ("beta2", 0 < self.beta2 < 1, "a number between 0 and 1"),
            ("warmup_fraction", 0 <= self.warmup_fraction < 1, "a number in [0, 1)"),
            ("final_fraction", 0 <= self.final_fraction <= 1, "a number in [0, 1]"),
        ):
            if not is_valid:
                raise ConfigError(f"model.optim.{name} is {getattr(self, name)}. Give {valid}.")

    def check_end(self, num_steps: float) -> None:
        """Raises: ConfigError when the schedule falls towards an end that is not known, `num_steps` being infinite."""
        if math.isinf(num_steps) and (self.schedule != "constant" or self.warmup_fraction):
            raise ConfigError(
                "the learning-rate schedule needs the number of steps. Set trainer.max_steps or trainer.max_epochs, "
                "or model.optim.schedule=constant with warmup_fraction=0."
            )


def schedule_factor(step: int, *, num_steps: int, warmup: int, name: ScheduleName, final: float = 0.0) -> float:
    """Give the learning rate of a step as a share of the peak.

    Args:
        step: optimizer steps done, from 0.
        num_steps: optimizer steps of the whole run.
        warmup: steps of linear warm-up.

    >>> [schedule_factor(step, num_steps=6, warmup=2, name="linear") for step in range(7)]
    [0.0, 0.5, 1.0, 0.75, 0.5, 0.25, 0.0]
    """
    if step < warmup:
        return step / warmup
    if name == "constant":
        return 1.0
    progress = min(1.0, (step - warmup) / max(1, num_steps - warmup))
    remaining = 1 - progress if name == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return final + (1 - final) * remaining


def freeze(module: nn.Module, patterns: list[str]) -> None:
    """Exclude parameters from training by name.

    Raises: ConfigError when a pattern is broken, matches nothing, or when nothing is left to train.
    """
    names = [name for name, _ in module.named_parameters()]
    for pattern in patterns:
        try:
            matches = [name for name in names if re.match(pattern, name)]
        except re.error as error:
            raise ConfigError(f"model.optim.freeze: {pattern!r} is not a regular expression: {error}.") from error
        if not matches:
            raise ConfigError(f"model.optim.freeze: {pattern!r} matches no parameter. Names begin like {names[:5]}.")
        for name in matches:
            module.get_parameter(name).requires_grad_(False)
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise ConfigError("model.optim.freeze leaves no parameter to train. Drop a pattern.")


def build_optimizer(module: nn.Module, config: OptimConfig, *, is_fused: bool = True) -> Optimizer:
    """Make the optimizer over the parameters that are trained; matrices decay, all else does not."""
    embeddings = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    is_decayed = [parameter.ndim >= 2 and id(parameter) not in embeddings for parameter in trained]
    groups = [
        {
            "params": [parameter for parameter, decays in zip(trained, is_decayed, strict=True) if decays is wanted],
            "weight_decay": config.weight_decay if wanted else 0.0,
        }
        for wanted in (True, False)
    ]
    groups = [group for group in groups if group["params"]]
    if config.optimizer == "sgd":
        return SGD(groups, lr=config.lr, momentum=0.9, fused=is_fused)
    return AdamW(groups, lr=config.lr, betas=(0.9, config.beta2), fused=is_fused)


def build_schedule(optimizer: Optimizer, config: OptimConfig, num_steps: float) -> LambdaLR:
    """Make the schedule that Lightning advances after each optimizer step.

    Raises: ConfigError when a falling schedule has no known end.
    """
    config.check_end(num_steps)
    steps = 0 if math.isinf(num_steps) else int(num_steps)
    warmup = math.ceil(config.warmup_fraction * steps)
    return LambdaLR(
        optimizer,
        lambda step: schedule_factor(
            step, num_steps=steps, warmup=warmup, name=config.schedule, final=config.final_fraction
        ),
    )


def apply_settings(module: nn.Module, config: OptimConfig, optimizer: Optimizer, schedule: LambdaLR) -> None:
    """Give a restored optimizer and its schedule the settings of `config`, which a checkpoint's would hide.

    The schedule stays at its step and goes on from there along the curve of its own settings.
    """
    for restored, wanted in zip(optimizer.param_groups, build_optimizer(module, config).param_groups, strict=True):
        restored.update({name: value for name, value in wanted.items() if name not in ("params", "fused")})
    schedule.base_lrs = [group["lr"] for group in optimizer.param_groups]
    for group, peak, factor in zip(optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
        group["initial_lr"], group["lr"] = peak, peak * factor(schedule.last_epoch)


def clip_gradients(module: nn.Module, limit: float | None, algorithm: str | None) -> None:
    """Clip in place by total norm, or by value. Lightning's own clipping refuses fused optimizers under autocast."""
    if limit:
        parameters = [parameter for parameter in module.parameters() if parameter.grad is not None]
        if algorithm == "value":
            torch.nn.utils.clip_grad_value_(parameters, limit)
        else:
            torch.nn.utils.clip_grad_norm_(parameters, limit)
