"""Vectors of tokens alone: the fastest encoder.

Shapes: B examples, T positions, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightrail.lightning_modules.networks.encoders.embedding import FromScratchConfig, TokenEmbedding
from lightrail.lightning_modules.networks.encoders.encoder import Encoder, Spelling
from lightrail.project.basics.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class StaticConfig(FromScratchConfig):
    """Vectors of tokens alone, as an embedding bag has them: with the pooling `mean` the fastest encoder."""

    def build(self, vocabulary: Sequence[str], alphabet: Sequence[str] | None = None) -> "StaticEncoder":
        """Build the table for the tokens of a vocabulary; see `EncoderConfig.build`."""
        return StaticEncoder(vocabulary, self, alphabet)


class StaticEncoder(Encoder):
    """Returns the vector of each position's token, with n-grams, pretrained vectors and characters where asked for."""

    def __init__(self, vocabulary: Sequence[str], config: StaticConfig, alphabet: Sequence[str] | None = None) -> None:
        super().__init__()
        self.embedding = TokenEmbedding(vocabulary, config, alphabet)
        self.width = config.width
        self.config = config.loaded(self.embedding.vector_size)

    def forward(
        self,
        input_ids: Tensor,
        is_token: Tensor,
        segment_ids: Tensor | None = None,
        spelling: Spelling | None = None,
    ) -> Tensor:
        """Look up tokens, [B, T] to [B, T, D]."""
        states: Tensor = self.embedding(input_ids, spelling)
        return states

    def table(self) -> Tensor:
        """Return the vector of each token id, [V, D].

        Raises: ConfigError when a position's vector is not its token's alone.
        """
        parts = [name for name in ("ngrams", "characters") if getattr(self.embedding, name) is not None]
        if parts:
            raise ConfigError(
                f"--format hf: a table has a vector for each token, and this encoder adds those of {parts[0]}. Use "
                "--format safetensors, or train without encoder.ngram_orders and encoder.characters."
            )
        with torch.no_grad():
            table: Tensor = self.embedding.eval()(torch.arange(self.embedding.tokens.num_embeddings)[None])[0]
        return table
