"""What says which token comes next, whichever network does it.

Shapes: B rows, T positions, N kept positions, V tokens.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

from lightrail.lightning_modules.networks.decoders.documents import document_positions
from lightrail.project.basics.annotations import Ranged
from lightrail.project.basics.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Decoder(nn.Module, ABC):
    """A network in which a position sees itself and what comes before it."""

    config: "DecoderConfig"
    """Settings that build this network again; a checkpoint then brings the weights."""
    num_tokens: int
    """V, what a tokenizer may number."""
    max_length: int | None
    """Most positions of a document, None where the network can number any."""

    @abstractmethod
    def forward(
        self,
        input_ids: Tensor,
        document_ids: Tensor | None = None,
        *,
        keep: Tensor | None = None,
        cache: Any = None,
    ) -> Tensor:
        """Give the scores of each token as the next one.

        Args:
            input_ids: token numbers, [B, T]. Padding comes last and needs no mask: no token sees what follows it.
            document_ids: where a row holds several documents, the number of each position's document, [B, T]; equal
                numbers stand side by side. No position sees another document, and each document begins at position 0:
                the scores are those that it gets alone. None: a row is one document.
            keep: positions whose scores are wanted, [B, T]. None: all.
            cache: what `start_cache` gave, which then holds the positions so far: `input_ids` goes on behind them. A
                row is one document then.

        Returns: logits, [B, T, V], or [N, V] for kept positions, row by row.
        """

    @abstractmethod
    def start_cache(self) -> Any:
        """Give an empty cache of keys and values; `forward` fills it."""

    @abstractmethod
    def to_transformers(self) -> "PreTrainedModel":
        """Give the same network as a plain causal language model of transformers, with weights of its own and the
        same scores. This one stays as it is.
        """

    def check_length(self, input_ids: Tensor, document_ids: Tensor | None, num_read: int) -> None:
        """Refuse more positions than the network can number; `num_read` of a row were read before.

        Raises: ConfigError naming both numbers.
        """
        length = num_read + input_ids.shape[1]
        if self.max_length is None or length <= self.max_length:
            return
        if document_ids is not None:
            length = int(document_positions(document_ids).max()) + 1
        if length > self.max_length:
            raise ConfigError(
                f"a text of {length} tokens was given to a network that reads {self.max_length} "
                f"(max_length of {type(self.config).__name__}). Cut the data into shorter blocks, ask for fewer "
                "tokens, or build a network that reads more."
            )


@dataclass(frozen=True, kw_only=True)
class DecoderConfig(Ranged, ABC):
    """Which decoder, and its size."""

    is_compiled: bool = False
    """Train with torch.compile, which needs a C++ compiler on a CPU: steps are faster after half a minute or more of
    compiling, and losses differ in their last digits. An evaluation is not compiled."""

    @abstractmethod
    def build(self, num_tokens: int) -> Decoder:
        """Make the network for the tokens 0 to `num_tokens` - 1.

        Raises: ConfigError when a setting is out of range or names what cannot be read.
        """


class TokenCache:
    """The tokens read so far, for networks that give no keys and values: everything is computed again from these."""

    def __init__(self) -> None:
        self.input_ids: Tensor | None = None

    def extend(self, input_ids: Tensor) -> Tensor:
        """Add the newest tokens, [B, T], and give all, [B, S]."""
        self.input_ids = input_ids if self.input_ids is None else torch.cat([self.input_ids, input_ids], dim=1)
        return self.input_ids


def filled(model: "PreTrainedModel", weights: dict[str, Tensor], decoder: Decoder) -> "PreTrainedModel":
    """A network of transformers with the weights of ours, ready to answer on the same device."""
    model.load_state_dict(weights)
    return model.to(next(decoder.parameters()).device).eval()
