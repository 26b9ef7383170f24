"""Hashed embeddings of the token n-grams around each position."""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class NgramSettings(Protocol):
    """The settings of an encoder that `HashedNgrams` reads."""

    @property
    def width(self) -> int: ...
    @property
    def ngram_orders(self) -> list[int]: ...
    @property
    def ngram_buckets(self) -> int: ...
    @property
    def ngram_width(self) -> int: ...
    @property
    def ngram_dropout(self) -> float: ...


class HashedNgrams(nn.Module):
    """Adds up a vector for each n-gram that contains a position, looked up by hash, [B, T] to [B, T, D].

    An n-gram of order 3 contains a position as its first, middle or last token; each case has a table of its own. The
    network need not learn from few examples what a table can simply hold. Positions beyond the text count as token 0,
    as padding does, so padding changes nothing.

    Source: P. Bojanowski et al. (2017), "Enriching Word Vectors with Subword Information", for hashing n-grams.
    """

    def __init__(self, settings: NgramSettings) -> None:
        super().__init__()
        self.offsets = [range(-first, order - first) for order in settings.ngram_orders for first in range(order)]
        self.num_buckets = settings.ngram_buckets
        tables = [nn.Embedding(settings.ngram_buckets, settings.ngram_width) for _ in self.offsets]
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
