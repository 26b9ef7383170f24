"""torch.compile for training; an evaluation runs as it is written, so that it needs no compilation of its own."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from lightning_modules.networks.decoder import Decoder
from lightning_modules.networks.encoder import Encoder


def compile_networks(module: nn.Module) -> None:
    """Have the networks of a task compiled whose settings ask for it; names of weights stay as they are."""
    for network in _compiled(module):
        if network._compiled_call_impl is None:
            network.compile()


def as_written(module: nn.Module) -> AbstractContextManager[object]:
    """A context in which nothing that was compiled is used."""
    return torch.compiler.set_stance("force_eager") if _compiled(module) else nullcontext()


def _compiled(module: nn.Module) -> list[nn.Module]:
    return [own for own in module.children() if isinstance(own, Encoder | Decoder) and own.config.is_compiled]
