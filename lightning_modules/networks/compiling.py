"""Compilation of the networks whose settings ask for it."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from lightrail.lightning_modules.networks.token_network import TokenNetwork
from lightrail.project.basics.private_names import is_compiled


def compile_networks(parts: Iterable[nn.Module]) -> None:
    """Compile in place the networks whose settings ask for it; names of weights stay as they are."""
    for network in filter(_is_compiled, parts):
        if not is_compiled(network):
            network.compile()


def as_written(parts: Iterable[nn.Module]) -> AbstractContextManager[object]:
    """Return a context in which compiled networks run uncompiled."""
    return torch.compiler.set_stance("force_eager") if any(map(_is_compiled, parts)) else nullcontext()


def _is_compiled(part: nn.Module) -> bool:
    return isinstance(part, TokenNetwork) and part.config.is_compiled
