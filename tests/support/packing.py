"""Documents packed into rows of tokens, for the tests of decoders."""

from functools import partial

import torch
from torch import Tensor

NUM_TOKENS = 11

DOCUMENTS = [[3, 4, 5, 6, 7], [8], [9, 10, 3, 4]]
assert_close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-5)


def rows(num_rows: int = 3, length: int = 12) -> Tensor:
    return torch.randint(NUM_TOKENS, (num_rows, length), generator=torch.Generator().manual_seed(1))


def packed() -> tuple[Tensor, Tensor]:
    """The documents in one row, and in a second one in another order; the last is padding."""
    orders = [DOCUMENTS, [*reversed(DOCUMENTS)]]
    ids = [[token for document in order for token in document] + [0, 0] for order in orders]
    numbers = [[n for n, document in enumerate([*order, [0, 0]]) for _ in document] for order in orders]
    return torch.tensor(ids), torch.tensor(numbers)
