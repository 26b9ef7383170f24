"""What finds entities in the states of words, whichever head does it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lightrail.lightning_modules.networks.tagging.tag_schemes import Span
from lightrail.project.basics.annotations import Ranged


@dataclass(frozen=True)
class FoundEntities:
    """The answer for one sentence."""

    spans: list[Span]
    """By first word."""
    probabilities: list[float]
    """That each span is an entity of its type, with exactly these words."""
    probability: float
    """That the whole answer is right."""


class EntityHead(nn.Module, ABC):
    """Scores words, or pairs of words. Shapes: B sentences, W words, D width; a mask is True at words, which come
    first. Probabilities are calibrated once `calibrate` has been called.
    """

    @abstractmethod
    def forward(self, states: Tensor) -> Tensor:
        """Turn states of words, [B, W, D], into scores, float32 [B, W, ...]."""

    @abstractmethod
    def losses(self, scores: Tensor, batch: dict[str, Any]) -> Tensor:
        """Nats of each sentence, summed over its words, [B]."""

    @abstractmethod
    def spans(self, scores: Tensor, mask: Tensor) -> list[list[Span]]:
        """The entities of each sentence, by first word."""

    @abstractmethod
    def found(self, scores: Tensor, mask: Tensor) -> list[FoundEntities]:
        """The same entities with their probabilities."""

    @abstractmethod
    def calibration_rows(self, scores: Tensor, batch: dict[str, Any]) -> list[tuple[Tensor, Tensor]]:
        """For each sentence what `calibrate` needs, on the CPU."""

    @abstractmethod
    def calibrate(self, rows: Sequence[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """Fit what makes probabilities true to the sentences of a split; give what was fitted, by name."""


@dataclass(frozen=True, kw_only=True)
class EntityHeadConfig(Ranged, ABC):
    """Which head, and its settings."""

    @abstractmethod
    def build(self, width: int, num_types: int, *, is_nested: bool) -> EntityHead:
        """Make the head for states of a width.

        Args:
            is_nested: whether entities may lie inside each other.

        Raises: ConfigError when the head cannot do what is asked.
        """
