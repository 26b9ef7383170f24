"""What each token can be read as, as tables that models of one data set share.

Shapes: B sentences, T positions, K most candidates of a syllable.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lightrail.lightning_modules.base import Batch

PAD, UNKNOWN_TOKEN = 0, 1
"""Of the data, whose vocabulary begins at 2."""
START, END, UNKNOWN = 0, 1, 2
"""Of what is written."""


class CharacterTable(nn.Module):
    """The characters that each token may be written as, with ids of their own.

    Args:
        vocabulary: the tokens that are read, whose ids begin at 2.
        candidates: for each syllable its characters and how often each was seen.
    """

    def __init__(self, vocabulary: Sequence[str], candidates: Mapping[str, Mapping[str, int]]) -> None:
        super().__init__()
        others = [token for token in vocabulary if token not in candidates]
        self.characters = sorted({character for own in candidates.values() for character in own})
        self.written = ["", "", "", *others, *self.characters]
        """The text of each id that may be written; no text of what is copied from the input."""
        self.ids = {token: number for number, token in enumerate(self.written) if token}
        own_ids = [[self.ids[own] for own in candidates.get(token, (token,))] for token in vocabulary]
        readings = _log_readings(vocabulary, candidates)
        self.register_buffer("choices", _table([[END], [UNKNOWN], *own_ids]), persistent=False)
        self.register_buffer("log_readings", _table([[0.0], [0.0], *readings]).float(), persistent=False)
        counts = [len(candidates.get(token, ())) for token in vocabulary]
        self.register_buffer("num_candidates", torch.tensor([0, 0, *counts]), persistent=False)
        self.choices: Tensor  # ids, the most frequent character first, [tokens, K]
        self.log_readings: Tensor  # log probability of the token where the character is to be typed, [tokens, K]
        self.num_candidates: Tensor  # 0 of what is copied, [tokens]

    def expected(self, batch: Batch) -> Tensor:
        """Return the ids of the expected characters, and of other tokens, [B, T]; `END` at padding."""
        input_ids, labels = batch["input_ids"], batch["labels"]
        ids = self.choices[input_ids].gather(-1, labels.clamp(min=0)[..., None].long())[..., 0]
        return ids.masked_fill((self.num_candidates[input_ids] > 0) & (labels < 0), UNKNOWN)

    def is_choice(self, tokens: Tensor, most: int) -> Tensor:
        """Return which of the first `most` choices of tokens there are, [N] to [N, most]."""
        return torch.arange(most, device=tokens.device) < self.num_candidates[tokens].clamp(min=1)[:, None]

    def text(self, ids: Sequence[int], tokens: Sequence[str]) -> str:
        """Return the text of ids that were written for tokens; an unknown token is copied."""
        return "".join(self.parts(ids, tokens))

    def parts(self, ids: Sequence[int], tokens: Sequence[str]) -> list[str]:
        """Return what is written for each token."""
        return [self.written[number] or token for number, token in zip(ids, tokens, strict=True)]


def _log_readings(vocabulary: Sequence[str], candidates: Mapping[str, Mapping[str, int]]) -> list[list[float]]:
    totals: Counter[str] = Counter()
    for token, own in candidates.items():
        if not token.endswith("-"):  # an initial alone stands for syllables that are counted themselves
            totals.update(own)
    return [
        [min(0.0, math.log(count / totals[name])) for name, count in candidates.get(token, {}).items()] or [0.0]
        for token in vocabulary
    ]


def _table(rows: Sequence[Sequence[float]]) -> Tensor:
    """Return lists of numbers as one table; shorter ones repeat their first entry."""
    longest = max(map(len, rows))
    return torch.tensor([[*own, *[own[0]] * (longest - len(own))] for own in rows])
