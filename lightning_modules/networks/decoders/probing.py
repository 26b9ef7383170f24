"""Tests of a causal language model of transformers: whether it is causal, and how it separates documents in a row.

There are two ways to separate them: positions that restart at each document, from which most networks derive what each
position may see (their sliding windows included); and a mask. A network that takes neither is refused, for its scores
would depend on the other documents of the row.
"""

import inspect
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightrail.lightning_modules.networks.documents import document_mask, document_positions
from lightrail.lightning_modules.networks.loading import undisturbed
from lightrail.project.basics.private_names import attention_kind

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SEES = 1e-5
"""Fraction of the largest score by which scores may change with what should not be seen. Sums are computed in the same
order each time: what is not seen changes nothing at all, except in networks that sort tokens by their experts."""
_DIFFERS = 5e-3
"""That fraction for a document packed and alone, which are computed in different orders."""


def takes(model: "PreTrainedModel", argument: str) -> bool:
    """Return whether `forward` has such an argument."""
    return argument in inspect.signature(model.forward).parameters


def is_causal(model: "PreTrainedModel") -> bool:
    """Return whether no position sees what follows it, found out by changing what follows."""
    ids = _tokens(model)
    other = ids.clone()
    other[:, 3:] = ids[:, :3]  # others, not the same in another order: some networks hardly look at the order
    with undisturbed(model):
        before, after = (_scores(model, tokens) for tokens in (ids, other))
    return _distance(before[:, :3], after[:, :3]) <= _SEES


class PackedArguments:
    """The arguments of `forward` that separate the documents of a row, found by trying.

    Raises: ValueError when there are none.
    """

    def __init__(self, model: "PreTrainedModel") -> None:
        self.has_positions = takes(model, "position_ids")
        self.lowest = None if attention_kind(model.config) == "sdpa" else torch.finfo(model.dtype).min
        self.has_mask = False
        if self.has_positions and self._keep_apart(model):
            return
        # A mask of ours takes the place of the network's own, and its window would be lost.
        windows = ("sliding_window", "window_size", "attention_chunk_size")
        self.has_mask = not any(getattr(model.config, name, None) for name in windows)
        if not (self.has_mask and self._keep_apart(model)):
            raise ValueError(model.config.model_type)

    def __call__(self, document_ids: Tensor) -> dict[str, Tensor]:
        arguments = {"position_ids": document_positions(document_ids)} if self.has_positions else {}
        if self.has_mask:
            is_seen = document_mask(document_ids)  # [B, 1, T, T]
            lowest = self.lowest
            arguments["attention_mask"] = is_seen if lowest is None else (~is_seen) * lowest
        return arguments

    def _keep_apart(self, model: "PreTrainedModel") -> bool:
        ids = _tokens(model)
        other = ids.clone()
        other[:, :3] = ids[:, :3].flip(1)
        numbers = torch.tensor([[0] * 3 + [1] * (ids.shape[1] - 3)], device=ids.device)
        with undisturbed(model):
            try:
                packed, beside = (_scores(model, tokens, **self(numbers))[:, 3:] for tokens in (ids, other))
            except (ValueError, TypeError, RuntimeError):  # no argument of this form
                return False
            alone = _scores(model, ids[:, 3:])
        rough = max(_DIFFERS, 8 * torch.finfo(model.dtype).eps)
        return _distance(packed, beside) <= _SEES and _distance(packed, alone) <= rough


def _tokens(model: "PreTrainedModel") -> Tensor:
    """Return six different token ids, [1, 6], none of them the last of the table, where padding often is."""
    size: int = model.get_input_embeddings().num_embeddings
    return torch.arange(1, 7, device=model.device)[None] * max(1, size // 7) % size


def _scores(model: "PreTrainedModel", ids: Tensor, **arguments: Tensor) -> Tensor:
    more: dict[str, Any] = {"use_cache": False} if takes(model, "use_cache") else {}
    scores: Tensor = model(input_ids=ids, **arguments, **more).logits
    return scores.float()


def _distance(first: Tensor, second: Tensor) -> float:
    distance = ((first - second).abs().amax() / first.abs().amax().clamp(min=1e-30)).item()
    return math.inf if math.isnan(distance) else distance
