"""What turns token numbers into vectors, whichever network does it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from lightrail.project.basics.annotations import Ranged

PADDING, UNKNOWN = 0, 1
FIRST_TOKEN = 2
"""Number of the first token of a vocabulary, after padding and unknown."""


class Encoder(nn.Module, ABC):
    """A network that gives each position a vector."""

    width: int
    """Size D of the vectors."""
    config: "EncoderConfig"
    """Settings that build this network again; a checkpoint then brings the weights."""

    @abstractmethod
    def forward(self, input_ids: Tensor, is_token: Tensor, segment_ids: Tensor | None = None) -> Tensor:
        """Encode.

        Args:
            input_ids: token numbers, [B, T]; padding is 0 unless a tokenizer says otherwise.
            is_token: False at padding, which comes last, [B, T].
            segment_ids: 0 in the first text of a pair and 1 in the second, [B, T]; networks from scratch see the token
                that separates the two instead.

        Returns: [B, T, D]; rows of padding hold nothing of use.
        """


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(Ranged, ABC):
    """Which encoder, and its size."""

    is_compiled: bool = False
    """Train with torch.compile, which needs a C++ compiler on a CPU: steps are faster after half a minute or more of
    compiling, and losses differ in their last digits. An evaluation is not compiled."""

    @abstractmethod
    def build(self, vocabulary: Sequence[str]) -> Encoder:
        """Make the network for the tokens of a vocabulary, numbered from `FIRST_TOKEN`.

        Raises: ConfigError when settings do not go together or name what cannot be read.
        """
