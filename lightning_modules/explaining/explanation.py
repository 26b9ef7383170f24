"""Explanations of a prediction, as data, and the protocols of tasks that give them; `project/explaining` draws them.

Shapes: L layers, H heads, T positions, S positions of a source.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeAlias, runtime_checkable

from lightrail.project.basics.errors import ConfigError

ERROR_BOUND = 0.05
"""Part of the difference of two scores by which attributions may miss it before they are not to be relied on."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What should be explained, where it is not the prediction itself."""

    label: str | None = None
    """Name of a class, or of a type of entity. None: the predicted ones."""
    target: str | None = None
    """A text that the network could write. None: its own."""
    is_brief: bool = False
    """Few scores, and their attributions from few steps: what the page of a run takes a moment for."""


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """Where a network looks in a source while it writes each token of a target."""

    kind: ClassVar[str] = "alignment"
    title: str
    note: str = ""
    rows: Sequence[str]
    """Tokens of the target, [T]."""
    columns: Sequence[str]
    """Tokens of the source, [S]."""
    weights: Sequence[Sequence[float]]
    """[T, S]; a row sums to 1."""


@dataclass(frozen=True, kw_only=True)
class AttentionHeads:
    """Where each head of each layer looks from each position."""

    kind: ClassVar[str] = "heads"
    title: str
    note: str = ""
    rows: Sequence[str]
    """Tokens that look, [T]."""
    columns: Sequence[str]
    """Tokens that are looked at, [S]."""
    layers: Sequence[Sequence[Sequence[Sequence[float]]]]
    """Weights, [L, H, T, S], from the position of a row to that of a column; a row sums to 1 over the whole text."""


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """The part that each token has in the difference of a score to that of a baseline."""

    kind: ClassVar[str] = "attribution"
    title: str
    note: str = ""
    tokens: Sequence[str]
    """[T]."""
    values: Sequence[float]
    """In the unit of the score, [T]; above 0 raises it."""
    score: float
    baseline_score: float
    baseline: str
    """What the network reads at every position in place of the text."""
    num_steps: int
    """Points between baseline and text at which gradients were computed."""

    @property
    def error(self) -> float:
        """By how much the attributions' sum misses the difference of the scores, of which they are parts."""
        return abs(sum(self.values) - (self.score - self.baseline_score))

    @property
    def is_reliable(self) -> bool:
        """Whether the error is at most `ERROR_BOUND` of that difference."""
        return self.error <= ERROR_BOUND * abs(self.score - self.baseline_score)


Explanation: TypeAlias = Alignment | AttentionHeads | Attribution
Copies: TypeAlias = Callable[[int], dict[str, Any]]
"""Returns a batch of N copies of one text, so that several forward passes for it are one."""


@runtime_checkable
class ExplainsBatches(Protocol):
    """A task that explains what it predicts for a text that its data has encoded."""

    def explain_batch(self, copies: Copies, tokens: Sequence[str], question: Question) -> Iterator[Explanation]:
        """Yield explanations of one text.

        Args:
            tokens: the text of each position, without padding, window by window.

        Raises: ConfigError when the question does not apply.
        """


@runtime_checkable
class ExplainsTexts(Protocol):
    """A task that encodes texts itself, and explains what it predicts for them."""

    def explain_text(self, text: str, question: Question) -> Iterator[Explanation]:
        """Yield explanations of a text. Raises: ConfigError when it is too long, or the question does not apply."""


def refuse_target(question: Question) -> None:
    """Refuse a question about a target. Raises: ConfigError."""
    if question.target is not None:
        raise ConfigError("--target is for models that write any text, and this one does not. Leave it out.")


def refuse_label(question: Question) -> None:
    """Refuse a question about a label. Raises: ConfigError."""
    if question.label is not None:
        raise ConfigError("--label is for models with labels, and this one has none. Leave it out.")
