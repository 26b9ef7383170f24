"""The part of a converter that reads the characters before a syllable, and the syllables from it on.

Shapes: B sentences, T positions, N positions or prefixes, H characters before, D width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Interval
from torch import Tensor, nn

from lightrail.lightning_modules.networks.encoders.embedding import hashed
from lightrail.lightning_modules.networks.row_names import AllOrNothing, RowNames, vocabulary_rows
from lightrail.project.basics.annotations import PositiveInt, Ranged, ShareBelowOne

NUM_SPECIAL = 3
"""Ids of what is written that stand for no text: those of `CharacterTable`."""


@dataclass(frozen=True, kw_only=True)
class HistoryConfig(Ranged):
    """What a converter sees of the characters already chosen."""

    reach: Annotated[int, Interval(ge=1, le=6)] = 3
    """Characters before a syllable that are seen. A hashed vector is added for each pair of some of them, the last
    ones, and of syllables from this one on, where both together are no more than `reach`, and this one."""
    buckets: PositiveInt = 2**20
    """Rows of the table of these vectors."""
    width: PositiveInt = 64
    """Size of these vectors, and of those of the single characters."""
    dropout: ShareBelowOne = 0.1
    """Fraction of hashed vectors left out in training, in [0, 1)."""


class History(nn.Module):
    """Turns the characters before a syllable and the syllables from it on into a vector.

    Args:
        written: the characters and other tokens that are written, by id; the first three are no text.
        vocabulary: the tokens that are read, whose ids begin at 2.
        width: size D of the vector.
        config: what is seen.
    """

    def __init__(self, written: Sequence[str], vocabulary: Sequence[str], width: int, config: HistoryConfig) -> None:
        super().__init__()
        self.config = config
        self.written, self.vocabulary = tuple(written[NUM_SPECIAL:]), tuple(vocabulary)
        self.parts = [
            (before, ahead) for before in range(1, config.reach + 1) for ahead in range(1, config.reach + 2 - before)
        ]
        self.characters = nn.Embedding(len(written), config.width)
        self.hashed = nn.Embedding(config.buckets, config.width, sparse=True)
        nn.init.normal_(self.characters.weight, std=0.05)
        nn.init.normal_(self.hashed.weight, std=0.02)
        self.projection = nn.Linear((len(self.parts) + config.reach) * config.width, width, bias=False)

    def row_names(self) -> Mapping[str, RowNames]:
        """Return the characters of their table; a table of hashed ids is one of these characters and tokens alone."""
        return {
            "characters.weight": (vocabulary_rows(self.written, NUM_SPECIAL),),
            "hashed.weight": AllOrNothing((self.written, self.vocabulary)),
        }

    def forward(self, before: Tensor, ahead: Tensor) -> Tensor:
        """Encode prefixes.

        Args:
            before: ids of the last characters, the last one at the end, [N, H].
            ahead: ids of the next tokens, the next one first, [N, H].

        Returns: [N, D].
        """
        characters, tokens = before.unbind(1), ahead.unbind(1)
        keys = [
            hashed([torch.full_like(tokens[0], number), *characters[-num:], *tokens[:num_ahead]], self.config.buckets)
            for number, (num, num_ahead) in enumerate(self.parts, start=1)
        ]
        vectors: Tensor = self.hashed(torch.stack(keys, 1))  # [N, parts, W]
        if self.training and self.config.dropout:
            keep = torch.rand(vectors.shape[:2], device=vectors.device) >= self.config.dropout
            vectors = vectors * (keep / (1 - self.config.dropout))[..., None].to(vectors.dtype)
        states: Tensor = self.projection(torch.cat([vectors.flatten(1), self.characters(before).flatten(1)], 1))
        return states


def windows_before(ids: Tensor, size: int, start: int) -> Tensor:
    """Return the ids before each position, `start` before the first one, [B, T] to [B, T, size]."""
    padded = torch.nn.functional.pad(ids, (size, 0), value=start)
    return padded.unfold(1, size, 1)[:, : ids.shape[1]]


def windows_from(ids: Tensor, size: int) -> Tensor:
    """Return the ids from each position on, 0 behind the last one, [B, T] to [B, T, size]."""
    return torch.nn.functional.pad(ids, (0, size - 1)).unfold(1, size, 1)
