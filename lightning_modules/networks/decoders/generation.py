"""Text from a decoder, token by token.

Shapes: S samples, T positions, V tokens.
"""

import logging
import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, cast, runtime_checkable

import numpy as np
import torch
from annotated_types import Interval
from torch import Tensor

from lightrail.lightning_modules.networks.compiling import as_written
from lightrail.lightning_modules.networks.decoders.decoder import Decoder
from lightrail.lightning_modules.networks.modes import evaluating
from lightrail.project.basics.annotations import NaturalInt, PositiveInt, Ranged, ShareAboveZero
from lightrail.project.basics.errors import ConfigError

log = logging.getLogger(__name__)

Process = Callable[[Tensor, Tensor], Tensor]
"""Changes scores, [S, V], by the tokens so far, [S, T]."""


@dataclass(frozen=True, kw_only=True)
class GenerationConfig(Ranged):
    """How the next token is chosen."""

    max_tokens: PositiveInt = 200
    """Most tokens of a sample, its prompt not counted, at least 1."""
    temperature: Annotated[float, Interval(ge=0, lt=math.inf)] = 1.0
    """Divides the scores, 0 or more: below 1 likely tokens become likelier. 0 always takes the likeliest,
    so that all samples are the same."""
    top_k: PositiveInt | None = None
    """Choose among this many of the likeliest tokens, at least 1. null: among all."""
    top_p: ShareAboveZero = 1.0
    """Choose among the likeliest tokens that together have this probability, in (0, 1]."""
    repetition_penalty: Annotated[float, Interval(gt=0, lt=math.inf)] = 1.0
    """Makes tokens that the text or its prompt has already less likely, above 0; 1 changes nothing, below 1 favours
    them."""
    seed: NaturalInt = 0
    """Seed of the random choices, at least 0. A sample depends on it and its own number, not on how many there are."""


@runtime_checkable
class TextWriter(Protocol):
    """A task that generates text: for `lightrail generate` and the samples at each validation."""

    def tokenizer_facts(self) -> Mapping[str, Any]:
        """Return the facts that rebuild the tokenizer of the task's data."""

    def write(
        self, prompt_ids: Sequence[int], config: GenerationConfig, *, num_samples: int, end_id: int | None
    ) -> Generator[list[int | None]]:
        """Yield the next token of every sample, step by step, as `generate` does."""


@runtime_checkable
class TextResponder(Protocol):
    """A task that writes a text for a text that it has read: for `lightrail generate` and samples."""

    def respond(
        self, texts: Sequence[str], *, num_best: int = 1, max_tokens: int | None = None
    ) -> list[list[tuple[str, float]]]:
        """Return at most `num_best` responses to each text, best first, each with its score in [0, 1].

        Args:
            max_tokens: most tokens of a response. None: as the task is configured.
        """


@torch.no_grad()
def generate(
    decoder: Decoder, prompt_ids: Sequence[int], config: GenerationConfig, *, num_samples: int, end_id: int | None
) -> Generator[list[int | None]]:
    """Yield the next token of every sample, step by step; None for a sample that has ended.

    It stops when all have ended or `max_tokens` is reached, and may be left earlier. Until then the decoder is in
    evaluation mode; torch's global random numbers are not used. The decoder sees at most its `max_length` positions:
    of a longer prompt the last ones, and where the text grows longer, the older half is forgotten each time.

    Args:
        prompt_ids: token ids that the samples continue, the document's start included; not empty.
        num_samples: S, at least 1.
        end_id: the token id that ends a sample; None: none does.

    Raises: ConfigError when `num_samples` is below 1.
    """
    if num_samples < 1:
        raise ConfigError(f"the number of samples is {num_samples}. Give a number of at least 1.")
    with evaluating(decoder):
        yield from _steps(decoder, _repeated(prompt_ids, num_samples, decoder), config, end_id)


def _steps(decoder: Decoder, text: Tensor, config: GenerationConfig, end_id: int | None) -> Iterator[list[int | None]]:
    """Lengthen the text, [S, T], token by token."""
    context, process, choose = _Context(decoder), _process(config), _choice(config, len(text))
    has_ended = [False] * len(text)
    for _ in range(config.max_tokens):
        chosen = choose(process(text, context.next_scores(text)))  # [S]
        tokens = chosen.tolist()
        has_ended = [ended or token == end_id for ended, token in zip(has_ended, tokens, strict=True)]
        if all(has_ended):
            return
        yield [None if ended else token for ended, token in zip(has_ended, tokens, strict=True)]
        text = torch.cat([text, chosen[:, None]], dim=1)


class _Context:
    """The part of a growing text that the decoder has read."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.max_length = decoder.max_length or float("inf")
        self.cache = decoder.start_cache()
        self.num_cached = self.num_seen = 0
        """Positions in the cache, and positions of the text up to the last that was seen."""

    def next_scores(self, text: Tensor) -> Tensor:
        """Return scores of the token that follows the text, [S, T] to [S, V], in float32.

        A pretrained network may score more tokens than the tokenizer has; these are not chosen.
        """
        num_new = text.shape[1] - self.num_seen
        if self.num_cached + num_new > self.max_length:
            self.cache, self.num_cached = self.decoder.start_cache(), 0
            # Of a text that has grown, half the room is left free, or all of it would be read again for each token.
            num_new = int(self.max_length) if self.num_seen == 0 else max(1, int(self.max_length) // 2)
        new = text[:, -num_new:]
        is_last = torch.zeros_like(new, dtype=torch.bool)
        is_last[:, -1] = True
        self.num_cached, self.num_seen = self.num_cached + num_new, text.shape[1]
        with as_written([self.decoder]):
            scores: Tensor = self.decoder(new, keep=is_last, cache=self.cache)
        return scores[:, : self.decoder.num_tokens].float()


def _repeated(prompt_ids: Sequence[int], num_samples: int, decoder: Decoder) -> Tensor:
    """Return the prompt once for each sample, [S, T], on the decoder's device."""
    assert len(prompt_ids), "a prompt holds at least the start of a document"
    if decoder.max_length is not None and len(prompt_ids) > decoder.max_length:
        log.warning(
            "the prompt has %d tokens, and the model sees no more than its last %d", len(prompt_ids), decoder.max_length
        )
    device = next(decoder.parameters()).device
    return torch.tensor(list(prompt_ids), dtype=torch.int64, device=device).repeat(num_samples, 1)


def _process(config: GenerationConfig) -> Process:
    """Return the steps that narrow the choice, in the order of transformers."""
    from transformers.generation import logits_process as steps

    chain = steps.LogitsProcessorList()
    if config.repetition_penalty != 1:
        chain.append(steps.RepetitionPenaltyLogitsProcessor(float(config.repetition_penalty)))
    if config.temperature not in (0, 1):
        chain.append(steps.TemperatureLogitsWarper(float(config.temperature)))
    if config.top_k is not None:
        chain.append(steps.TopKLogitsWarper(config.top_k))
    if config.top_p < 1:
        chain.append(steps.TopPLogitsWarper(float(config.top_p)))
    return cast(Process, chain)


def _choice(config: GenerationConfig, num_samples: int) -> Callable[[Tensor], Tensor]:
    """Return the function that chooses a token of each sample by its scores, [S, V] to [S]."""
    if config.temperature == 0:
        return lambda scores: scores.argmax(-1)
    states = [np.random.SeedSequence([config.seed, number]).generate_state(1) for number in range(num_samples)]
    generators = [torch.Generator().manual_seed(int(state[0])) for state in states]

    def choose(scores: Tensor) -> Tensor:
        shares = scores.softmax(-1).cpu()
        if not shares.isfinite().all():
            raise ConfigError("the network's scores are not finite: its weights are damaged. Name another checkpoint.")
        drawn = [torch.multinomial(own, 1, generator=each) for own, each in zip(shares, generators, strict=True)]
        return torch.cat(drawn).to(scores.device)

    return choose
