"""The base of models that choose a sentence by a search over what the syllables can be read as.

Shapes: B sentences, T positions, N positions whose token is a syllable, K most candidates of a syllable.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import pyarrow as pa
import torch
from torch import Tensor

from lightrail.lightning_modules.base import Batch, TaskModule
from lightrail.lightning_modules.metrics.evaluation import ScoreSums
from lightrail.lightning_modules.metrics.scores import Score, ShareZero
from lightrail.lightning_modules.optimization import OptimConfig
from lightrail.lightning_modules.pinyin.characters import CharacterTable
from lightrail.lightning_modules.pinyin.lattice_search import Edge, LatticeSearch, Reading
from lightrail.lightning_modules.pinyin.readings import Readings, conversion_scores, prediction_columns
from lightrail.lightning_modules.pinyin.search import BeamConfig, Follower, Found, search

NUM_SENTENCES = 5
"""Sentences that are stored for each example, and that an expected one is looked for among."""
_MOST_SYLLABLES = 4
"""Syllables of the longest beginning of typed letters that is offered alone."""
_NUM_BEGINNINGS = 3
"""Readings that are offered for a beginning of several syllables."""


@dataclass(frozen=True)
class Sentence:
    """A sentence that was found for a text."""

    text: str
    log_probability: float
    """In nats."""
    parts: tuple[tuple[str, int], ...] = ()
    """What is written for each token, and the place where that ends in the typed text; of typed letters alone."""


@dataclass(frozen=True)
class Read:
    """What a converter has read of a batch."""

    memory: Any
    """What its follower needs; None in training."""
    readings: Readings | None
    """Scores of the candidates of each syllable behind the expected characters; None without sentences."""


class Converter(TaskModule):
    """Finds the most probable sentences by beam search.

    Args:
        vocabulary: the tokens that are read.
        candidates: for each syllable its characters and how often each was seen.
        beams: how far the search looks.
    """

    pipeline_tag = "translation"
    monitor = "val/character_accuracy"

    def __init__(
        self,
        vocabulary: Sequence[str],
        candidates: Mapping[str, Mapping[str, int]],
        optim: OptimConfig,
        beams: BeamConfig,
    ) -> None:
        super().__init__(optim)
        self.beams = beams
        self.table = CharacterTable(vocabulary, candidates)
        self.register_buffer("temperature", torch.ones(()))
        self.register_buffer("coverage", torch.ones(()))
        self.temperature: Tensor  # divides the log probabilities of sentences
        self.coverage: Tensor  # probability that the right sentence is among those found

    @cached_property
    def lattice_search(self) -> LatticeSearch | None:
        """The search over readings of letters whose syllables are not separated; None without n-grams."""
        return None

    @abstractmethod
    def followers(self, outputs: Read, batch: Batch) -> Sequence[tuple[float, Follower]]:
        """Return models with their weights, which add up to 1, for a search over a batch."""

    @final
    def loss(self, outputs: Read, batch: Batch) -> tuple[Tensor, int]:
        """Return the mean nats per character among the candidates of its syllable, and the number of characters."""
        assert outputs.readings is not None, "a loss needs sentences"
        return outputs.readings.mean_loss(batch)

    @final
    def update(self, sums: ScoreSums, outputs: Read, batch: Batch) -> None:
        """Add a validation batch to the scores."""
        sums.update(self._columns(self.sentences(outputs, batch), outputs, batch))

    @final
    def decode(self, outputs: Read, batch: Batch) -> Mapping[str, Sequence[Any]]:
        """Return sentences and edits, with the next best sentences; scores are probabilities of whole sentences."""
        return self._columns(self.sentences(outputs, batch), outputs, batch)

    @final
    def scores(self) -> Mapping[str, Score]:
        """Return accuracy and error rate by character, accuracy by sentence, among the first five too, and loss."""
        return conversion_scores() | {"sentence_accuracy_top5": ShareZero(column="is_missed")}

    @final
    def column_types(self) -> Mapping[str, pa.DataType]:
        """Return the types of the lists of sentences and of their probabilities."""
        return {"candidates": pa.list_(pa.string()), "candidate_scores": pa.list_(pa.float64())}

    @final
    def sentences(self, outputs: Read, batch: Batch, num: int = NUM_SENTENCES) -> list[list[Found]]:
        """Return the best sentences of each example, the most probable first."""
        return search(self.table, batch, self.followers(outputs, batch), self.beams, num)

    @final
    def probabilities(self, log_probabilities: Sequence[float]) -> list[float]:
        """Return the calibrated probability of each sentence that was found for an example."""
        logs = torch.tensor(log_probabilities, dtype=torch.float64)
        shares: list[float] = ((logs / float(self.temperature)).softmax(0) * float(self.coverage)).tolist()
        return shares

    def calibration_rows(self, outputs: Read, batch: Batch) -> Sequence[Any]:
        """Return for each example the log probabilities of its sentences, and which one is right, -1 where none is."""
        return [
            (torch.tensor([own.log_probability for own in found]), right)
            for found, right in self._found_with_right(outputs, batch, NUM_SENTENCES)
        ]

    def calibrate(self, rows: list[Any]) -> Mapping[str, float]:
        """Fit the temperature of the sentences' probabilities, and how often the right one is among them."""
        return self._fit_temperature(rows)

    def _fit_temperature(self, rows: Sequence[tuple[Tensor, int]]) -> dict[str, float]:
        listed = [(logs.double(), right) for logs, right in rows if right >= 0]
        if not listed:
            return {}
        coverage = len(listed) / len(rows)
        temperatures = torch.logspace(-1, 1.5, 101, dtype=torch.float64)
        losses = torch.zeros_like(temperatures)
        for logs, right in listed:
            losses -= (logs / temperatures[:, None]).log_softmax(1)[:, right]
        self.temperature.fill_(float(temperatures[losses.argmin()]))
        self.coverage.fill_(coverage)
        return {"calibration/temperature": float(self.temperature), "calibration/coverage": coverage}

    def _found_with_right(self, outputs: Read, batch: Batch, num: int) -> Iterator[tuple[list[Found], int]]:
        """Yield the sentences found for each example, and which one is right, -1 where none is."""
        found = self.sentences(outputs, batch, num)
        for some, tokens, text in zip(found, batch["tokens"], batch["text"], strict=True):
            texts = [self.table.text(own.ids, tokens) for own in some]
            yield some, texts.index(text) if text in texts else -1

    def read_typed(self, edges: Sequence[Edge], num: int) -> list[Sentence]:
        """Return the best sentences over all readings of typed letters; none without n-grams, which choose among them.

        Args:
            edges: those readings, of one text.
            num: most sentences.
        """
        if self.lattice_search is None:
            return []
        return [
            Sentence(path.text, path.log_probability, _parts(path)) for path in self.lattice_search.paths(edges, num)
        ]

    @final
    def typed_candidates(self, edges: Sequence[Edge]) -> list[tuple[tuple[str, int], ...]]:
        """Return what somebody who types may choose: whole sentences, then words and characters for the first letters.

        Args:
            edges: all readings of the letters typed so far.

        Returns: for each the parts, see `Sentence`; none without n-grams.
        """
        sentences = [own.parts for own in self.read_typed(edges, NUM_SENTENCES)] if edges else []
        search = self.lattice_search
        if search is None or not sentences:
            return []
        ends = [end for _, end in sentences[0][:_MOST_SYLLABLES]]
        beginnings = search.beginnings(ends, self.beams.num_beams)
        words = [_parts(path) for some in beginnings[:0:-1] for path in some[:_NUM_BEGINNINGS]]
        single = [_parts(path) for path in beginnings[0]]
        for path in beginnings[0][:1]:
            single += [((character, ends[0]),) for character in search.characters(path.tokens[0])]
        return list(dict.fromkeys([*sentences, *words, *single]))

    def _columns(self, found: list[list[Found]], outputs: Read, batch: Batch) -> dict[str, Sequence[Any]]:
        sentences = [
            [Sentence(self.table.text(own.ids, tokens), own.log_probability) for own in some]
            for some, tokens in zip(found, batch["tokens"], strict=True)
        ]
        for number, edges in enumerate(batch["lattices"]):
            if edges and (read := self.read_typed(edges, NUM_SENTENCES)):
                sentences[number] = read
        texts = [[own.text for own in some] for some in sentences]
        probabilities = [self.probabilities([own.log_probability for own in some]) for some in sentences]
        columns = prediction_columns(
            [own[0] for own in texts], [own[0] for own in probabilities], outputs.readings, batch
        )
        if "target" in columns:
            columns["is_missed"] = [int(text not in own) for text, own in zip(batch["text"], texts, strict=True)]
        return columns | {"candidates": texts, "candidate_scores": probabilities}


def _parts(path: Reading) -> tuple[tuple[str, int], ...]:
    return tuple(zip(path.written, path.ends, strict=True))
