"""The input of networks from scratch: tokens, hashed n-grams and pretrained vectors; and token dropout.

Shapes: B examples, T positions, D width, V tokens.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Self

import torch
import torch.nn.functional as F
from annotated_types import Interval
from torch import Tensor, nn

from lightrail.lightning_modules.networks.encoders.characters import CharacterEmbedding, CharactersConfig
from lightrail.lightning_modules.networks.encoders.encoder import (
    FIRST_TOKEN,
    UNKNOWN,
    Encoder,
    EncoderConfig,
    Spelling,
    TokenHead,
)
from lightrail.lightning_modules.networks.encoders.vectors import VectorsConfig
from lightrail.lightning_modules.networks.row_names import Hashed, RowNames, vocabulary_rows
from lightrail.project.basics.annotations import PositiveInt, Ranged, ShareBelowOne, check_range
from lightrail.project.basics.errors import ConfigError

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class InputConfig(Ranged):
    """The vectors that stand for tokens at the input of a network: their size, and the n-grams added to them."""

    width: PositiveInt = 192
    """Size of a position's vector."""
    dropout: ShareBelowOne = 0.1
    """Fraction of activations zeroed in training, in [0, 1)."""
    ngram_orders: list[Annotated[int, Interval(ge=2, le=16)]] = field(default_factory=list)
    """Lengths of the token n-grams whose hashed embeddings are added at the input, 2 to 16 tokens; each of the n-grams
    of that length that contain a position counts. Empty: none."""
    ngram_buckets: PositiveInt = 65536
    """Rows of each n-gram's hash table."""
    ngram_width: PositiveInt = 64
    """Size of an n-gram's embedding before it is projected to `width`."""
    ngram_dropout: ShareBelowOne = 0.1
    """Fraction of n-gram embeddings left out in training, in [0, 1)."""
    sparse_ngrams: bool = False
    """Train only those rows of the hash tables that a step reads, at `model.optim.table_lr`: a step costs the same
    whatever their number. Without it the optimizer changes every row in every step."""


@dataclass(frozen=True, kw_only=True)
class FromScratchConfig(InputConfig, EncoderConfig):
    """The input that networks trained from scratch have in common."""

    vectors: VectorsConfig | None = None
    """Pretrained vectors of tokens, from which training starts. null: none."""
    characters: CharactersConfig | None = None
    """Network that reads the characters of each word, whose vector is added to the word's; it needs
    `data.characters_per_word`. null: none."""

    def check(self, vocabulary: Sequence[str], alphabet: Sequence[str] | None) -> None:
        """Check that there are tokens, and characters, to embed. Raises: ConfigError when they are missing."""
        if not vocabulary:
            raise ConfigError(
                "encoder: a network from scratch needs the tokens of the training split, and a pretrained tokenizer "
                "has its own. Set data.tokenizer to characters, words or subwords, or choose PretrainedConfig."
            )
        if self.characters is not None and alphabet is None:
            raise ConfigError(
                "encoder.characters is given, and the data gives no characters of words. Set "
                "data.characters_per_word=24 (of texts with data.tokenizer=words, and of entities with data.units="
                "words), or leave encoder.characters out."
            )
        if self.characters is None and alphabet is not None:
            log.warning("data.characters_per_word is above 0, and nothing reads it: encoder.characters is null")

    def build_with_token_head(self, vocabulary: Sequence[str]) -> tuple[Encoder, TokenHead]:
        """Build the network, with a head whose scores of tokens share the vectors of its input."""
        encoder = self.build(vocabulary)
        return encoder, TiedTokenHead(vocabulary, encoder.width, self.width)

    def loaded(self, size: int | None) -> Self:
        """Return these settings with the vectors' size in place of their file, as a checkpoint holds the vectors."""
        vectors = None if self.vectors is None else replace(self.vectors, path=None, size=size)
        return replace(self, vectors=vectors)


class TokenEmbedding(nn.Module):
    """Adds up the vectors of each position's token, n-grams, pretrained vector and characters, [B, T] to [B, T, D]."""

    def __init__(
        self, vocabulary: Sequence[str], config: FromScratchConfig, alphabet: Sequence[str] | None = None
    ) -> None:
        super().__init__()
        config.check(vocabulary, alphabet)
        self.vocabulary = tuple(vocabulary)
        self.tokens = nn.Embedding(FIRST_TOKEN + len(vocabulary), config.width)
        nn.init.normal_(self.tokens.weight, std=0.05)
        self.ngrams = HashedNgrams(config) if config.ngram_orders else None
        self.vectors = None if config.vectors is None else config.vectors.build(vocabulary)
        self.vector_size = None if self.vectors is None else self.vectors.embedding_dim
        self.projection = None if self.vector_size is None else nn.Linear(self.vector_size, config.width, bias=False)
        self.characters = None
        if config.characters is not None and alphabet is not None:
            self.characters = CharacterEmbedding(alphabet, config.characters, config.width)
        self.dropout = nn.Dropout(config.dropout)

    def row_names(self) -> Mapping[str, RowNames]:
        """Return the tokens of each table; a table of hashed token ids is one of this vocabulary alone."""
        tables = self.ngrams.tables if self.ngrams is not None else ()
        tokens: dict[str, RowNames] = {
            f"{name}.weight": (vocabulary_rows(self.vocabulary, FIRST_TOKEN),) for name in ("tokens", "vectors")
        }
        return tokens | {f"ngrams.tables.{number}.weight": Hashed(self.vocabulary) for number in range(len(tables))}

    def forward(self, input_ids: Tensor, spelling: Spelling | None = None) -> Tensor:
        """Embed token ids, [B, T] to [B, T, D]."""
        states: Tensor = self.tokens(input_ids)  # [B, T, D]
        if self.ngrams is not None:
            states = states + self.ngrams(input_ids)
        if self.vectors is not None and self.projection is not None:
            states = states + self.projection(self.vectors(input_ids))
        if self.characters is not None:
            assert spelling is not None, "data with an alphabet gives the characters of its words"
            states = states + self.characters(spelling)
        dropped: Tensor = self.dropout(states)
        return dropped


class TiedTokenHead(TokenHead):
    """Scores tokens by the similarity of a layer's output to their vectors at the input, plus a bias for each.

    Args:
        width: size D of the states.
        token_width: size of a token's vector.

    Source: J. Devlin et al. (2019), "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding".
    """

    def __init__(self, vocabulary: Sequence[str], width: int, token_width: int) -> None:
        super().__init__()
        self.vocabulary = tuple(vocabulary)
        self.hidden = nn.Linear(width, token_width)
        self.norm = nn.LayerNorm(token_width)
        self.bias = nn.Parameter(torch.zeros(FIRST_TOKEN + len(vocabulary)))

    def row_names(self) -> Mapping[str, RowNames]:
        """Return the tokens of the bias."""
        return {"bias": (vocabulary_rows(self.vocabulary, FIRST_TOKEN),)}

    def forward(self, states: Tensor, encoder: Encoder) -> Tensor:
        """Score tokens, [N, D] to [N, V]."""
        embedding = encoder.input_embedding()
        assert isinstance(embedding, TokenEmbedding), "networks from scratch share their input"
        return F.linear(self.norm(F.gelu(self.hidden(states))), embedding.tokens.weight, self.bias)


class TokenDropout(nn.Module):
    """Hides each token with a probability, in training only.

    Args:
        share: that probability, in [0, 1).
        has_unknown: whether id 1 is the unknown token, as in our vocabularies, which then replaces hidden ones. A
            pretrained network masks the token instead, except the first one, which often represents the whole text.

    Source: M. Iyyer et al. (2015), "Deep Unordered Composition Rivals Syntactic Methods for Text Classification".
    """

    def __init__(self, share: float, *, has_unknown: bool) -> None:
        super().__init__()
        check_range(share, ShareBelowOne, "model.token_dropout")
        self.share, self.has_unknown = share, has_unknown

    def forward(self, input_ids: Tensor, is_token: Tensor) -> tuple[Tensor, Tensor]:
        """Return token ids and where there are tokens, [N, T] each, with hidden ones taken out."""
        if not self.training or not self.share:
            return input_ids, is_token
        is_dropped = is_token & (torch.rand(input_ids.shape, device=input_ids.device) < self.share)
        if self.has_unknown:
            return input_ids.masked_fill(is_dropped, UNKNOWN), is_token
        is_dropped[:, 0] = False
        return input_ids, is_token & ~is_dropped


class HashedNgrams(nn.Module):
    """Adds up a vector for each n-gram that contains a position, looked up by hash, [B, T] to [B, T, D].

    An n-gram of order 3 contains a position as its first, middle or last token; each case has a table of its own. The
    network need not learn from few examples what a table can simply hold. Positions beyond the text count as token 0,
    as padding does, so padding changes nothing.

    Source: P. Bojanowski et al. (2017), "Enriching Word Vectors with Subword Information", for hashing n-grams.
    """

    def __init__(self, settings: InputConfig) -> None:
        super().__init__()
        self.offsets = [range(-first, order - first) for order in settings.ngram_orders for first in range(order)]
        self.num_buckets = settings.ngram_buckets
        shape, is_sparse = (settings.ngram_buckets, settings.ngram_width), settings.sparse_ngrams
        tables = [nn.Embedding(*shape, sparse=is_sparse) for _ in self.offsets]
        for table in tables:
            nn.init.normal_(table.weight, std=0.05)
        self.tables = nn.ModuleList(tables)
        self.dropout = settings.ngram_dropout
        self.projection = nn.Linear(len(self.offsets) * settings.ngram_width, settings.width, bias=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Embed the n-grams around each position, [B, T] to [B, T, D]."""
        vectors = [table(keys) for table, keys in zip(self.tables, self.buckets(input_ids), strict=True)]
        stacked = torch.stack(vectors, dim=2)  # [B, T, N, W]
        if self.training and self.dropout:  # whole n-grams, so that none is relied on alone
            keep = torch.rand(stacked.shape[:3], device=stacked.device) >= self.dropout
            stacked = stacked * (keep / (1 - self.dropout))[..., None].to(stacked.dtype)
        projected: Tensor = self.projection(stacked.flatten(2))
        return projected

    def buckets(self, input_ids: Tensor) -> list[Tensor]:
        """Return the table row of each n-gram at each position, one [B, T] for each table."""
        reach = max(max(-window[0], window[-1]) for window in self.offsets)
        padded = F.pad(input_ids, (reach, reach))
        length = input_ids.shape[1]
        return [
            hashed([padded[:, reach + offset : reach + offset + length] for offset in window], self.num_buckets)
            for window in self.offsets
        ]


def hashed(tokens: list[Tensor], num_buckets: int) -> Tensor:
    """Hash token ids to [0, num_buckets): FNV-like mixing in 64-bit integers, the same on every device."""
    key = torch.zeros_like(tokens[0])
    for token in tokens:
        key = ((key ^ token) * 0x9E3779B1 + 0x7F4A7C15) & 0x7FFFFFFFFFFF
        key = key ^ (key >> 23)
    return key % num_buckets
