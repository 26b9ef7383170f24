"""Number formats of weights and activations, under mixed precision and with half-precision weights."""

import logging
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from lightrail.project.basics.private_names import norms_with_statistics

log = logging.getLogger(__name__)


def at_least_float32(values: Tensor) -> Tensor:
    """Widen half-precision numbers to float32, which losses and probabilities need; float64 stays as it is."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


@torch.compiler.disable  # type: ignore[untyped-decorator]  # PyTorch compiles no LSTM
def run_lstm(lstm: nn.LSTM, states: Tensor) -> Tensor:
    """Run an LSTM in the format that autocast asks for where it is on, also on machines that lack it.

    Autocast hands the layer to oneDNN, which has a bfloat16 LSTM on processors with AVX-512 only and a float16 one on
    still fewer, and raises elsewhere (torch 2.13). There the layer computes in float32 and its states are rounded.

    Args:
        lstm: one that takes [B, T, D] and starts from zero states.
        states: [B, T, D].

    Returns: the states of all positions, [B, T, hidden size of the LSTM].
    """
    device = states.device.type
    if not torch.is_autocast_enabled(device) or has_autocast_lstm(device, torch.get_autocast_dtype(device)):
        found: Tensor = lstm(states)[0]
        return found
    with torch.autocast(device, enabled=False):
        exact: Tensor = lstm(states.float())[0]
    return exact.to(torch.get_autocast_dtype(device))


@cache
def has_autocast_lstm(device: str, dtype: torch.dtype) -> bool:
    """Return whether this machine trains an LSTM under autocast to that format, found out by trying once."""
    lstm = nn.LSTM(2, 2, device="meta").to_empty(device=device)  # drawing weights would change the random state
    try:
        with torch.enable_grad(), torch.autocast(device, dtype=dtype):
            lstm(torch.zeros(1, 1, 2, device=device))[0].sum().backward()
    except RuntimeError:
        name = str(dtype).removeprefix("torch.")
        log.info("LSTM layers compute in float32: this machine's %s has none in %s", device, name)
        return False
    return True


def on_parameters(module: nn.Module, function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return a function for all tensors of a module that changes the number format of parameters, and any device.

    Statistics of a batch norm take the format of its weights, without which PyTorch refuses them.
    """
    norms = norms_with_statistics()
    converted = {id(tensor) for own in module.parameters() for tensor in (own, own.grad)}
    converted |= {id(own) for part in module.modules() if isinstance(part, norms) for own in part.buffers()}

    def apply(tensor: Tensor) -> Tensor:
        changed = function(tensor)
        is_own = id(tensor) in converted or changed.dtype == tensor.dtype
        return changed if is_own else tensor.to(changed.device)

    return apply
