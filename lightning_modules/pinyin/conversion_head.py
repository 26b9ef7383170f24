"""From scores of characters to sentences: the head of models that find them by a search.

Shapes: B sentences, T positions.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from lightrail.lightning_modules.figures.figure import Figure
from lightrail.lightning_modules.heads.head import Head
from lightrail.lightning_modules.metrics.scores import Columns, Score, ShareZero
from lightrail.lightning_modules.pinyin.characters import CharacterTable
from lightrail.lightning_modules.pinyin.lattice_search import Edge, LatticeSearch, Reading
from lightrail.lightning_modules.pinyin.readings import (
    Readings,
    conversion_figures,
    conversion_scores,
    prediction_columns,
)
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
    """What a model has read of a batch."""

    readings: Readings | None
    """Scores of the candidates of each syllable behind the expected characters; None without sentences."""
    followers: Callable[[], Sequence[tuple[float, Follower]]]
    """Begins a search: returns models with their weights, which add up to 1."""
    read_typed: Callable[[Sequence[Edge], int], list[Sentence]] | None = None
    """Returns the best sentences over all readings of typed letters, at most a number; None where they cannot be told
    apart."""


class ConversionHead(Head):
    """Finds the most probable sentences by beam search, and says how probable they are.

    Args:
        table: what tokens can be written as.
        beams: how far the search looks.
    """

    def __init__(self, table: CharacterTable, beams: BeamConfig) -> None:
        super().__init__()
        self.table, self.beams = table, beams
        self.register_buffer("temperature", torch.ones(()))
        self.register_buffer("coverage", torch.ones(()))
        self.temperature: Tensor  # divides the log probabilities of sentences
        self.coverage: Tensor  # probability that the right sentence is among those found

    def loss(self, outputs: Read, batch: Mapping[str, Any]) -> tuple[Tensor, int]:
        """Return the mean nats per character among the candidates of its syllable, and the number of characters."""
        assert outputs.readings is not None, "a loss needs sentences"
        return outputs.readings.mean_loss(batch)

    def decode(self, outputs: Read, batch: Mapping[str, Any]) -> Mapping[str, Sequence[Any]]:
        """Return sentences and edits, with the next best sentences; scores are probabilities of whole sentences."""
        read = outputs.read_typed
        typed = [read(edges, NUM_SENTENCES) if edges and read is not None else [] for edges in batch["lattices"]]
        # Where all are read so, the cut that the data chose is not searched.
        found = [[]] * len(typed) if all(typed) else self.sentences(outputs, batch)
        sentences = [
            own or [Sentence(self.table.text(one.ids, tokens), one.log_probability) for one in some]
            for own, some, tokens in zip(typed, found, batch["tokens"], strict=True)
        ]
        texts = [[own.text for own in some] for some in sentences]
        probabilities = [self.probabilities([own.log_probability for own in some]) for some in sentences]
        columns = prediction_columns(
            [own[0] for own in texts], [own[0] for own in probabilities], outputs.readings, batch
        )
        if "target" in columns:
            columns["is_missed"] = [int(text not in own) for text, own in zip(batch["text"], texts, strict=True)]
        return columns | {"candidates": texts, "candidate_scores": probabilities}

    def scores(self) -> Mapping[str, Score]:
        """Return accuracy and error rate by character, accuracy by sentence, among the first five too, and loss."""
        return conversion_scores() | {"sentence_accuracy_top5": ShareZero(column="is_missed")}

    def figures(self, columns: Columns) -> Iterable[Figure]:
        """Yield how often sentences of each probability are right, and the characters that are confused most often."""
        return conversion_figures(columns)

    def column_types(self) -> Mapping[str, pa.DataType]:
        """Return the types of the lists of sentences and of their probabilities."""
        return {"candidates": pa.list_(pa.string()), "candidate_scores": pa.list_(pa.float64())}

    def sentences(self, outputs: Read, batch: Mapping[str, Any], num: int = NUM_SENTENCES) -> list[list[Found]]:
        """Return the best sentences of each example, the most probable first."""
        return search(self.table, batch, outputs.followers(), self.beams, num)

    def probabilities(self, log_probabilities: Sequence[float]) -> list[float]:
        """Return the calibrated probability of each sentence that was found for an example."""
        logs = torch.tensor(log_probabilities, dtype=torch.float64)
        shares: list[float] = ((logs / float(self.temperature)).softmax(0) * float(self.coverage)).tolist()
        return shares

    def calibration_rows(self, outputs: Read, batch: Mapping[str, Any]) -> Sequence[Any]:
        """Return for each example the log probabilities of its sentences, and which one is right, -1 where none is."""
        return [
            (torch.tensor([own.log_probability for own in found]), right)
            for found, right in self.found_with_right(outputs, batch, NUM_SENTENCES)
        ]

    def calibrate(self, rows: list[Any]) -> Mapping[str, float]:
        """Fit the temperature of the sentences' probabilities, and how often the right one is among them."""
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

    def found_with_right(self, outputs: Read, batch: Mapping[str, Any], num: int) -> Iterator[tuple[list[Found], int]]:
        """Yield the sentences found for each example, and which one is right, -1 where none is."""
        found = self.sentences(outputs, batch, num)
        for some, tokens, text in zip(found, batch["tokens"], batch["text"], strict=True):
            texts = [self.table.text(own.ids, tokens) for own in some]
            yield some, texts.index(text) if text in texts else -1


def typed_candidates(
    sentences: Sequence[Sentence], search: LatticeSearch, num_beams: int
) -> list[tuple[tuple[str, int], ...]]:
    """Return what somebody who types may choose: whole sentences, then words and characters for the first letters.

    Args:
        sentences: those found for the letters typed so far.
        search: it has just read these letters.
        num_beams: readings of the letters up to one place.

    Returns: for each the parts, see `Sentence`.
    """
    if not sentences:
        return []
    ends = [end for _, end in sentences[0].parts[:_MOST_SYLLABLES]]
    beginnings = search.beginnings(ends, num_beams)
    words = [parts_of(path) for some in beginnings[:0:-1] for path in some[:_NUM_BEGINNINGS]]
    single = [parts_of(path) for path in beginnings[0]]
    for path in beginnings[0][:1]:
        single += [((character, ends[0]),) for character in search.characters(path.tokens[0])]
    return list(dict.fromkeys([*(own.parts for own in sentences), *words, *single]))


def parts_of(path: Reading) -> tuple[tuple[str, int], ...]:
    """Return what is written for each token of a reading, and the place where that ends."""
    return tuple(zip(path.written, path.ends, strict=True))
