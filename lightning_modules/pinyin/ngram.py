"""Pinyin to hanzi by n-grams of characters: the baseline that a network must beat, and what it is fused with.

Shapes: B sentences, T positions, N positions whose token is a syllable, R prefixes of a search, K choices, O the
highest order of n-grams.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from lightrail.lightning_modules.arguments import FromData
from lightrail.lightning_modules.base import Batch, TaskModule
from lightrail.lightning_modules.networks.candidates import CandidateOutput
from lightrail.lightning_modules.networks.ngrams.estimation import BOUNDARY, estimate
from lightrail.lightning_modules.networks.ngrams.tables import NgramTables
from lightrail.lightning_modules.optimization import OptimConfig
from lightrail.lightning_modules.pinyin.characters import CharacterTable
from lightrail.lightning_modules.pinyin.conversion_head import (
    NUM_SENTENCES,
    ConversionHead,
    Read,
    Sentence,
    parts_of,
    typed_candidates,
)
from lightrail.lightning_modules.pinyin.lattice_search import Edge, LatticeSearch
from lightrail.lightning_modules.pinyin.readings import Readings
from lightrail.lightning_modules.pinyin.search import BeamConfig, Follower, Step, table_step
from lightrail.project.basics.annotations import PositiveInt
from lightrail.project.basics.errors import ConfigError


@final
class PinyinNgram(TaskModule):
    """Finds the sentence whose characters are most probable behind each other, by n-grams counted in training.

    Training reads each sentence once and counts; its steps and their loss, that of single characters, change nothing
    else. The probabilities are estimated when the first evaluation begins, from what was counted until then.

    Args:
        vocabulary: the tokens that are read; from the data.
        candidates: for each syllable its characters and how often each was seen; from the data.
        min_counts: for each order, from 1, the least count of an n-gram that is kept; their number is the highest
            order. What is seen once is most of the higher ones.
        beams: how far the search looks.
    """

    pipeline_tag = "translation"
    monitor = "val/character_accuracy"

    def __init__(
        self,
        vocabulary: FromData[list[str]],
        candidates: FromData[dict[str, dict[str, int]]],
        *,
        min_counts: Sequence[PositiveInt] = (1, 1, 1, 2, 2),
        beams: BeamConfig = BeamConfig(),
        optim: OptimConfig = OptimConfig(lr=1e-6, schedule="constant", warmup_fraction=0.0),
    ) -> None:
        super().__init__(optim)
        self.save_hyperparameters()
        if not min_counts or list(min_counts) != sorted(min_counts):
            raise ConfigError(
                f"model.min_counts is {list(min_counts)}. Give a count for each order, none below the one before: an "
                "n-gram is stored behind the shorter one that it begins with."
            )
        self.min_counts, self.beams = list(min_counts), beams
        self.table = CharacterTable(vocabulary, candidates)
        self.head = ConversionHead(self.table, beams)
        self.single = CandidateOutput(
            width=0, counts=[(), ()] + [list(candidates.get(token, {}).values()) for token in vocabulary]
        )
        self.ngrams = NgramTables(len(self.table.written), len(min_counts))
        self._seen: list[Tensor] = []  # ids of the sentences of training with boundaries between them
        self.register_buffer("num_estimated", torch.zeros((), dtype=torch.int64))
        self.num_estimated: Tensor  # ids of `_seen` that the probabilities are from

    def forward(self, batch: Batch) -> Read:
        """Count a batch of training; else score the expected characters, where there are any."""
        input_ids = batch["input_ids"]
        is_syllable = self.single.has_candidates(input_ids)
        if self.training:
            self._count(batch)
            return Read(Readings(self.single(None, input_ids[is_syllable]), is_syllable), list)
        self._estimate()
        readings = Readings(self._score(batch)[is_syllable], is_syllable) if all(batch["text"]) else None
        return Read(readings, lambda: [(1.0, NgramFollower(self.ngrams, len(input_ids)))], self.read_typed)

    def read_typed(self, edges: Sequence[Edge], num: int) -> list[Sentence]:
        """Return the best sentences over all readings of typed letters, at most `num`."""
        return [
            Sentence(path.text, path.log_probability, parts_of(path)) for path in self.lattice_search.paths(edges, num)
        ]

    def typed_candidates(self, edges: Sequence[Edge]) -> list[tuple[tuple[str, int], ...]]:
        """Return what somebody who types may choose, see `conversion_head.typed_candidates`; none without n-grams.

        Args:
            edges: all readings of the letters typed so far.
        """
        sentences = self.read_typed(edges, NUM_SENTENCES) if edges else []
        return typed_candidates(sentences, self.lattice_search, self.beams.num_beams)

    @cached_property
    def lattice_search(self) -> LatticeSearch:
        """The search over readings of letters whose syllables are not separated."""
        self._estimate()
        return LatticeSearch(self.table, self.ngrams, self.hparams["vocabulary"], self.beams)

    def get_extra_state(self) -> Tensor:
        """Return what was counted of a training in progress, a tensor as all that is exported."""
        return torch.cat([torch.zeros(0, dtype=torch.int32), *self._seen])

    def set_extra_state(self, state: Tensor) -> None:
        """Restore what was counted."""
        self._seen = [state] if len(state) else []

    def _count(self, batch: Batch) -> None:
        if self.trainer.world_size > 1:
            raise ConfigError("PinyinNgram counts on one process. Set trainer.devices=1; it takes a minute or two.")
        if self.trainer.current_epoch or batch["is_filler"]:
            return  # each sentence once
        ids = torch.nn.functional.pad(self.table.expected(batch), (1, 0), value=BOUNDARY)
        is_token = torch.nn.functional.pad(batch["attention_mask"], (1, 0), value=True)
        self._seen.append(ids[is_token].int().cpu())

    def _estimate(self) -> None:
        """Estimate probabilities from what was counted since the last time."""
        num_seen = sum(map(len, self._seen))
        if num_seen and num_seen != int(self.num_estimated):
            boundary = torch.tensor([BOUNDARY], dtype=torch.int32)
            tokens = torch.cat([*self._seen, boundary]).numpy()
            self.ngrams.fill(estimate(tokens, len(self.table.written), self.min_counts))
            self.num_estimated.fill_(num_seen)
        own = self._trainer
        if own is None or own.state.fn != "fit" or own.is_last_batch:  # else more may follow, also after resuming
            self._seen = []

    def _score(self, batch: Batch) -> Tensor:
        """Return the scores of the candidates of each token behind the expected ones, [B, T, K]."""
        input_ids = batch["input_ids"].long()
        expected = self.table.expected(batch)
        follower = NgramFollower(self.ngrams, len(input_ids))
        everyone = torch.arange(len(input_ids), device=input_ids.device)
        most = self.table.choices.shape[1]
        scores = []
        for place, tokens in enumerate(input_ids.T):
            step = table_step(self.table, place, everyone, tokens, most)
            scores.append(follower.score(step).masked_fill(~self.table.is_choice(tokens, most), -torch.inf))
            follower.follow(everyone, expected[:, place])
        return torch.stack(scores, 1)


class NgramFollower(Follower):
    """Scores characters by those before them: the probability of the character, and of its syllable given it."""

    def __init__(self, ngrams: NgramTables, num_sentences: int) -> None:
        self.ngrams, self.context = ngrams, ngrams.start(num_sentences)

    def score(self, step: Step) -> Tensor:
        scores: Tensor = self.ngrams(self.context, step.choices)
        return scores + step.log_readings

    def follow(self, rows: Tensor, written: Tensor) -> None:
        self.context = self.ngrams.following(self.context[rows], written)

    def select(self, rows: Tensor) -> None:
        self.context = self.context[rows]
