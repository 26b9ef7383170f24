"""Keeping a single batch from throwing the weights far off."""

import torch
from torch import nn


def clip_gradients(module: nn.Module, limit: float | None, algorithm: str | None) -> None:
    """Clip in place by total norm, or by value. Lightning's own clipping refuses fused optimizers under autocast."""
    if limit:
        parameters = [parameter for parameter in module.parameters() if parameter.grad is not None]
        if algorithm == "value":
            torch.nn.utils.clip_grad_value_(parameters, limit)
        else:
            torch.nn.utils.clip_grad_norm_(parameters, limit)
