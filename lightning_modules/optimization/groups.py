"""The optimizer, and how its settings differ from parameter to parameter."""

from collections import defaultdict
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from lightrail.lightning_modules.optimization.config import OptimConfig
from lightrail.lightning_modules.optimization.layers import layer_numbers
from lightrail.project.basics.errors import ConfigError


def build_optimizer(module: nn.Module, config: OptimConfig, *, is_fused: bool = True) -> Optimizer:
    """Make the optimizer over the parameters that are trained."""
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
    """Sort the parameters that are trained by layer, the head last, and by whether they decay; only matrices do.

    A group says besides what torch reads its `l1`, and how many trained layers are above it.

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
