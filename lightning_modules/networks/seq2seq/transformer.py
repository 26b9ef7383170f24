"""A Transformer encoder-decoder from scratch: pre-norm blocks, rotary positions, attention to the source.

Shapes: B examples, S positions of the source, T positions of the target, R rows of a search, D width, H heads, E = D /
H, V tokens of the target.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightrail.lightning_modules.networks.attention import (
    BlockCache,
    SelfAttention,
    attend,
    rotary_angles,
    rotary_tables,
)
from lightrail.lightning_modules.networks.encoders.transformer import attention_mask
from lightrail.lightning_modules.networks.seq2seq.network import (
    Memory,
    Seq2Seq,
    Seq2SeqConfig,
    Vocabulary,
    token_tables,
)
from lightrail.project.basics.annotations import PositiveInt, ShareBelowOne
from lightrail.project.basics.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class TransformerSeq2SeqConfig(Seq2SeqConfig):
    """A Transformer encoder-decoder trained from scratch."""

    width: PositiveInt = 256
    """Size of a position's vector; a multiple of 2 x `num_heads`."""
    encoder_depth: PositiveInt = 3
    """Number of blocks that read the source, at least 1."""
    decoder_depth: PositiveInt = 3
    """Number of blocks that write the target, at least 1."""
    num_heads: PositiveInt = 4
    """Attention heads."""
    hidden_width: PositiveInt | None = None
    """Width of a block's hidden layer. null: 4 x `width`."""
    dropout: ShareBelowOne = 0.1
    """Fraction of embeddings and of each block branch's output zeroed in training, in [0, 1)."""
    is_tied: bool = True
    """Score tokens with the vectors of the target's tokens rather than with a second table; and where both sides have
    the same tokens, read these with one table."""

    def build(self, source: Vocabulary, target: Vocabulary, *, is_shared: bool) -> "TransformerSeq2Seq":
        """Build the network. Raises: ConfigError when `width` is no multiple of 2 x `num_heads`."""
        if self.width % (2 * self.num_heads):
            raise ConfigError(
                f"network.width is {self.width}. Give a multiple of 2 x num_heads = {2 * self.num_heads}."
            )
        return TransformerSeq2Seq(self, source, target, is_shared=is_shared)


class TransformerSeq2Seq(Seq2Seq):
    """Lets all positions of the source attend to each other, and each of the target to those before it and the source.

    Source: A. Vaswani et al. (2017), "Attention Is All You Need"; norms before the branches and rotary positions as is
    usual since.
    """

    config: TransformerSeq2SeqConfig

    def __init__(
        self, config: TransformerSeq2SeqConfig, source: Vocabulary, target: Vocabulary, *, is_shared: bool
    ) -> None:
        super().__init__()
        self.config, self.target = config, target
        self.head_width = config.width // config.num_heads
        is_one = is_shared and config.is_tied
        self.source_embedding = None if is_one else nn.Embedding(source.size, config.width)
        self.embedding = nn.Embedding(target.size, config.width)
        self.output = None if config.is_tied else nn.Linear(config.width, target.size, bias=False)
        self.encoder = Stack(config, config.encoder_depth, has_source=False)
        self.decoder = Stack(config, config.decoder_depth, has_source=True)
        self.dropout = nn.Dropout(config.dropout)
        self._start_weights()

    def encode(self, input_ids: Tensor, is_token: Tensor) -> Memory:
        """Read sources, [B, S] to [B, S, D]."""
        embedding = self.embedding if self.source_embedding is None else self.source_embedding
        mask = attention_mask(is_token)
        return Memory(self.encoder(self._embedded(embedding, input_ids), self._tables(input_ids), mask), is_token)

    def score(self, memory: Memory, decoder_ids: Tensor, *, forced_fraction: float = 1.0) -> Tensor:
        """Score given targets, [B, T] to [B, T, V]."""
        source = Source.of(memory)
        states = self.decoder(
            self._embedded(self.embedding, decoder_ids), self._tables(decoder_ids), None, source=source
        )
        return self._scores(states)

    def token_tables(self) -> Mapping[str, str]:
        """Return the names of the embeddings and of the output."""
        return token_tables(self.source_embedding, self.output)

    def start_cache(self, memory: Memory) -> "SearchCache":
        """Return an empty cache of each block's keys and values."""
        blocks = [BlockCache() for _ in self.decoder.blocks]
        return SearchCache(Source.of(memory), blocks, [None] * len(blocks), 0)

    def step(self, newest: Tensor, cache: "SearchCache") -> Tensor:
        """Score the next token of each row, [R] to [R, V]."""
        ids = newest[:, None]
        tables = self._tables(ids, cache.num_read)
        states = self.decoder(self._embedded(self.embedding, ids), tables, None, source=cache.source, cache=cache)
        cache.num_read += 1
        return self._scores(states[:, 0])

    def attention(self, memory: Memory, decoder_ids: Tensor) -> Tensor:
        """Return the last block's attention to the source, mean over its heads, [B, T, S]."""
        weights: list[Tensor] = []
        last = self.decoder.blocks[-1].get_submodule("source_attention")
        assert isinstance(last, SourceAttention)
        hook = last.register_forward_pre_hook(lambda _, given: weights.append(last.weights(*given)))
        try:
            self.score(memory, decoder_ids)
        finally:
            hook.remove()
        return weights[0].mean(1)

    def _embedded(self, embedding: nn.Embedding, ids: Tensor) -> Tensor:
        embedded: Tensor = self.dropout(embedding(ids) * math.sqrt(self.config.width))  # [B, T, D]
        return embedded

    def _tables(self, ids: Tensor, num_read: int = 0) -> tuple[Tensor, Tensor]:
        positions = torch.arange(num_read, num_read + ids.shape[1], device=ids.device)
        return rotary_tables(rotary_angles(positions, self.head_width))

    def _scores(self, states: Tensor) -> Tensor:
        return F.linear(states, self.embedding.weight if self.output is None else self.output.weight)

    def _start_weights(self) -> None:
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.xavier_uniform_(part.weight)
            elif isinstance(part, nn.Embedding):
                nn.init.normal_(part.weight, std=self.config.width**-0.5)


@dataclass(frozen=True)
class Source:
    """What the decoder's blocks attend to."""

    states: Tensor
    """[B, S, D]"""
    mask: Tensor | None
    """True at tokens, [B, 1, 1, S]; None: everywhere."""

    @classmethod
    def of(cls, memory: Memory) -> "Source":
        """Return the source that a memory holds."""
        return cls(memory.states, attention_mask(memory.is_token))


@dataclass
class SearchCache:
    """Keys and values of each block: of the tokens so far, and of the source."""

    source: Source
    blocks: list[BlockCache]
    sources: list[tuple[Tensor, Tensor] | None]
    """Keys and values of the source in each block, [R, H, S, E] each; None before the first step."""
    num_read: int

    def select(self, rows: Tensor) -> "SearchCache":
        """Return a cache of these rows, [R]."""
        mask = None if self.source.mask is None else self.source.mask[rows]
        source = Source(self.source.states[rows], mask)
        blocks = [BlockCache() for _ in self.blocks]
        for own, other in zip(blocks, self.blocks, strict=True):
            if other.key is not None and other.value is not None:
                own.key, own.value = other.key[rows], other.value[rows]
        sources = [None if pair is None else (pair[0][rows], pair[1][rows]) for pair in self.sources]
        return SearchCache(source, blocks, sources, self.num_read)


class Stack(nn.Module):
    """Blocks one above the other, and a last norm, [B, T, D] to the same."""

    def __init__(self, config: TransformerSeq2SeqConfig, depth: int, *, has_source: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(config, has_source=has_source) for _ in range(depth))
        self.norm = nn.LayerNorm(config.width)

    def forward(
        self,
        states: Tensor,
        tables: tuple[Tensor, Tensor],
        mask: Tensor | None,
        *,
        source: Source | None = None,
        cache: SearchCache | None = None,
    ) -> Tensor:
        """Run the blocks; those with a source see the positions before alone."""
        for number, block in enumerate(self.blocks):
            states = block(states, tables, mask, source, cache, number)
        normed: Tensor = self.norm(states)
        return normed


class Block(nn.Module):
    """Self-attention, attention to a source where there is one, and a hidden layer: on normed input, added to it."""

    def __init__(self, config: TransformerSeq2SeqConfig, *, has_source: bool) -> None:
        super().__init__()
        width, hidden = config.width, config.hidden_width or 4 * config.width
        self.attention_norm = nn.LayerNorm(width)
        self.attention = SelfAttention(width, config.num_heads, config.num_heads)
        self.source_norm = nn.LayerNorm(width) if has_source else None
        self.source_attention = SourceAttention(width, config.num_heads) if has_source else None
        self.hidden_norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, hidden)
        self.hidden_out = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        states: Tensor,
        tables: tuple[Tensor, Tensor],
        mask: Tensor | None,
        source: Source | None,
        cache: SearchCache | None,
        number: int,
    ) -> Tensor:
        """Add the branches to states, [B, T, D] to the same; `number` is that of the block in the cache."""
        is_causal = source is not None and cache is None
        read = None if cache is None else cache.blocks[number]
        states = states + self.dropout(self.attention(self.attention_norm(states), tables, mask, is_causal, read))
        if source is not None and self.source_attention is not None and self.source_norm is not None:
            known = None if cache is None else cache.sources[number]
            keys_values = self.source_attention.keys_values(source.states) if known is None else known
            if cache is not None:
                cache.sources[number] = keys_values
            attended = self.source_attention(self.source_norm(states), keys_values, source.mask)
            states = states + self.dropout(attended)
        hidden = F.relu(self.hidden(self.hidden_norm(states)))
        out: Tensor = states + self.dropout(self.hidden_out(hidden))
        return out


class SourceAttention(nn.Module):
    """Attention of a target's positions to those of its source."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def keys_values(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values of a source, [B, S, D] to [B, H, S, E] each."""
        batch, length, _ = states.shape
        heads = self.key_value(states).view(batch, length, 2, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        return heads[0], heads[1]

    def forward(self, states: Tensor, keys_values: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        """Attend, [B, T, D] to the same; `mask` is True at the source's tokens, [B, 1, 1, S]."""
        attended = attend(self._queries(states), *keys_values, mask=mask, is_causal=False)  # [B, H, T, E]
        out: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return out

    def weights(self, states: Tensor, keys_values: tuple[Tensor, Tensor], mask: Tensor | None = None) -> Tensor:
        """Return how much each head of each position looks at each position of the source, [B, H, T, S]."""
        query, key = self._queries(states), keys_values[0]
        scores = query @ key.transpose(2, 3) / math.sqrt(key.shape[-1])
        return (scores if mask is None else scores.masked_fill(~mask, -math.inf)).softmax(-1)

    def _queries(self, states: Tensor) -> Tensor:
        batch, length, _ = states.shape
        heads: Tensor = self.query(states).view(batch, length, self.num_heads, -1).transpose(1, 2)
        return heads
