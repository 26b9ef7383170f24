"""Integrated gradients: what each token has added to a score, compared with a text that says nothing.

Shapes: K copies of a text, N windows, T positions, D width, E scores.

Source: M. Sundararajan et al. (2017), "Axiomatic Attribution for Deep Networks"; computed by captum.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightrail.lightning_modules.explaining.attention import finite
from lightrail.lightning_modules.explaining.explanation import Attribution, Question
from lightrail.lightning_modules.networks.encoders.encoder import Spelling
from lightrail.lightning_modules.networks.token_network import TokenNetwork

NUMBERS_OF_STEPS = (50, 200)
"""Points of the integral: the second number where the first gives an error above the bound."""
BRIEF_STEPS, BRIEF_SCORES = 16, 2
"""Points of the integral, and how many scores are attributed, where the question is a brief one."""
_POSITIONS_AT_ONCE = 2048
"""Positions of a forward pass, which reads the points of as many copies of the text as that are."""
_SCORES_AT_ONCE = 8
"""Scores whose gradients are held for each position."""


def integrated_gradients(
    network: TokenNetwork,
    scores: Callable[[int], Tensor],
    titles: Sequence[str],
    tokens: Sequence[str],
    is_token: Tensor,
    question: Question,
    *,
    neutral: tuple[int, str] | None,
    note: str = "",
) -> Iterator[Attribution]:
    """Attribute scores to the vectors that the network reads: at each position the sum of all its embeddings.

    Args:
        scores: runs the network, in evaluation mode, on K copies of the text, and returns their scores, [K, E].
        titles: names of the scores, [E].
        is_token: False at padding, [N, T].
        neutral: id and name of the token that the baseline has at every position; None: a vector of zeros.
    """
    titles = titles[:BRIEF_SCORES] if question.is_brief else titles
    if not titles:
        return
    embedding = network.input_embedding()
    with torch.no_grad():
        with _watched(embedding) as calls:
            reached = finite(scores(1))[0].tolist()
        ((arguments, states),) = calls
        baseline = _baseline(embedding, arguments, states, neutral)
        start = _with_input(embedding, baseline, partial(scores, 1))[0].tolist()

    def found(number: int, parts: Tensor, num_steps: int) -> Attribution:
        return Attribution(
            title=titles[number],
            note=note,
            tokens=tokens,
            values=parts.sum(-1)[is_token].double().tolist(),
            score=reached[number],
            baseline_score=start[number],
            baseline="a vector of zeros" if neutral is None else neutral[1],
            num_steps=num_steps,
        )

    few, *more = (BRIEF_STEPS,) if question.is_brief else NUMBERS_OF_STEPS
    integral = _Integral(embedding, scores, states, baseline)
    for first in range(0, len(titles), _SCORES_AT_ONCE):
        numbers = [*range(len(titles))][first : first + _SCORES_AT_ONCE]
        own = {at: found(at, part, few) for at, part in zip(numbers, integral.parts(numbers, few), strict=True)}
        for num_steps in more:
            if missed := [at for at in numbers if not own[at].is_reliable]:
                parts = integral.parts(missed, num_steps)
                own |= {at: found(at, part, num_steps) for at, part in zip(missed, parts, strict=True)}
        yield from own.values()


@dataclass(frozen=True)
class _Integral:
    """Gradients of several scores, integrated between a baseline and a text over the same forward passes."""

    embedding: nn.Module
    scores: Callable[[int], Tensor]
    states: Tensor
    """What the network reads of the text, [N, T, D]."""
    baseline: Tensor

    def parts(self, numbers: Sequence[int], num_steps: int) -> Tensor:
        """Return the part of each position's vector in each of these scores, [E, N, T, D]."""
        from captum.attr import IntegratedGradients  # here: no other command needs it

        method = IntegratedGradients(self.scores)
        method.gradient_func = partial(self._gradients, numbers)
        at_once = max(1, _POSITIONS_AT_ONCE // self.states[..., 0].numel())
        ends = (own.expand(1, len(numbers), *own.shape) for own in (self.states, self.baseline))
        # cuDNN computes gradients of a recurrent network in training mode alone.
        with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
            parts: Tensor = method.attribute(*ends, n_steps=num_steps, internal_batch_size=at_once)
        return parts[0]

    def _gradients(self, numbers: Sequence[int], *, inputs: tuple[Tensor], **_: Any) -> tuple[Tensor]:
        """Return the gradient of each score for the same vectors, [K, E, N, T, D] to the same."""
        given = inputs[0][:, 0].detach().requires_grad_()  # [K, N, T, D]
        scores = _with_input(self.embedding, given.flatten(0, 1), partial(self.scores, len(given)))  # [K, E]
        own = [torch.autograd.grad(scores[:, at].sum(), given, retain_graph=True)[0] for at in numbers]
        return (torch.stack(own, dim=1),)


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
    """Return the scores, [K, E], of other vectors, [K N, T, D], than those of the text."""
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
