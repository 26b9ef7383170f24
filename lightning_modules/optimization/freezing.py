"""What is not trained: by name for the whole run, or layer by layer for a while."""

import re

from torch import nn
from torch.optim import Optimizer

from lightrail.project.basics.errors import ConfigError


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
    """Leave out of the next update the layers whose turn has not come: neither weights nor moments change.

    They keep taking gradients until here: DDP stops when a parameter gets none on one process.

    Args:
        step: optimizer steps done.
        steps_per_layer: how many after a layer the one below it begins to be trained.

    Source: J. Howard, S. Ruder (2018), "Universal Language Model Fine-tuning for Text Classification", section 3.3.
    """
    for group in optimizer.param_groups:
        if step < group["layers_above"] * steps_per_layer:
            for parameter in group["params"]:
                parameter.grad = None
