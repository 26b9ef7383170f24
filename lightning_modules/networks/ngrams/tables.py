"""N-gram probabilities as tables that many queries at a time are looked up in.

Shapes: R rows, each a context; K tokens that are scored behind it; O the highest order.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightrail.lightning_modules.networks.ngrams.estimation import BOUNDARY, NgramOrder


class NgramTables(nn.Module):
    """Log probabilities of tokens behind contexts of up to O - 1 tokens.

    A context is a row of O - 1 indices: of its last token, its last two tokens and so on, among the n-grams of that
    length, and -1 where these were not seen. What is scored behind a context gives the contexts that follow.

    Args:
        vocabulary_size: number of token ids.
        highest: the highest order O, at least 1.
    """

    def __init__(self, vocabulary_size: int, highest: int) -> None:
        super().__init__()
        self.vocabulary_size, self.highest = vocabulary_size, highest
        for order in range(1, highest + 1):
            self.register_buffer(f"keys_{order}", torch.zeros(0, dtype=torch.int64))
            self.register_buffer(f"log_probabilities_{order}", torch.zeros(0, dtype=torch.float32))
            self.register_buffer(f"log_backoffs_{order}", torch.zeros(0, dtype=torch.float32))

    @property
    def is_estimated(self) -> bool:
        """Whether there are probabilities."""
        return len(self.get_buffer("log_probabilities_1")) > 0

    def fill(self, orders: Sequence[NgramOrder]) -> None:
        """Take over what was estimated."""
        for order, own in enumerate(orders, start=1):
            for name in ("keys", "log_probabilities", "log_backoffs"):
                device = self.get_buffer(f"{name}_{order}").device
                setattr(self, f"{name}_{order}", torch.from_numpy(getattr(own, name)).to(device))

    def start(self, num_rows: int) -> Tensor:
        """Return the context at the beginning of a sentence, [R, O - 1]."""
        device = self.get_buffer("keys_1").device
        context = torch.full((num_rows, self.highest - 1), -1, dtype=torch.int64, device=device)
        context[:, :1] = BOUNDARY
        return context

    def forward(self, context: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Score tokens behind contexts.

        Args:
            context: [R, O - 1].
            tokens: ids, [R, K].

        Returns: log probabilities in nats, [R, K], and the context behind each token, [R, K, O - 1].
        """
        scores = self.get_buffer("log_probabilities_1")[tokens]
        following = [tokens]
        for order in range(2, self.highest + 1):
            own = context[:, order - 2]
            scores = scores + self._values("log_backoffs", order - 1, own)[:, None]
            index = self._find(order, own, tokens)
            scores = torch.where(index < 0, scores, self._values("log_probabilities", order, index))
            following.append(index)
        return scores, torch.stack(following[: self.highest - 1], -1) if self.highest > 1 else context[:, None]

    def _values(self, name: str, order: int, index: Tensor) -> Tensor:
        """Return the values of n-grams by their index, 0 for index -1."""
        values = self.get_buffer(f"{name}_{order}")
        if not len(values):
            return values.new_zeros(index.shape)
        return values[index.clamp(min=0)].masked_fill(index < 0, 0.0)

    def _find(self, order: int, contexts: Tensor, tokens: Tensor) -> Tensor:
        """Return the index of each n-gram in the table of its order, -1 where it is not there, [R, K]."""
        keys = self.get_buffer(f"keys_{order}")
        if not len(keys):
            return torch.full_like(tokens, -1)
        wanted = contexts[:, None] * self.vocabulary_size + tokens
        index = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
        return index.masked_fill((keys[index] != wanted) | (contexts < 0)[:, None], -1)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Take over tables of any size."""
        for name, own in list(self._buffers.items()):
            stored = state_dict.get(prefix + name)
            if own is not None and stored is not None and own.shape != stored.shape:
                setattr(self, name, torch.empty_like(stored, device=own.device))
        super()._load_from_state_dict(state_dict, prefix, *args)
