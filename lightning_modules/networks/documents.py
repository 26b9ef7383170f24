"""Several documents in one row: the start of each, and the mask that separates them.

Shapes: B rows, T positions.
"""

import torch
from torch import Tensor


def document_positions(document_ids: Tensor) -> Tensor:
    """Count each position from the start of its document, [B, T] to [B, T].

    >>> document_positions(torch.tensor([[4, 4, 4, 7, 7]])).tolist()
    [[0, 1, 2, 0, 1]]
    """
    index = torch.arange(document_ids.shape[1], device=document_ids.device).expand_as(document_ids)
    is_start = torch.ones_like(document_ids, dtype=torch.bool)
    is_start[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
    return index - torch.where(is_start, index, 0).cummax(1).values


def document_mask(document_ids: Tensor) -> Tensor:
    """Return the causal mask within documents, [B, T] to [B, 1, T, T]: true where a row's position sees a column's.

    >>> document_mask(torch.tensor([[4, 4, 7]])).int().tolist()
    [[[[1, 0, 0], [1, 1, 0], [0, 0, 1]]]]
    """
    is_same = document_ids[:, None, :, None] == document_ids[:, None, None, :]
    return is_same.tril_()
