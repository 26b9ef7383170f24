"""N-gram probabilities as tables that many queries at a time are looked up in.

Shapes: R rows, each a context; K tokens that are scored behind it; O the highest order.
"""

from collections.abc import Iterator, Sequence
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

    def forward(self, context: Tensor, tokens: Tensor) -> Tensor:
        """Score tokens, [R, K], behind contexts, [R, O - 1]. Returns: log probabilities in nats, [R, K]."""
        scores = self.get_buffer("log_probabilities_1")[tokens]
        for order, (places, index) in self._seen(context, tokens):
            scores += self._backoffs(order - 1, context[:, order - 2])[:, None]
            if len(places):
                scores.view(-1)[places] = self.get_buffer(f"log_probabilities_{order}")[index]
        return scores

    def following(self, context: Tensor, tokens: Tensor) -> Tensor:
        """Return the contexts behind a token for each row, [R]: [R, O - 1]."""
        following = torch.full_like(context, -1)
        following[:, :1] = tokens[:, None]
        for order, (places, index) in self._seen(context, tokens[:, None]):
            if order < self.highest:
                following[places, order - 1] = index
        return following

    def _backoffs(self, order: int, index: Tensor) -> Tensor:
        """Return the log backoffs of n-grams by their index, 0 for index -1."""
        values = self.get_buffer(f"log_backoffs_{order}")
        if not len(values):
            return values.new_zeros(index.shape)
        return values[index.clamp(min=0)].masked_fill(index < 0, 0.0)

    def _seen(self, context: Tensor, tokens: Tensor) -> Iterator[tuple[int, tuple[Tensor, Tensor]]]:
        """Yield each order from 2, and places of `tokens`, flattened, with the index of the n-gram that ends there.

        A longer n-gram is looked up only where the shorter one that it ends with was found: that is kept with it.
        """
        flat, places = tokens.flatten(), torch.arange(tokens.numel(), device=tokens.device)
        for order in range(2, self.highest + 1):
            keys = self.get_buffer(f"keys_{order}")
            contexts = context[places // tokens.shape[1], order - 2]
            is_seen = (contexts >= 0) & bool(len(keys))
            places = places[is_seen]
            if not len(places):
                index = places
            else:
                wanted = contexts[is_seen] * self.vocabulary_size + flat[places]
                index = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)
                is_found = keys[index] == wanted
                places, index = places[is_found], index[is_found]
            yield order, (places, index)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Take over tables of any size."""
        for name, own in list(self._buffers.items()):
            stored = state_dict.get(prefix + name)
            if own is not None and stored is not None and own.shape != stored.shape:
                setattr(self, name, torch.empty_like(stored, device=own.device))
        super()._load_from_state_dict(state_dict, prefix, *args)
