"""A recurrent encoder-decoder from scratch, with attention.

Shapes: B examples, S positions of the source, T positions of the target, R rows of a search, D width, L layers, V
tokens of the target.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, MultipleOf
from torch import Tensor, nn

from lightrail.lightning_modules.networks.encoders.embedding import HashedNgrams, InputConfig
from lightrail.lightning_modules.networks.encoders.lstm_layer import reverse_each
from lightrail.lightning_modules.networks.row_names import AllOrNothing, Names, RowNames
from lightrail.lightning_modules.networks.seq2seq.network import (
    Memory,
    Seq2Seq,
    Seq2SeqConfig,
    Vocabulary,
    token_tables,
)
from lightrail.project.basics.annotations import PositiveInt, ShareBelowOne

State = tuple[Tensor, ...]
"""Hidden states of all layers, [L, B, D]; of an LSTM followed by the cell states."""


@dataclass(frozen=True, kw_only=True)
class RecurrentSeq2SeqConfig(InputConfig, Seq2SeqConfig):
    """A recurrent encoder-decoder with attention, trained from scratch. N-grams are those of the source."""

    width: Annotated[int, Ge(2), MultipleOf(2)] = 256
    """Size of a position's vector, in the source half of it from each direction; an even number."""
    dropout: ShareBelowOne = 0.3
    """Fraction of embeddings and states zeroed in training, in [0, 1)."""
    cell: Literal["lstm", "gru"] = "lstm"
    """The recurrent unit."""
    depth: PositiveInt = 1
    """Number of layers of encoder and decoder, at least 1."""
    attention: Literal["additive", "multiplicative"] = "multiplicative"
    """How a state of the decoder and one of the encoder are compared: by a small network (Bahdanau et al., 2015), or by
    a product through a matrix (Luong et al., 2015)."""
    feeds_attention: bool = True
    """Each step also reads what the one before took from the source (input feeding)."""
    is_tied: bool = True
    """Score tokens with the vectors of the target's tokens rather than with a second table; and where both sides have
    the same tokens, read these with one table."""

    @property
    def reads_token_by_token(self) -> bool:
        """A recurrent decoder can read its own tokens in training."""
        return True

    def build(self, source: Vocabulary, target: Vocabulary, *, is_shared: bool) -> "RecurrentSeq2Seq":
        """Build the network."""
        return RecurrentSeq2Seq(self, source, target, is_shared=is_shared)


class RecurrentSeq2Seq(Seq2Seq):
    """Reads the source in both directions; each step of the decoder looks at the source after its own state.

    Source: T. Luong et al. (2015), "Effective Approaches to Attention-based Neural Machine Translation"; additive
    scores by D. Bahdanau et al. (2015), "Neural Machine Translation by Jointly Learning to Align and Translate".
    """

    config: RecurrentSeq2SeqConfig

    def __init__(
        self, config: RecurrentSeq2SeqConfig, source: Vocabulary, target: Vocabulary, *, is_shared: bool
    ) -> None:
        super().__init__()
        self.config, self.target = config, target
        width = config.width
        is_one = is_shared and config.is_tied
        self.source_embedding = None if is_one else nn.Embedding(source.size, width)
        self.embedding = nn.Embedding(target.size, width)
        self.ngrams = HashedNgrams(config) if config.ngram_orders else None
        self.output = None if config.is_tied else nn.Linear(width, target.size, bias=False)
        self.encoder = nn.ModuleList(BothDirections(config) for _ in range(config.depth))
        unit = nn.LSTM if config.cell == "lstm" else nn.GRU
        dropout = config.dropout if config.depth > 1 else 0.0
        self.decoder = unit(
            width * (1 + config.feeds_attention), width, config.depth, batch_first=True, dropout=dropout
        )
        num_states = 2 if config.cell == "lstm" else 1
        self.bridge = nn.Linear(width, config.depth * num_states * width)
        self.attend = AdditiveAttention(width) if config.attention == "additive" else MultiplicativeAttention(width)
        self.combine = nn.Linear(2 * width, width, bias=False)
        self.dropout = nn.Dropout(config.dropout)
        for table in filter(None, (self.source_embedding, self.embedding)):
            nn.init.normal_(table.weight, std=0.1)

    def encode(self, input_ids: Tensor, is_token: Tensor) -> Memory:
        """Read sources, [B, S] to [B, S, D]."""
        embedding = self.embedding if self.source_embedding is None else self.source_embedding
        states = embedding(input_ids)  # [B, S, D]
        if self.ngrams is not None:
            states = states + self.ngrams(input_ids.masked_fill(~is_token, 0))
        states = self.dropout(states)
        lengths = is_token.sum(1)
        for layer in self.encoder:
            states = self.dropout(layer(states, lengths))
        return Memory(states, is_token)

    def score(self, memory: Memory, decoder_ids: Tensor, *, forced_fraction: float = 1.0) -> Tensor:
        """Score given targets, [B, T] to [B, T, V]."""
        return self._scores(self._read(memory, decoder_ids, forced_fraction)[0])

    def token_tables(self) -> Mapping[str, str]:
        """Return the names of the embeddings and of the output."""
        return token_tables(self.source_embedding, self.output)

    def rows_of_tokens(self, **tokens: Names) -> Mapping[str, RowNames]:
        """Return the tokens of each table; one of hashed token ids is of these tokens alone."""
        tables = () if self.ngrams is None else self.ngrams.tables
        hashed = {f"ngrams.tables.{number}.weight": AllOrNothing(tokens["source"]) for number in range(len(tables))}
        return {**super().rows_of_tokens(**tokens), **hashed}

    def start_cache(self, memory: Memory) -> "SearchCache":
        """Return the state before the first token."""
        state = self._first_state(memory)
        return SearchCache(memory, self.attend.keys(memory.states), state, torch.zeros_like(state[0][-1]))

    def step(self, newest: Tensor, cache: "SearchCache") -> Tensor:
        """Score the next token of each row, [R] to [R, V]."""
        looked, cache.state, _ = self._advance(self.embedding(newest), cache)
        cache.looked = looked
        return self._scores(looked)

    def attention(self, memory: Memory, decoder_ids: Tensor) -> Tensor:
        """Return the attention to the source, [B, T, S]."""
        return self._read(memory, decoder_ids, 1.0)[1]

    def _read(self, memory: Memory, decoder_ids: Tensor, forced_fraction: float) -> tuple[Tensor, Tensor]:
        """Return states, [B, T, D], and attention, [B, T, S], of all positions of the target."""
        embedded = self.dropout(self.embedding(decoder_ids))  # [B, T, D]
        cache = self.start_cache(memory)
        if not self.config.feeds_attention and forced_fraction == 1:
            return self._look(self._run(embedded, cache.state)[0], cache)
        states: list[Tensor] = []
        weights: list[Tensor] = []
        is_forced = [True] * decoder_ids.shape[1]
        if forced_fraction < 1:
            is_forced[1:] = (torch.rand(decoder_ids.shape[1] - 1) < forced_fraction).tolist()
        for place, forced in enumerate(is_forced):
            read = embedded[:, place] if forced else self.dropout(self.embedding(self._scores(cache.looked).argmax(-1)))
            cache.looked, cache.state, looks = self._advance(read, cache)
            states.append(cache.looked)
            weights.append(looks)
        return torch.stack(states, dim=1), torch.stack(weights, dim=1)

    def _advance(self, embedded: Tensor, cache: "SearchCache") -> tuple[Tensor, State, Tensor]:
        """Read one token of each row, [R, D]: returns its vector [R, D], the new state, and the attention, [R, S]."""
        read = torch.cat([embedded, cache.looked], dim=-1) if self.config.feeds_attention else embedded
        states, state = self._run(read[:, None], cache.state)
        looked, weights = self._look(states, cache)
        return looked[:, 0], state, weights[:, 0]

    def _look(self, states: Tensor, cache: "SearchCache") -> tuple[Tensor, Tensor]:
        """Look at the source from states, [B, T, D]: returns vectors, [B, T, D], and attention, [B, T, S]."""
        states = self.dropout(states)
        scores = self.attend(states, cache.keys).masked_fill(~cache.memory.is_token[:, None], -math.inf)
        weights = scores.softmax(-1)  # [B, T, S]
        seen = weights.to(states.dtype) @ cache.memory.states
        return self.dropout(torch.tanh(self.combine(torch.cat([states, seen], dim=-1)))), weights

    def _run(self, read: Tensor, state: State) -> tuple[Tensor, State]:
        """Run the decoder's layers in its weights' format: not every machine has a recurrent unit under autocast."""
        dtype = self.combine.weight.dtype
        given = tuple(part.to(dtype).contiguous() for part in state)
        with torch.autocast(read.device.type, enabled=False):
            states, after = self.decoder(read.to(dtype), given if self.config.cell == "lstm" else given[0])
        return states, after if self.config.cell == "lstm" else (after,)

    def _first_state(self, memory: Memory) -> State:
        """The decoder's first state: from what each direction of the encoder knows at its end."""
        states, half = memory.states, self.config.width // 2
        last = memory.is_token.sum(1).clamp(min=1) - 1  # [B]
        ends = torch.cat([states[torch.arange(len(states)), last, :half], states[:, 0, half:]], dim=-1)  # [B, D]
        first = torch.tanh(self.bridge(ends)).view(len(ends), -1, self.config.depth, self.config.width)
        return tuple(part.contiguous() for part in first.permute(1, 2, 0, 3))  # [L, B, D] each

    def _scores(self, states: Tensor) -> Tensor:
        return F.linear(states, self.embedding.weight if self.output is None else self.output.weight)


@dataclass
class SearchCache:
    """The state of a decoder, and the source that it looks at."""

    memory: Memory
    keys: Tensor
    """What the attention compares states with, [B, S, D]."""
    state: State
    looked: Tensor
    """The vector of the token before, [B, D]."""

    def select(self, rows: Tensor) -> "SearchCache":
        """Return a cache of these rows, [R]."""
        state = tuple(part[:, rows] for part in self.state)
        return SearchCache(self.memory.select(rows), self.keys[rows], state, self.looked[rows])


class BothDirections(nn.Module):
    """A layer that reads each example from left to right and, reversed within its own length, from right to left."""

    def __init__(self, config: RecurrentSeq2SeqConfig) -> None:
        super().__init__()
        unit = nn.LSTM if config.cell == "lstm" else nn.GRU
        self.rightward = unit(config.width, config.width // 2, batch_first=True)
        self.leftward = unit(config.width, config.width // 2, batch_first=True)

    def forward(self, states: Tensor, lengths: Tensor) -> Tensor:
        """Read states, [B, S, D] to the same; `lengths`, [B], are without padding."""
        states = states.to(next(self.rightward.parameters()).dtype)
        with torch.autocast(states.device.type, enabled=False):
            right = self.rightward(states)[0]  # [B, S, D / 2]
            left = self.leftward(reverse_each(states, lengths))[0]
        return torch.cat([right, reverse_each(left, lengths)], dim=-1)


class MultiplicativeAttention(nn.Module):
    """Scores by a product through a matrix: s W h."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.key = nn.Linear(width, width, bias=False)

    def keys(self, states: Tensor) -> Tensor:
        """Return what states of the source are compared by, [B, S, D] to the same."""
        keys: Tensor = self.key(states)
        return keys

    def forward(self, states: Tensor, keys: Tensor) -> Tensor:
        """Return the score of each source position from each state, [B, T, D] and [B, S, D] to [B, T, S]."""
        return states.to(keys.dtype) @ keys.transpose(1, 2)


class AdditiveAttention(nn.Module):
    """Scores by a network with one hidden layer: v tanh(W s + U h)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.key = nn.Linear(width, width, bias=False)
        self.query = nn.Linear(width, width)
        self.value = nn.Linear(width, 1, bias=False)

    def keys(self, states: Tensor) -> Tensor:
        """Return what states of the source are compared by, [B, S, D] to the same."""
        keys: Tensor = self.key(states)
        return keys

    def forward(self, states: Tensor, keys: Tensor) -> Tensor:
        """Return the score of each source position from each state, [B, T, D] and [B, S, D] to [B, T, S]."""
        scores: Tensor = self.value(torch.tanh(self.query(states)[:, :, None] + keys[:, None]))[..., 0]
        return scores
