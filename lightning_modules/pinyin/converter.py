"""Pinyin to hanzi by a network that sees the syllables of the sentence and the characters chosen so far.

Shapes: B sentences, T positions, D width, N positions whose token is a syllable, R prefixes of a search, K choices, H
characters before a syllable.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightrail.lightning_modules.arguments import FromData
from lightrail.lightning_modules.base import Batch, TaskModule
from lightrail.lightning_modules.networks.candidates import CandidateOutput
from lightrail.lightning_modules.networks.encoders.encoder import EncoderConfig
from lightrail.lightning_modules.networks.encoders.transformer import TransformerConfig
from lightrail.lightning_modules.networks.row_names import RowNames
from lightrail.lightning_modules.optimization import OptimConfig
from lightrail.lightning_modules.pinyin.characters import START, CharacterTable
from lightrail.lightning_modules.pinyin.conversion_head import ConversionHead, Read
from lightrail.lightning_modules.pinyin.history import History, HistoryConfig, windows_before, windows_from
from lightrail.lightning_modules.pinyin.readings import Readings
from lightrail.lightning_modules.pinyin.search import BeamConfig, Follower, Step


@dataclass(frozen=True)
class Memory:
    """What a search needs of the sentences."""

    states: Tensor
    """Vector of each position, [B, T, D]."""
    ahead: Tensor
    """Tokens from each position on, [B, T, H]."""


@final
class PinyinConverter(TaskModule):
    """Chooses a character for each syllable from left to right, from all syllables and the characters chosen before.

    The syllables are encoded once. The characters before a syllable are seen through a window, so that in training all
    positions are scored at once, and a step of a search is one small network.

    Args:
        vocabulary: the tokens that are read; from the data.
        candidates: for each syllable its characters and how often each was seen; from the data.
        encoder: the network that reads the syllables.
        history: what is seen of the characters before.
        beams: how far the search looks.
    """

    pipeline_tag = "translation"
    monitor = "val/character_accuracy"

    def __init__(
        self,
        vocabulary: FromData[list[str]],
        candidates: FromData[dict[str, dict[str, int]]],
        *,
        encoder: EncoderConfig = TransformerConfig(ngram_orders=[2, 3]),
        history: HistoryConfig = HistoryConfig(),
        beams: BeamConfig = BeamConfig(),
        optim: OptimConfig = OptimConfig(lr=2e-3),
    ) -> None:
        super().__init__(optim)
        self.save_hyperparameters()
        self.table = CharacterTable(vocabulary, candidates)
        self.head = ConversionHead(self.table, beams)
        self.candidates = {token: list(candidates.get(token, ())) for token in vocabulary}
        self.encoder = encoder.build(vocabulary)
        width = self.encoder.width
        self.history = History(self.table.written, vocabulary, width, history)
        self.joined = nn.Linear(width, width)
        self.hidden = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.norm = nn.LayerNorm(width)
        self.output = CandidateOutput(
            width=width, counts=[(), ()] + [list(candidates.get(token, {}).values()) for token in vocabulary]
        )

    def row_names(self) -> Mapping[str, RowNames]:
        """Return the syllable and the character of each row of the output."""
        rows = [(token, character) for token, own in self.candidates.items() for character in own]
        return dict.fromkeys(("output.weight", "output.bias"), (rows,))

    def forward(self, batch: Batch) -> Read:
        """Encode the syllables; score their candidates behind the expected characters, where there are any."""
        input_ids = batch["input_ids"]
        memory = Memory(
            self.joined(self.encoder(input_ids, batch["attention_mask"])),
            windows_from(input_ids.long(), self.history.config.reach),
        )
        readings = None
        if all(batch["text"]):
            is_syllable = self.output.has_candidates(input_ids)
            before = windows_before(self.table.expected(batch), self.history.config.reach, START)
            logits = self.score(memory.states[is_syllable], before[is_syllable], memory.ahead[is_syllable])
            readings = Readings(logits, is_syllable)
        return Read(readings, lambda: [(1.0, NetworkFollower(self, memory))])

    def score(self, states: Tensor, before: Tensor, ahead: Tensor) -> Tensor:
        """Score the candidates of syllables.

        Args:
            states: vectors of their positions, [N, D].
            before: ids of the characters before, [N, H].
            ahead: tokens from there on, [N, H].

        Returns: logits, [N, K]; minus infinity beyond a syllable's own candidates.
        """
        states = states + self.history(before, ahead)
        logits: Tensor = self.output(self.norm(states + self.hidden(states)), ahead[:, 0])
        return logits


class NetworkFollower(Follower):
    """Scores the candidates of syllables behind the characters chosen before; 0 for what is copied."""

    def __init__(self, network: PinyinConverter, memory: Memory) -> None:
        self.network, self.memory = network, memory
        shape = len(memory.states), network.history.config.reach
        self.before = memory.ahead.new_full(shape, START)  # [R, H]

    def score(self, step: Step) -> Tensor:
        is_syllable = self.network.output.has_candidates(step.tokens)
        sentences = step.sentences[is_syllable]
        scores = torch.zeros(step.choices.shape, dtype=torch.float32, device=step.choices.device)
        if len(sentences):
            states, ahead = self.memory.states[sentences, step.place], self.memory.ahead[sentences, step.place]
            logits = self.network.score(states, self.before[is_syllable], ahead)
            scores[is_syllable] = F.log_softmax(logits, -1).gather(1, step.columns[is_syllable]).float()
        return scores

    def follow(self, rows: Tensor, written: Tensor) -> None:
        self.before = torch.cat([self.before[rows, 1:], written[:, None]], 1)

    def select(self, rows: Tensor) -> None:
        self.before = self.before[rows]
