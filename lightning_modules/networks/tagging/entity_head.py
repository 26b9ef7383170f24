"""The interface of heads that find entities in the states of words."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lightrail.lightning_modules.networks.row_names import AllOrNothing, RowNames
from lightrail.lightning_modules.networks.tagging.tag_schemes import Span
from lightrail.project.basics.annotations import Ranged


@dataclass(frozen=True)
class FoundEntities:
    """The entities predicted in one sentence, with their probabilities."""

    spans: list[Span]
    """Entities ordered by their first word."""
    probabilities: list[float]
    """Probability that each span is an entity of its type, with exactly these words."""
    probability: float
    """Probability that all of them, and no others, are entities."""


class EntityHead(nn.Module, ABC):
    """Scores words, or pairs of words, and reads entities from the scores.

    Shapes: B sentences, W words, D width; a mask is True at words, which come first. Probabilities are calibrated once
    `calibrate` has been called.
    """

    @abstractmethod
    def forward(self, states: Tensor) -> Tensor:
        """Turn states of words, [B, W, D], into scores, float32 [B, W, ...]."""

    @abstractmethod
    def losses(self, scores: Tensor, batch: dict[str, Any]) -> Tensor:
        """Return the nats of each sentence, summed over its words, [B]."""

    @abstractmethod
    def spans(self, scores: Tensor, mask: Tensor) -> list[list[Span]]:
        """Return the entities of each sentence, by first word."""

    @abstractmethod
    def found(self, scores: Tensor, mask: Tensor) -> list[FoundEntities]:
        """Return the entities of each sentence with their probabilities."""

    @abstractmethod
    def span_score(self, scores: Tensor, span: Span) -> Tensor:
        """Return the score that a span gets in each sentence, [B]."""

    def rows_of_types(self, types: Sequence[str]) -> Mapping[str, RowNames]:
        """Return what the rows of parameters stand for, given the names of the types; see `NamesRows`.

        Without a method of its own a head is taken from another run only where that has the same types.
        """
        return {name: AllOrNothing(tuple(types)) for name, _ in self.named_parameters()}

    @abstractmethod
    def calibration_rows(self, scores: Tensor, batch: dict[str, Any]) -> list[tuple[Tensor, Tensor]]:
        """Return for each sentence what `calibrate` needs, on the CPU."""

    @abstractmethod
    def calibrate(self, rows: Sequence[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """Fit the calibration of probabilities on the sentences of a split; return the fitted values by name."""


@dataclass(frozen=True, kw_only=True)
class EntityHeadConfig(Ranged, ABC):
    """The head that finds entities, and its settings."""

    @abstractmethod
    def build(self, width: int, num_types: int, *, is_nested: bool) -> EntityHead:
        """Build the head for states of a width.

        Args:
            is_nested: whether entities may lie inside each other.

        Raises: ConfigError when the head cannot predict nested entities.
        """
