"""How targets are searched, and what a search finds.

Shapes: B sentences, S positions of the source, R rows of a search, T positions of the target, V tokens.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval
from torch import Tensor

from lightrail.project.basics.annotations import NaturalInt, PositiveInt, Ranged

Allow = Callable[[list[int], Tensor], Tensor]
"""Which tokens may come next: takes the number of each sentence and the tokens of each row so far, [R, T], and returns
True for allowed ones, [R, V]."""


@dataclass(frozen=True, kw_only=True)
class DecodingConfig(Ranged):
    """How a target is searched."""

    num_beams: PositiveInt = 5
    """Prefixes that are followed at a time, at least 1; 1 always takes the likeliest token (greedy search)."""
    length_penalty: Annotated[float, Interval(ge=-10, le=10)] = 1.0
    """A target of L tokens with probability p counts as log p / L ** `length_penalty`: 0 prefers short ones, larger
    values longer ones."""
    num_best: PositiveInt = 1
    """Targets that are returned for each source, at most `num_beams`."""
    max_tokens: PositiveInt = 256
    """Most tokens of a target, at least 1."""
    max_ratio: Annotated[float, Interval(gt=0, lt=math.inf)] = 3.0
    """Most tokens of a target for each token of its source, above 0; besides `max_more`."""
    max_more: NaturalInt = 20
    """Tokens that a target may have beyond `max_ratio`, at least 0."""

    def limits(self, is_token: Tensor) -> list[int]:
        """Return the most tokens of each sentence's target, by its own length alone: [B, S] to B numbers."""
        lengths: list[int] = is_token.sum(1).tolist()
        return [min(self.max_tokens, int(self.max_ratio * length) + self.max_more) for length in lengths]


@dataclass(frozen=True)
class Hypothesis:
    """One target that a search found."""

    ids: list[int]
    """Token ids, without those at the start and the end."""
    log_probability: float
    """Of all its tokens, the end included."""
    is_cut: bool
    """Whether it reached the limit of its length before its end."""

    @property
    def num_scored(self) -> int:
        """Number of tokens that `log_probability` is of."""
        return max(1, len(self.ids) + (not self.is_cut))

    @property
    def score(self) -> float:
        """Geometric mean of the tokens' probabilities, in [0, 1]."""
        return math.exp(self.log_probability / self.num_scored)

    def value(self, length_penalty: float) -> float:
        """Return what a search with this penalty maximises."""
        return float(self.log_probability / self.num_scored**length_penalty)
