"""A convolutional network from scratch, with the input that all networks from scratch share.

Shapes: B examples, T positions, E width of the embedded tokens, F filters of a width, D filters in all.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import MinLen
from torch import Tensor, nn

from lightrail.lightning_modules.networks.encoders.embedding import FromScratchConfig, TokenEmbedding
from lightrail.lightning_modules.networks.encoders.encoder import Encoder, Spelling
from lightrail.project.basics.annotations import PositiveInt


@dataclass(frozen=True, kw_only=True)
class TextCnnConfig(FromScratchConfig):
    """A convolutional network trained from scratch; with the pooling `max` it is the TextCNN."""

    width: PositiveInt = 192
    """Size of an embedded token, which is what the filters read."""
    filter_widths: Annotated[list[PositiveInt], MinLen(1)] = field(default_factory=lambda: [3, 4, 5])
    """Number of neighbouring tokens that a filter reads, one for each group of filters; at least 1 each."""
    num_filters: PositiveInt = 100
    """Filters of each width, at least 1."""

    def build(self, vocabulary: Sequence[str], alphabet: Sequence[str] | None = None) -> "TextCnnEncoder":
        """Build the network for the tokens of a vocabulary; see `EncoderConfig.build`."""
        return TextCnnEncoder(vocabulary, self, alphabet)


class TextCnnEncoder(Encoder):
    """Embeds tokens, and concatenates at each position the outputs of filters of several widths around it.

    A filter of width W reads (W - 1) // 2 tokens before its position and W // 2 after it. Beyond the text it reads
    zeros, in the batch's padding as well, so that a text has the same states whatever it is batched with, and one
    token is enough.

    Source: Y. Kim (2014), "Convolutional Neural Networks for Sentence Classification".
    """

    def __init__(self, vocabulary: Sequence[str], config: TextCnnConfig, alphabet: Sequence[str] | None = None) -> None:
        super().__init__()
        self.embedding = TokenEmbedding(vocabulary, config, alphabet)
        self.width = len(config.filter_widths) * config.num_filters
        self.filter_widths = list(config.filter_widths)
        self.config = config.loaded(self.embedding.vector_size)
        self.filters = nn.ModuleList(
            nn.Conv1d(config.width, config.num_filters, width) for width in config.filter_widths
        )

    def forward(
        self,
        input_ids: Tensor,
        is_token: Tensor,
        segment_ids: Tensor | None = None,
        spelling: Spelling | None = None,
    ) -> Tensor:
        """Encode tokens, [B, T] to [B, T, D]."""
        states = self.embedding(input_ids, spelling)  # [B, T, E]
        embedded = states.masked_fill(~is_token[..., None], 0.0).transpose(1, 2)  # [B, E, T]
        outputs = [
            filters(_padded(embedded, width)) for filters, width in zip(self.filters, self.filter_widths, strict=True)
        ]  # [B, F, T] each
        return torch.cat(outputs, dim=1).relu().transpose(1, 2)  # [B, T, D]


def _padded(states: Tensor, filter_width: int) -> Tensor:
    """Pad with zeros, so that there are as many outputs as positions; torch's own `same` (2.13) warns of copies."""
    return F.pad(states, ((filter_width - 1) // 2, filter_width // 2))
