"""The interface of encoder-decoders: networks that read a source text and score the tokens of a target text.

Shapes: B examples, S positions of the source, T positions of the target, N kept positions, R rows of a search, D width,
V tokens of the target.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from lightrail.lightning_modules.networks.token_network import TokenNetwork
from lightrail.project.basics.annotations import Ranged
from lightrail.project.basics.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The tokens of one side, as its tokenizer numbers them."""

    size: int
    """V: ids are 0 to V - 1."""
    start_id: int
    """Id of the token before the first one of a text."""
    end_id: int
    """Id of the token after the last one."""
    never: tuple[int, ...] = ()
    """Ids that are not part of any text, such as padding."""
    before: tuple[int, ...] = ()
    """Ids with which each text begins, such as the code of its language."""


@dataclass(frozen=True)
class Memory:
    """What an encoder has read."""

    states: Tensor
    """A vector for each position, [B, S, D]; those of padding are undefined."""
    is_token: Tensor
    """False at padding, which comes last, [B, S]."""

    def select(self, rows: Tensor) -> "Memory":
        """Return the examples of these numbers, [R]."""
        return Memory(self.states[rows], self.is_token[rows])


class Cache(Protocol):
    """What a decoder keeps of the tokens so far."""

    def select(self, rows: Tensor) -> Self:
        """Return a cache of the rows of these numbers, [R], which may repeat some and leave others out."""


class Seq2Seq(TokenNetwork):
    """An encoder-decoder: reads a source text, and scores each next token of a target text."""

    config: "Seq2SeqConfig"
    """Settings that rebuild this network; a checkpoint then provides the weights."""
    target: Vocabulary
    """The tokens that it scores, and those at the bounds of a text."""

    @abstractmethod
    def encode(self, input_ids: Tensor, is_token: Tensor) -> Memory:
        """Read sources, token ids [B, S], with `is_token` False at padding, [B, S], which comes last."""

    @abstractmethod
    def score(self, memory: Memory, decoder_ids: Tensor, *, forced_fraction: float = 1.0) -> Tensor:
        """Return the scores of the token after each position of given targets.

        Args:
            decoder_ids: token ids, [B, T]: each target shifted by one, behind the start token.
            forced_fraction: probability with which a position reads the given token, and not the one that the network
                found likeliest (scheduled sampling). Only networks that read token by token take less than 1.

        Returns: logits, [B, T, V].
        """

    @abstractmethod
    def start_cache(self, memory: Memory) -> Any:
        """Return a `Cache` for a search, in which every example of `memory` is a row."""

    @abstractmethod
    def step(self, newest: Tensor, cache: Any) -> Tensor:
        """Read the newest token of each row, [R], and return the scores of the next one, [R, V]; fills the cache."""

    def forward(
        self, input_ids: Tensor, is_token: Tensor, decoder_ids: Tensor, *, forced_fraction: float = 1.0
    ) -> Tensor:
        """Score given targets of given sources, [B, T, V]; see `encode` and `score`."""
        return self.score(self.encode(input_ids, is_token), decoder_ids, forced_fraction=forced_fraction)

    def decoder_ids(self, labels: Tensor) -> Tensor:
        """Return the decoder's input for targets, [B, T] to the same: behind the start token, shifted by one.

        Positions without a target, whose label is negative, read the end token, which no target position sees.
        """
        start = torch.full_like(labels[:, :1], self.target.start_id)
        given = torch.where(labels < 0, self.target.end_id, labels)
        return torch.cat([start, given[:, :-1]], dim=1)

    @abstractmethod
    def attention(self, memory: Memory, decoder_ids: Tensor) -> Tensor:
        """Return how much the prediction after each position looks at each source position, [B, T, S]; rows sum to 1.

        Averaged over the heads of the last layer, where there are several.
        """

    def to_transformers(self) -> Any:
        """Return the same network as an encoder-decoder of transformers. Raises: ConfigError where there is none."""
        raise ConfigError(
            f"--format hf: transformers has no {type(self).__name__}, which is a network of lightrail. Use --format "
            "safetensors."
        )


@dataclass(frozen=True, kw_only=True)
class Seq2SeqConfig(Ranged, ABC):
    """The encoder-decoder, and its size."""

    is_compiled: bool = False
    """Train with torch.compile, which needs a C++ compiler on a CPU: steps are faster after half a minute or more of
    compiling, and losses differ in their last digits. An evaluation is not compiled."""

    @property
    def reads_token_by_token(self) -> bool:
        """Whether training may read the network's own tokens in place of given ones."""
        return False

    @abstractmethod
    def build(self, source: Vocabulary, target: Vocabulary, *, is_shared: bool) -> Seq2Seq:
        """Build the network.

        Args:
            is_shared: whether the two sides have the same tokens.

        Raises: ConfigError when a setting is out of range or names what cannot be read.
        """


def token_tables(source_embedding: nn.Module | None, output: nn.Module | None) -> Mapping[str, str]:
    """Return the tables of a network from scratch, for `TokenNetwork.token_tables`; None: it shares the embedding."""
    tables = {"embedding.weight": "target"}
    if source_embedding is not None:
        tables["source_embedding.weight"] = "source"
    if output is not None:
        tables["output.weight"] = "target"
    return tables
