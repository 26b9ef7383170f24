"""An output layer whose choices depend on the input token.

Shapes: N positions, D width, C candidates of all tokens together, K most candidates of one token.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightrail.lightning_modules.networks.number_formats import at_least_float32


class CandidateOutput(nn.Module):
    """Scores only the candidates of each position's own token.

    A syllable can be read as some ten characters, so this costs a few hundredths of a softmax over all of them.

    Args:
        width: size D of the states; 0 scores candidates by their counts alone.
        counts: how often each candidate of each token was seen, in the order of the token ids.
    """

    def __init__(self, width: int, counts: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.sizes = [len(own) for own in counts]
        self.starts = torch.tensor([0, *self.sizes]).cumsum(0).tolist()
        self.most = max(self.sizes, default=0)
        self.register_buffer("num_candidates", torch.tensor(self.sizes), persistent=False)
        self.num_candidates: Tensor
        self.weight = nn.Parameter(torch.randn(self.starts[-1], width) * 0.02) if width else None
        # The log of the counts: before it has learned anything the layer chooses the most frequent.
        self.bias = nn.Parameter(torch.tensor([float(count) for own in counts for count in own]).log())

    def has_candidates(self, tokens: Tensor) -> Tensor:
        """Return whether each token, of any shape, has candidates to choose from."""
        return self.num_candidates[tokens] > 0

    def forward(self, states: Tensor | None, tokens: Tensor) -> Tensor:
        """Score candidates.

        Args:
            states: [N, D]; None when the width is 0.
            tokens: token id of each position, [N]; each has candidates.

        Returns: logits in float32 or float64, [N, K]; minus infinity beyond a token's own candidates.
        """
        order = tokens.argsort()
        present, counts = torch.unique_consecutive(tokens[order], return_counts=True)
        groups, end = [], 0
        for token, count in zip(present.tolist(), counts.tolist(), strict=True):
            groups.append((end, end := end + count, self.starts[token], self.starts[token + 1]))
        with torch.autocast(tokens.device.type, enabled=False):
            own = None if states is None else at_least_float32(states[order])
            weight, bias = (None if part is None else at_least_float32(part) for part in (self.weight, self.bias))
            logits: Tensor = _GroupedLinear.apply(own, weight, bias, groups, self.most)  # type: ignore[no-untyped-call]
        return torch.empty_like(logits).index_copy(0, order, logits)


Group = tuple[int, int, int, int]
"""Rows of one token: first and end; its candidates: first and end."""


class _GroupedLinear(torch.autograd.Function):
    """One small matrix product per token; under plain autograd each slice of the weight would cost a full gradient."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor | None, weight: Tensor | None, bias: Tensor, groups: list[Group], most: int
    ) -> Tensor:
        logits = bias.new_full((groups[-1][1] if groups else 0, most), -torch.inf)
        for row, row_end, first, end in groups:
            own = bias[first:end]
            if states is not None and weight is not None:
                own = torch.addmm(own, states[row:row_end], weight[first:end].T)
            logits[row:row_end, : end - first] = own
        ctx.save_for_backward(states, weight, bias)
        ctx.groups = groups
        return logits

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor, None, None]:
        states, weight, bias = ctx.saved_tensors
        bias_gradient = torch.zeros_like(bias)
        state_gradient = None if states is None else torch.empty_like(states)
        weight_gradient = None if weight is None else torch.zeros_like(weight)
        for row, row_end, first, end in ctx.groups:
            own = gradient[row:row_end, : end - first]
            bias_gradient[first:end] = own.sum(0)
            if state_gradient is not None and weight_gradient is not None:
                torch.mm(own, weight[first:end], out=state_gradient[row:row_end])
                torch.mm(own.T, states[row:row_end], out=weight_gradient[first:end])
        return state_gradient, weight_gradient, bias_gradient, None, None
