"""Integrated gradients: what each token has added to a score, compared with a text that says nothing.

Shapes: N windows, T positions, D width.

Source: M. Sundararajan et al. (2017), "Axiomatic Attribution for Deep Networks"; computed by captum.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightrail.lightning_modules.explaining.attention import finite
from lightrail.lightning_modules.explaining.explanation import Attribution
from lightrail.lightning_modules.networks.encoders.encoder import Spelling
from lightrail.lightning_modules.networks.token_network import TokenNetwork

NUMBERS_OF_STEPS = (50, 200)
"""Points of the integral: the second number where the first gives an error above the bound."""


def integrated_gradients(
    network: TokenNetwork,
    score: Callable[[], Tensor],
    tokens: Sequence[str],
    is_token: Tensor,
    *,
    neutral: tuple[int, str] | None,
    title: str,
    note: str = "",
) -> Attribution:
    """Attribute a score to the vectors that the network reads: at each position the sum of all its embeddings.

    Args:
        score: runs the network, in evaluation mode, and returns the score, [].
        is_token: False at padding, [N, T].
        neutral: id and name of the token that the baseline has at every position; None: a vector of zeros.
    """
    from captum.attr import IntegratedGradients  # here: no other command needs it

    embedding = network.input_embedding()
    with torch.no_grad():
        with _watched(embedding) as calls:
            reached = float(finite(score()))
        ((arguments, states),) = calls
        baseline = _baseline(embedding, arguments, states, neutral)
        start = float(_with_input(embedding, baseline, score))

    def forward(given: Tensor) -> Tensor:
        return _with_input(embedding, given[0], score)[None]  # [1]

    method = IntegratedGradients(forward)
    for num_steps in NUMBERS_OF_STEPS:
        # cuDNN computes gradients of a recurrent network in training mode alone.
        with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
            parts = method.attribute(states[None], baseline[None], n_steps=num_steps, internal_batch_size=1)
        found = Attribution(
            title=title,
            note=note,
            tokens=tokens,
            values=parts[0].sum(-1)[is_token].double().tolist(),
            score=reached,
            baseline_score=start,
            baseline="a vector of zeros" if neutral is None else neutral[1],
            num_steps=num_steps,
        )
        if found.is_reliable:
            break
    return found


def _baseline(
    embedding: nn.Module, arguments: tuple[Any, ...], states: Tensor, neutral: tuple[int, str] | None
) -> Tensor:
    """Return the vectors of a text that says nothing, [N, T, D]."""
    if neutral is None:
        return torch.zeros_like(states)
    ids, *others = arguments
    unspelled = [own._replace(word_ids=own.word_ids * 0) if isinstance(own, Spelling) else own for own in others]
    vectors: Tensor = embedding(torch.full_like(ids, neutral[0]), *unspelled)
    return vectors


def _with_input(embedding: nn.Module, states: Tensor, score: Callable[[], Tensor]) -> Tensor:
    """Return the score of other vectors, [N, T, D], than those of the text."""
    hook = embedding.register_forward_hook(lambda *_: states)
    try:
        return score()
    finally:
        hook.remove()


@contextmanager
def _watched(embedding: nn.Module) -> Iterator[list[tuple[tuple[Any, ...], Tensor]]]:
    """Collect the arguments and the output of each call of a module."""
    calls: list[tuple[tuple[Any, ...], Tensor]] = []
    hook = embedding.register_forward_hook(lambda _, arguments, output: calls.append((arguments, output)))
    try:
        yield calls
    finally:
        hook.remove()
