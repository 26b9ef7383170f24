"""The interface of decoders: networks that score the next token.

Shapes: B rows, T positions, N kept positions, V tokens.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightrail.lightning_modules.networks.token_network import TokenNetwork
from lightrail.project.basics.annotations import Ranged

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Decoder(TokenNetwork):
    """A network in which a position sees itself and the positions before it."""

    config: "DecoderConfig"
    """Settings that rebuild this network; a checkpoint then provides the weights."""
    num_tokens: int
    """V, the number of tokens that a tokenizer may have."""
    shorter = "Cut the data into shorter blocks (data.blocks.length), ask for fewer tokens, or choose another network."

    @abstractmethod
    def forward(
        self,
        input_ids: Tensor,
        document_ids: Tensor | None = None,
        *,
        keep: Tensor | None = None,
        cache: Any = None,
    ) -> Tensor:
        """Return the scores of each token as the next one.

        Args:
            input_ids: token ids, [B, T]. Padding comes last and needs no mask: no token sees what follows it.
            document_ids: where a row holds several documents, the number of each position's document, [B, T]; equal
                numbers stand side by side. No position sees another document, and each document begins at position 0:
                the scores are those that it gets alone. None: a row is one document.
            keep: positions whose scores are returned, [B, T] bool. None: all.
            cache: the result of `start_cache`: it holds the positions so far, which `input_ids` continues. A row is one
                document then.

        Returns: logits, [B, T, V], or [N, V] for kept positions, row by row.
        """

    @abstractmethod
    def start_cache(self) -> Any:
        """Return an empty cache of keys and values; `forward` fills it."""

    @abstractmethod
    def to_transformers(self) -> "PreTrainedModel":
        """Return the same network as a causal language model of transformers, with a copy of the weights."""


@dataclass(frozen=True, kw_only=True)
class DecoderConfig(Ranged, ABC):
    """The network that scores the next token, and its size."""

    is_compiled: bool = False
    """Train with torch.compile, which needs a C++ compiler on a CPU: steps are faster after half a minute or more of
    compiling, and losses differ in their last digits. An evaluation is not compiled."""

    @abstractmethod
    def build(self, num_tokens: int) -> Decoder:
        """Build the network for the token ids 0 to `num_tokens` - 1.

        Raises: ConfigError when a setting is out of range or names what cannot be read.
        """


class TokenCache:
    """The tokens read so far, for networks without keys and values: everything is computed again from these."""

    def __init__(self) -> None:
        self.input_ids: Tensor | None = None

    def extend(self, input_ids: Tensor) -> Tensor:
        """Append the newest tokens, [B, T], and return all, [B, S]."""
        self.input_ids = input_ids if self.input_ids is None else torch.cat([self.input_ids, input_ids], dim=1)
        return self.input_ids


def filled(model: "PreTrainedModel", weights: dict[str, Tensor], decoder: Decoder) -> "PreTrainedModel":
    """Return a network of transformers with the weights of ours, in evaluation mode on the same device."""
    model.load_state_dict(weights)
    return model.to(next(decoder.parameters()).device).eval()
