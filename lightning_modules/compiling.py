"""torch.compile for training; an evaluation runs as it is written, so that it needs no compilation of its own."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from lightrail.lightning_modules.networks.decoders.decoder import Decoder
from lightrail.lightning_modules.networks.encoders.encoder import Encoder


def compile_networks(parts: Iterable[nn.Module]) -> None:
    """Have those networks compiled whose settings ask for it; names of weights stay as they are."""
    for network in filter(_is_compiled, parts):
        if network._compiled_call_impl is None:
            network.compile()


def as_written(parts: Iterable[nn.Module]) -> AbstractContextManager[object]:
    """A context in which nothing that was compiled is used."""
    return torch.compiler.set_stance("force_eager") if any(map(_is_compiled, parts)) else nullcontext()


def _is_compiled(part: nn.Module) -> bool:
    return isinstance(part, Encoder | Decoder) and part.config.is_compiled
