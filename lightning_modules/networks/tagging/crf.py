"""A linear-chain conditional random field over tags, batched and in log space.

Shapes: B sentences, W words, K tags, S segments. A mask is True at words and False at the padding after them; each
sentence has at least one word. Scores are computed with in float32 where they come in half precision.

Source: J. Lafferty et al. (2001), "Conditional Random Fields"; C. Sutton and A. McCallum (2012), "An Introduction to
Conditional Random Fields", for the forward-backward recursions.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightrail.lightning_modules.networks.number_formats import at_least_float32

FORBIDDEN = -1e4
"""Score of a transition that the tagging scheme rules out: finite, so that no gradient becomes NaN."""


@dataclass(frozen=True)
class TagRules:
    """The tags that may begin a sentence, follow each other and end it."""

    starts: Tensor
    """[K], bool."""
    transitions: Tensor
    """[from K, to K], bool."""
    ends: Tensor
    """[K], bool."""


class LinearChainCrf(nn.Module):
    """Scores tag sequences by emissions and learned transitions; sequences against the rules have no probability.

    Args:
        learns_transitions: False leaves the decision to emissions and rules alone.
    """

    starts: Tensor
    transitions: Tensor
    ends: Tensor
    starts_allowed: Tensor
    transitions_allowed: Tensor
    ends_allowed: Tensor
    temperature: Tensor
    """Divides all scores, [], 1 until it is fitted: a higher one makes predictions less certain and changes none."""

    def __init__(self, rules: TagRules, *, learns_transitions: bool = True) -> None:
        super().__init__()
        num_tags = len(rules.starts)
        for name, shape in (("starts", (num_tags,)), ("transitions", (num_tags, num_tags)), ("ends", (num_tags,))):
            if learns_transitions:
                self.register_parameter(name, nn.Parameter(torch.zeros(shape)))
            else:
                self.register_buffer(name, torch.zeros(shape), persistent=False)
        self.register_buffer("temperature", torch.ones(()))
        for name in ("starts", "transitions", "ends"):
            self.register_buffer(f"{name}_allowed", getattr(rules, name), persistent=False)

    def log_likelihood(self, emissions: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
        """Return the log probability of each sentence's tags, in nats.

        Args:
            emissions: [B, W, K].
            tags: [B, W]; tags at padding are ignored.
            mask: [B, W].

        Returns: [B].
        """
        last = tags.gather(1, mask.sum(1, keepdim=True) - 1)[:, 0]
        score = self._path_scores(emissions, tags, mask)[:, -1] + self._scores("ends")[last]
        return score - self.log_partition(emissions, mask)

    def log_partition(self, emissions: Tensor, mask: Tensor) -> Tensor:
        """Return the log of the sum over all tag sequences of their exponentiated scores, [B]."""
        alphas = self._forward_scores(emissions, mask)[-1]
        return torch.logsumexp(alphas + self._scores("ends"), dim=-1)

    @torch.no_grad()
    def decode(self, emissions: Tensor, mask: Tensor) -> Tensor:
        """Return the most probable tags of each sentence (Viterbi), [B, W]; 0 at padding."""
        transitions, best = self._scores("transitions"), self._scores("starts") + self._scaled(emissions)[:, 0]
        pointers = []
        for emission, is_word in self._steps(emissions, mask):
            values, sources = (best[:, :, None] + transitions).max(1)  # [B, K]
            best = torch.where(is_word, values + emission, best)
            pointers.append(torch.where(is_word, sources, torch.arange(best.shape[1], device=best.device)))
        path = [(best + self._scores("ends")).argmax(-1)]
        for sources in reversed(pointers):
            path.append(sources.gather(1, path[-1][:, None])[:, 0])
        return torch.stack(path[::-1], dim=1) * mask

    @torch.no_grad()
    def segment_probabilities(self, emissions: Tensor, tags: Tensor, mask: Tensor, segments: Tensor) -> Tensor:
        """Return the probability that the words of a segment have the tags given, whatever the tags around it.

        Args:
            emissions, tags, mask: as for `log_likelihood`.
            segments: (sentence, first word, end word exclusive) of each, [S, 3].

        Returns: [S].
        """
        alphas = torch.stack(self._forward_scores(emissions, mask), dim=1)  # [B, W, K]
        betas = self._backward_scores(emissions, mask)
        totals = torch.logsumexp(alphas[:, -1] + self._scores("ends"), dim=-1)
        inner = self._path_scores(emissions, tags, mask)
        sentence, first, last = segments[:, 0], segments[:, 1], segments[:, 2] - 1
        before = alphas[sentence, first, tags[sentence, first]]
        after = betas[sentence, last, tags[sentence, last]]
        own = inner[sentence, last] - inner[sentence, first]
        return (before + own + after - totals[sentence]).exp().clamp(max=1)

    def _path_scores(self, emissions: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
        """Return the score of each sentence's tags up to each word, without that of its end, [B, W]."""
        tags = tags * mask
        steps = self._scaled(emissions).gather(2, tags[..., None])[..., 0]  # [B, W]
        moves = self._scores("transitions")[tags[:, :-1], tags[:, 1:]]
        steps = torch.cat([steps[:, :1] + self._scores("starts")[tags[:, :1]], steps[:, 1:] + moves], dim=1) * mask
        return steps.cumsum(1)

    def _forward_scores(self, emissions: Tensor, mask: Tensor) -> list[Tensor]:
        """Return log sums over all ways to each tag at each word, W of [B, K]; padding repeats the last word's."""
        transitions = self._scores("transitions")
        alphas = [self._scores("starts") + self._scaled(emissions)[:, 0]]
        for emission, is_word in self._steps(emissions, mask):
            reached = torch.logsumexp(alphas[-1][:, :, None] + transitions, dim=1) + emission
            alphas.append(torch.where(is_word, reached, alphas[-1]))
        return alphas

    def _backward_scores(self, emissions: Tensor, mask: Tensor) -> Tensor:
        """Return the log of the sum over all continuations after each tag at each word, [B, W, K]."""
        transitions = self._scores("transitions")
        betas = [self._scores("ends").expand(len(emissions), -1)]
        for emission, is_word in reversed(list(self._steps(emissions, mask))):
            left = torch.logsumexp(transitions + (betas[-1] + emission)[:, None, :], dim=-1)
            betas.append(torch.where(is_word, left, betas[-1]))
        return torch.stack(betas[::-1], dim=1)

    def _steps(self, emissions: Tensor, mask: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Return emissions, [B, K], and whether there is a word, [B, 1], from the second word on."""
        return zip(self._scaled(emissions).unbind(1)[1:], mask[..., None].unbind(1)[1:], strict=True)

    def _scaled(self, emissions: Tensor) -> Tensor:
        return at_least_float32(emissions) / self.temperature

    def _scores(self, name: str) -> Tensor:
        """Return the scores of starts, transitions or ends, with what the rules forbid ruled out."""
        learned: Tensor = at_least_float32(getattr(self, name)) / self.temperature
        return learned.masked_fill(~getattr(self, f"{name}_allowed"), FORBIDDEN)
