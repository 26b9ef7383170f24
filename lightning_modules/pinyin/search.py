"""Beam search for the sentence that one or several models together find most probable.

Shapes: B sentences, T positions, R prefixes that are followed, K choices for their next token, F models.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from annotated_types import Gt
from torch import Tensor

from lightrail.lightning_modules.pinyin.characters import CharacterTable
from lightrail.project.basics.annotations import PositiveInt, Ranged

_NEVER = -1e6
"""Log probability of what is no choice, or impossible: finite, so that a weight of 0 is no number times infinity."""


@dataclass(frozen=True, kw_only=True)
class BeamConfig(Ranged):
    """How far a search looks for better sentences."""

    num_beams: PositiveInt = 24
    """Prefixes of a sentence that are followed at a time. N-grams, which see nothing of what follows, need many: on a
    newspaper 8 gave a character accuracy of 0.854, and 24 gave 0.889."""
    max_gap: Annotated[float, Gt(0)] = 12.0
    """A prefix is pruned when it is less probable than the best one by more than this, in nats."""
    num_choices: PositiveInt = 64
    """Characters that are tried for a syllable: the most frequent ones."""
    num_fused: PositiveInt = 12
    """Of these, those that the second of two models scores: the most probable ones to the first."""


@dataclass(frozen=True)
class Step:
    """The next token of each prefix, and what it may be written as."""

    place: int
    """Position of these tokens."""
    sentences: Tensor
    """Example of each prefix, [R]."""
    tokens: Tensor
    """Their ids, [R]."""
    choices: Tensor
    """Ids of what each may be written as, [R, K]."""
    columns: Tensor
    """Which of the token's candidates these are, the most frequent being 0, [R, K]."""
    log_readings: Tensor
    """Log probability of the token where each choice is to be typed, in nats, [R, K]."""

    def narrowed(self, kept: Tensor) -> "Step":
        """Return the step with some choices of each row, [R, K']."""
        return replace(
            self,
            choices=self.choices.gather(1, kept),
            columns=self.columns.gather(1, kept),
            log_readings=self.log_readings.gather(1, kept),
        )


class Follower(ABC):
    """What one model knows of the prefixes of a search in progress."""

    @abstractmethod
    def score(self, step: Step) -> Tensor:
        """Return log probabilities of the choices in nats, [R, K], of any value where there is none."""

    @abstractmethod
    def follow(self, rows: Tensor, written: Tensor) -> None:
        """Follow prefixes that are one choice longer than those just scored.

        Args:
            rows: which prefix each new one continues, [R'].
            written: by which choice, [R'].
        """

    @abstractmethod
    def select(self, rows: Tensor) -> None:
        """Follow some of the prefixes alone, [R']."""


@dataclass(frozen=True)
class Found:
    """A sentence that was found."""

    ids: list[int]
    """What is written for each token."""
    log_probability: float
    """In nats."""
    parts: list[float]
    """The same from each follower, without its weight."""


def search(
    table: CharacterTable,
    batch: Mapping[str, Any],
    followers: Sequence[tuple[float, Follower]],
    config: BeamConfig,
    num: int = 1,
) -> list[list[Found]]:
    """Return the best sentences of each example, the most probable first.

    The score of a sentence is the sum of those of the followers, each times its weight. The first of them chooses which
    characters the others score.

    Args:
        table: what tokens can be written as.
        batch: `input_ids`, [B, T], and `attention_mask`.
        followers: models with their weights, which add up to 1.
        config: how far the search looks.
        num: most sentences of an example.
    """
    input_ids = batch["input_ids"]
    lengths = batch["attention_mask"].sum(1)
    sentences = torch.arange(len(input_ids), device=input_ids.device)
    weights = torch.tensor([weight for weight, _ in followers], dtype=torch.float32, device=input_ids.device)
    totals = weights.new_zeros(len(input_ids), len(followers))  # by each follower, [R, F]
    written = input_ids.new_zeros(len(input_ids), 0).long()
    finished: list[list[Found]] = [[] for _ in range(len(input_ids))]
    num_beams = max(num, config.num_beams)
    for place in range(input_ids.shape[1] + 1):
        is_over = lengths[sentences] == place
        if bool(is_over.any()):
            _finish(finished, sentences[is_over], totals[is_over], weights, written[is_over], num)
            going = (~is_over).nonzero()[:, 0]
            if not len(going):
                break
            sentences, totals, written = sentences[going], totals[going], written[going]
            for _, follower in followers:
                follower.select(going)
        tokens = input_ids[sentences, place].long()
        most = min(config.num_choices, max(1, int(table.num_candidates[tokens].max())))
        step = table_step(table, place, sentences, tokens, most)
        scores, kept = _scored(step, table.is_choice(tokens, most), followers, config.num_fused)  # [R, K, F], [R, K]
        rows, columns = _best(sentences, (totals[:, None] + scores) @ weights, num_beams, config.max_gap)
        totals = totals[rows] + scores[rows, columns]
        chosen = step.choices[rows, kept[rows, columns]]
        sentences, written = sentences[rows], torch.cat([written[rows], chosen[:, None]], 1)
        for _, follower in followers:
            follower.follow(rows, chosen)
    return finished


def table_step(table: CharacterTable, place: int, sentences: Tensor, tokens: Tensor, most: int) -> Step:
    """Return the step in which each token may be written as any of its `most` most frequent candidates."""
    columns = torch.arange(most, device=tokens.device).expand(len(tokens), -1)
    return Step(place, sentences, tokens, table.choices[tokens, :most], columns, table.log_readings[tokens, :most])


def _scored(
    step: Step, is_choice: Tensor, followers: Sequence[tuple[float, Follower]], num_fused: int
) -> tuple[Tensor, Tensor]:
    """Return the scores of choices by each follower, [R, K, F], and which of the step's choices they are, [R, K].

    Where there is no choice, they are so low that it is never taken.
    """
    (_, first), others = followers[0], followers[1:]
    scores = first.score(step).clamp(min=_NEVER).masked_fill(~is_choice, _NEVER)
    kept = torch.arange(scores.shape[1], device=scores.device).expand_as(scores)
    if others and scores.shape[1] > num_fused:
        scores, kept = scores.topk(num_fused, dim=1)
        step, is_choice = step.narrowed(kept), is_choice.gather(1, kept)
    rest = [other.score(step).clamp(min=_NEVER).masked_fill(~is_choice, _NEVER) for _, other in others]
    return torch.stack([scores, *rest], -1), kept


def _best(sentences: Tensor, totals: Tensor, num_beams: int, max_gap: float) -> tuple[Tensor, Tensor]:
    """Return row and column of the best continuations of each sentence, whose prefixes are adjacent rows."""
    _, counts = torch.unique_consecutive(sentences, return_counts=True)
    first = counts.cumsum(0) - counts
    groups = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
    slots = torch.arange(len(sentences), device=counts.device) - first[groups]
    num_slots, num_choices = int(counts.max()), totals.shape[1]
    grid = totals.new_full((len(counts), num_slots, num_choices), -torch.inf)
    grid[groups, slots] = totals
    best, index = grid.flatten(1).topk(min(num_beams, num_slots * num_choices), dim=1)
    own, ranks = (best >= best[:, :1] - max_gap).nonzero(as_tuple=True)
    index = index[own, ranks]
    return first[own] + index // num_choices, index % num_choices


def _finish(
    finished: list[list[Found]], sentences: Tensor, totals: Tensor, weights: Tensor, written: Tensor, num: int
) -> None:
    """Add complete sentences, the best ones first in each example."""
    every = (totals @ weights).tolist()
    for sentence, total, parts, ids in zip(sentences.tolist(), every, totals.tolist(), written.tolist(), strict=True):
        if len(finished[sentence]) < num:
            finished[sentence].append(Found(ids, total, parts))
