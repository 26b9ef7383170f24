"""The interface of encoders: networks that turn token ids into vectors."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from torch import Tensor, nn

from lightrail.lightning_modules.networks.encoders.pooling import Pooling
from lightrail.lightning_modules.networks.token_network import TokenNetwork
from lightrail.project.basics.annotations import Ranged
from lightrail.project.basics.errors import ConfigError

PADDING, UNKNOWN = 0, 1
FIRST_TOKEN = 2
"""Id of the first token of a vocabulary, after padding and unknown."""


class Spelling(NamedTuple):
    """The characters of a batch's words, each distinct word once."""

    word_ids: Tensor
    """Row of the word at each position in `character_ids`, [B, T]."""
    character_ids: Tensor
    """Character ids of each word, `PADDING` after them, [U, L]; row 0 has none, for positions without a word."""

    @classmethod
    def of(cls, batch: Mapping[str, Any]) -> Self | None:
        """Return the spelling of a batch, None where it has none."""
        return cls(batch["word_ids"], batch["character_ids"]) if "word_ids" in batch else None


class Encoder(TokenNetwork):
    """A network that returns a vector for each position."""

    width: int
    """Size D of the vectors."""
    config: "EncoderConfig"
    """Settings that rebuild this network; a checkpoint then provides the weights."""
    neutral: tuple[int, str] | None = (UNKNOWN, "the unknown token")
    """Id and name of the token that says least; None where there is none."""

    @abstractmethod
    def forward(
        self,
        input_ids: Tensor,
        is_token: Tensor,
        segment_ids: Tensor | None = None,
        spelling: Spelling | None = None,
    ) -> Tensor:
        """Encode tokens.

        Args:
            input_ids: token ids, [B, T]; padding is 0 unless a pretrained tokenizer has another id for it.
            is_token: False at padding, which comes last, [B, T].
            segment_ids: 0 in the first text of a pair and 1 in the second, [B, T]; networks from scratch see the token
                that separates the two instead.
            spelling: the characters of the words, for networks that were built with an alphabet.

        Returns: [B, T, D]; rows of padding are undefined.
        """


class TokenHead(nn.Module, ABC):
    """Scores the tokens that may stand at a position, from the vector that an encoder returns for it."""

    @abstractmethod
    def forward(self, states: Tensor, encoder: Encoder) -> Tensor:
        """Score tokens, [N, D] to [N, V].

        Args:
            states: vectors of any positions.
            encoder: the network that they are from, whose embedding the scores may share.
        """

    def to_transformers(self, encoder: Encoder) -> Any:
        """Return encoder and head as one masked language model of transformers, adapters merged into its weights.

        Raises: ConfigError when transformers has no such network.
        """
        raise ConfigError(
            f"--format hf: transformers has no network like {type(encoder).__name__}. Use --format safetensors."
        )


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(Ranged, ABC):
    """The network that encodes tokens, and its size."""

    is_compiled: bool = False
    """Train with torch.compile, which needs a C++ compiler on a CPU: steps are faster after half a minute or more of
    compiling, and losses differ in their last digits. An evaluation is not compiled."""

    @abstractmethod
    def build(self, vocabulary: Sequence[str], alphabet: Sequence[str] | None = None) -> Encoder:
        """Build the network for the tokens of a vocabulary, numbered from `FIRST_TOKEN`.

        Args:
            vocabulary: empty with a pretrained tokenizer.
            alphabet: the characters of words, numbered likewise; None where the data gives none.

        Raises: ConfigError when settings contradict each other or name what cannot be read.
        """

    def build_with_token_head(self, vocabulary: Sequence[str]) -> tuple[Encoder, TokenHead]:
        """Build the network, as `build`, with a head that scores its tokens. Raises: ConfigError where it has none."""
        raise ConfigError(
            f"model.encoder: {type(self).__name__} has no head that scores tokens. Choose another network, or override "
            "build_with_token_head."
        )

    def build_with_pooling(self, vocabulary: Sequence[str]) -> tuple[Encoder, Pooling]:
        """Build the network, as `build`, with its own `Pooling` of a text. Raises: ConfigError where it has none."""
        raise ConfigError(
            f"model.pooling is pretrained, and {type(self).__name__} has no pooling that was trained before. Set it to "
            "mean, first, max or attention, or choose PretrainedConfig."
        )
