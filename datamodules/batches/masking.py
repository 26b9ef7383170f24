"""Masking of tokens: which places of an example are hidden, and what a network reads there instead.

Shapes: T tokens, M masked places.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightrail.project.basics.annotations import Ranged, Share, ShareBetween
from lightrail.project.basics.errors import ConfigError

Ids = NDArray[np.integer]


@dataclass(frozen=True, kw_only=True)
class MaskingConfig(Ranged):
    """Which tokens are masked, and how.

    Source: J. Devlin et al. (2019), "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding".
    """

    share: ShareBetween = 0.15
    """Fraction of the tokens, or of the words, that are masked, in (0, 1): on average over all examples. An example
    that is too short for it has one masked all the same."""
    hidden_share: Share = 0.8
    """Fraction of all masked places where the network reads the mask token, in [0, 1]."""
    random_share: Share = 0.1
    """Fraction of all masked places where it reads a random token, in [0, 1]; in the rest it reads the token itself."""
    whole_words: bool = False
    """Mask all tokens of a word or none. Words of Chinese are found by jieba, others are runs of letters and digits."""

    def check(self) -> None:
        """Check how the shares relate. Raises: ConfigError when they exceed 1 together."""
        if self.hidden_share + self.random_share > 1 + 1e-9:
            raise ConfigError(
                f"data.masking.hidden_share and random_share are fractions of all masked places, and add up to "
                f"{self.hidden_share:g} + {self.random_share:g}. Give at most 1 together."
            )


@dataclass(frozen=True)
class MaskTokens:
    """What of a vocabulary masking needs to know."""

    mask_id: int
    special_ids: Ids
    """Ids of tokens that are never masked: of padding, unknown tokens, separators and masks."""
    ordinary_ids: Ids
    """Ids of all other tokens."""

    def mask(
        self, ids: Ids, words: Ids | None, config: MaskingConfig, generator: np.random.Generator
    ) -> tuple[Ids, NDArray[np.bool_]]:
        """Mask an example: what the network reads, and which places are masked, [T] each.

        Args:
            ids: token ids, [T].
            words: number of each token's word, ascending, [T]. None: each token by itself.
        """
        ids = ids.astype(np.int64)  # stored in fewer bytes than other tokens may need
        may_be_masked = ~np.isin(ids, self.special_ids)
        units = np.arange(len(ids)) if words is None else words
        candidates = np.unique(units[may_be_masked])
        wanted = int(config.share * len(candidates) + generator.random())
        chosen = generator.choice(candidates, max(1, wanted), replace=False) if len(candidates) else candidates
        is_masked = may_be_masked & np.isin(units, chosen)
        num_masked = int(is_masked.sum())
        drawn, random_ids = generator.random(num_masked), generator.choice(self.ordinary_ids, num_masked)
        changed = np.where(drawn < config.hidden_share + config.random_share, random_ids, ids[is_masked])  # [M]
        ids[is_masked] = np.where(drawn < config.hidden_share, self.mask_id, changed)
        return ids, is_masked
