"""Vectors of words from their characters, which words outside of the vocabulary have as well.

Shapes: B examples, T positions, D width, U distinct words, L characters of the longest word, C size of a character's
embedding, W width of the network.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, MultipleOf
from torch import Tensor, nn

from lightrail.lightning_modules.networks.encoders.encoder import FIRST_TOKEN, PADDING, Spelling
from lightrail.lightning_modules.networks.encoders.lstm_layer import LstmLayer
from lightrail.lightning_modules.networks.row_names import RowNames, vocabulary_rows
from lightrail.project.basics.annotations import PositiveInt, Ranged, ShareBelowOne


@dataclass(frozen=True, kw_only=True)
class CharactersConfig(Ranged, ABC):
    """The network that reads the characters of a word."""

    size: PositiveInt = 32
    """Size of a character's embedding."""
    dropout: ShareBelowOne = 0.25
    """Fraction of the activations of these embeddings zeroed in training, in [0, 1)."""

    @abstractmethod
    def build(self) -> "CharacterNetwork":
        """Build the network."""


class CharacterNetwork(nn.Module, ABC):
    """Turns the embedded characters of words into a vector for each word."""

    width: int
    """Size W of the vectors."""

    @abstractmethod
    def forward(self, states: Tensor, lengths: Tensor) -> Tensor:
        """Read embedded characters, [U, L, C], which are zero beyond the `lengths` [U] of the words; return [U, W]."""


@dataclass(frozen=True, kw_only=True)
class CharacterCnnConfig(CharactersConfig):
    """A convolution over the characters of a word, and the maximum over its positions.

    Source: X. Ma and E. Hovy (2016), "End-to-end Sequence Labeling via Bi-directional LSTM-CNNs-CRF".
    """

    width: PositiveInt = 64
    """Number of filters."""
    filter_width: PositiveInt = 3
    """Number of neighbouring characters that a filter reads."""

    def build(self) -> "CharacterCnn":
        """Build the convolution."""
        return CharacterCnn(self)


class CharacterCnn(CharacterNetwork):
    """Finds short strings anywhere in a word; beyond its ends filters read zeros."""

    def __init__(self, config: CharacterCnnConfig) -> None:
        super().__init__()
        self.width, self.reach = config.width, config.filter_width - 1
        self.filters = nn.Conv1d(config.size, config.width, config.filter_width, padding=self.reach)

    def forward(self, states: Tensor, lengths: Tensor) -> Tensor:
        """Read embedded characters, [U, L, C] to [U, W]."""
        found = self.filters(states.transpose(1, 2))  # [U, W, L + reach]
        positions = torch.arange(found.shape[2], device=found.device)
        is_beyond = positions >= lengths[:, None] + self.reach  # how many there are depends on the longest word
        highest: Tensor = found.masked_fill(is_beyond[:, None], -torch.inf).max(2).values  # its backward beats amax's
        return highest.relu()  # [U, W]


@dataclass(frozen=True, kw_only=True)
class CharacterLstmConfig(CharactersConfig):
    """A bidirectional LSTM over the characters of a word.

    Source: G. Lample et al. (2016), "Neural Architectures for Named Entity Recognition".
    """

    width: Annotated[int, Ge(2), MultipleOf(2)] = 64
    """Size of a word's vector, half of it from each direction; an even number."""

    def build(self) -> "CharacterLstm":
        """Build the LSTM."""
        return CharacterLstm(self)


class CharacterLstm(CharacterNetwork):
    """Reads each word in both directions to its end; the last states are its vector."""

    def __init__(self, config: CharacterLstmConfig) -> None:
        super().__init__()
        self.width = config.width
        self.layer = LstmLayer(config.width, config.size)

    def forward(self, states: Tensor, lengths: Tensor) -> Tensor:
        """Read embedded characters, [U, L, C] to [U, W]."""
        read = self.layer(states, lengths)  # [U, L, W]
        last = (lengths - 1).clamp(min=0)[:, None, None].expand(-1, 1, self.width // 2)
        right, left = read.split(self.width // 2, dim=2)
        return torch.cat([right.gather(1, last)[:, 0], left[:, 0]], dim=1)  # [U, W]


class CharacterEmbedding(nn.Module):
    """Encodes each distinct word of a batch by its characters, once, and looks it up at every position."""

    def __init__(self, alphabet: Sequence[str], config: CharactersConfig, width: int) -> None:
        super().__init__()
        self.alphabet = tuple(alphabet)
        self.embedding = nn.Embedding(FIRST_TOKEN + len(alphabet), config.size, padding_idx=PADDING)
        bound = math.sqrt(3 / config.size)  # as Ma and Hovy do; normal_ would draw the row of padding as well
        with torch.no_grad():
            self.embedding.weight[FIRST_TOKEN - 1 :].uniform_(-bound, bound)
        self.dropout = nn.Dropout(config.dropout)
        self.network = config.build()
        self.projection = nn.Linear(self.network.width, width, bias=False)

    def row_names(self) -> Mapping[str, RowNames]:
        """Return the characters of the embedding."""
        return {"embedding.weight": (vocabulary_rows(self.alphabet, FIRST_TOKEN),)}

    def forward(self, spelling: Spelling) -> Tensor:
        """Embed the words of a batch, [B, T, D]; a position without a word is zero."""
        is_character = spelling.character_ids != PADDING  # [U, L]
        states = self.dropout(self.embedding(spelling.character_ids))  # [U, L, C]
        words = self.projection(self.network(states, is_character.sum(1)))  # [U, D]
        words = words * is_character[:, :1]
        found: Tensor = nn.functional.embedding(spelling.word_ids, words)
        return found  # [B, T, D]
