"""The optimizer and how its settings differ from parameter to parameter: groups, freezing, clipping, new settings."""

import re
from collections import defaultdict
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from lightrail.lightning_modules.optimization.config import OptimConfig
from lightrail.lightning_modules.optimization.layers import layer_numbers
from lightrail.lightning_modules.optimization.schedules import Schedule
from lightrail.project.basics.errors import ConfigError


def build_optimizer(module: nn.Module, config: OptimConfig, *, is_fused: bool = True) -> Optimizer:
    """Build the optimizer over the parameters that are trained."""
    groups = parameter_groups(module, config)
    optimizer: Optimizer
    if config.optimizer == "sgd":
        optimizer = SGD(groups, lr=config.lr, momentum=0.9, fused=is_fused)
    else:
        optimizer = AdamW(groups, lr=config.lr, betas=(0.9, config.beta2), fused=is_fused)
    if config.l1:
        optimizer.register_step_post_hook(lambda stepped, *_: shrink(stepped))
    return optimizer


def parameter_groups(module: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """Group the parameters that are trained by layer, the head last, and by whether they decay; only matrices do.

    Beside torch's keys a group has `l1`, and `layers_above`, the number of trained layers above it.

    Raises: ConfigError when layers are to be told apart and cannot be, or some would never be trained.
    """
    is_layered = config.layer_decay != 1 or config.unfreeze_fraction > 0
    layers = layer_numbers(module) if is_layered else {}
    head = max(layers.values(), default=0)
    tables = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    members: dict[tuple[int, bool], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            is_decayed = parameter.ndim >= 2 and id(parameter) not in tables
            members[layers.get(name, 0), not is_decayed].append(parameter)
    trained = sorted({layer for layer, _ in members}, reverse=True)
    _check_unfreezing(config.unfreeze_fraction, len(trained))
    return [
        {
            "params": members[layer, is_exempt],
            "lr": config.lr * config.layer_decay ** (head - layer),
            "weight_decay": 0.0 if is_exempt else config.weight_decay,
            "l1": 0.0 if is_exempt else config.l1,
            "layers_above": trained.index(layer),
        }
        for layer, is_exempt in sorted(members)
    ]


def _check_unfreezing(fraction: float, num_layers: int) -> None:
    if fraction * (num_layers - 1) >= 1:
        raise ConfigError(
            f"model.optim.unfreeze_fraction is {fraction}: the lowest of {num_layers} layers (embeddings and head "
            f"among them) would be reached after {fraction * (num_layers - 1):.2f} of the run. "
            f"Give less than 1/{num_layers - 1}, or name layers in model.optim.freeze."
        )


@torch.no_grad()
def shrink(optimizer: Optimizer) -> None:
    """Move the weights that were just updated towards 0 by learning rate x `l1`; what would cross 0 becomes 0.

    Like AdamW's weight decay this is kept out of the gradient, whose sign would only make weights jump around 0.

    Source: J. Duchi, Y. Singer (2009), "Efficient Online and Batch Learning Using Forward Backward Splitting",
    section 5.1.
    """
    for group in optimizer.param_groups:
        if group["l1"]:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.copy_(F.softshrink(parameter, group["lr"] * group["l1"]))


def clip_gradients(module: nn.Module, limit: float | None, algorithm: str | None) -> None:
    """Clip in place by total norm or by value; Lightning's own (2.6) refuses fused optimizers under autocast."""
    if limit:
        parameters = [parameter for parameter in module.parameters() if parameter.grad is not None]
        if algorithm == "value":
            torch.nn.utils.clip_grad_value_(parameters, limit)
        else:
            torch.nn.utils.clip_grad_norm_(parameters, limit)


def apply_settings(module: nn.Module, config: OptimConfig, optimizer: Optimizer, schedule: Schedule) -> None:
    """Replace a restored optimizer's and schedule's settings, which come from the checkpoint, by those of `config`.

    The schedule keeps its step and continues from there along the curve of its own settings.
    """
    for restored, wanted in zip(optimizer.param_groups, build_optimizer(module, config).param_groups, strict=True):
        # `fused` depends on the precision, not on these settings.
        restored.update({name: value for name, value in wanted.items() if name not in ("params", "fused")})
    schedule.base_lrs = [group["lr"] for group in optimizer.param_groups]
    for group, peak in zip(optimizer.param_groups, schedule.base_lrs, strict=True):
        group["initial_lr"] = peak
    schedule.set_rates()


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


def drop_frozen_gradients(optimizer: Optimizer, step: int, steps_per_layer: float) -> None:
    """Drop the gradients of layers that are not trained yet: neither weights nor moments change.

    They keep taking gradients until here: DDP stops when a parameter gets none on one process.

    Args:
        step: optimizer steps done.
        steps_per_layer: optimizer steps from the start of a layer's training to that of the layer below.

    Source: J. Howard, S. Ruder (2018), "Universal Language Model Fine-tuning for Text Classification", section 3.3.
    """
    for group in optimizer.param_groups:
        if step < group["layers_above"] * steps_per_layer:
            for parameter in group["params"]:
                parameter.grad = None
