"""Figures of a task's test, as data. `project/figures` draws them, one function for each type.

A figure named `labels` becomes `figures/labels.png` of the run, or `.svg` with labels such as Chinese ones; pages and
tables go to `samples/`. Text may hold any characters. Needs no torch.
"""

from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Values: TypeAlias = Sequence[Any] | NDArray[Any]
"""Values, one for each example, label or point."""


@dataclass(frozen=True, kw_only=True)
class Figure(ABC):
    """One figure of a run, drawn from its test."""

    name: str
    """Name of the file, without its ending."""
    title: str
    note: str = ""
    """A line below the title, in a lighter colour: the numbers that belong to it."""


@dataclass(frozen=True, kw_only=True)
class Reliability(Figure):
    """Accuracy of predictions against their confidence, with the calibration error."""

    title: str = "Reliability"
    confidences: Values
    """Confidence of each prediction, in [0, 1]."""
    are_correct: Values


@dataclass(frozen=True, kw_only=True)
class Bars(Figure):
    """A bar for each label with further values marked on it, all in [0, 1]; also written as `samples/TABLE.csv`.

    Of many labels those with most examples are drawn; the table has all.
    """

    labels: Sequence[str]
    values: Mapping[str, Values]
    """Name to a value for each label; the last one is the bar, the others are marks."""
    counts: Values
    """Examples of each label."""
    table: str
    """Name of the table's file, without its ending."""
    more: Mapping[str, Values] = field(default_factory=dict)
    """Further columns of the table."""


@dataclass(frozen=True, kw_only=True)
class ConfusionMatrix(Figure):
    """Counts of each pair of target and predicted label; of many labels the most frequent are shown."""

    title: str = "Confusion matrix"
    targets: Values
    predictions: Values


@dataclass(frozen=True, kw_only=True)
class Curve(Figure):
    """Values of y against x, as a line through its points."""

    x: Values
    y: Values
    x_label: str
    y_label: str
    is_logarithmic: bool = False
    """Whether the scale of x is."""


@dataclass(frozen=True, kw_only=True)
class Scatter(Figure):
    """A dot for each pair of numbers, such as targets and predictions of a regression, and the line x = y."""

    x: Values
    y: Values
    x_label: str = "target"
    y_label: str = "prediction"


@dataclass(frozen=True, kw_only=True)
class Images(Figure):
    """A sheet of images with a caption above each."""

    images: Sequence[NDArray[np.uint8]]
    """[H, W] or [H, W, 3]."""
    captions: Sequence[str]


@dataclass(frozen=True)
class Mark:
    """A stretch of a text with its type and outcome."""

    start: int
    end: int
    """Exclusive, in characters."""
    kind: str
    outcome: str
    """One of the figure's outcomes."""
    score: float | None = None
    """The probability it was predicted with."""


@dataclass(frozen=True)
class MarkedLine:
    """One text, marked in several layers: what was expected in it and what was predicted."""

    heading: str
    text: str
    layers: Mapping[str, Sequence[Mark]]
    """Name to the marks of that layer, which may overlap."""


@dataclass(frozen=True, kw_only=True)
class MarkedText(Figure):
    """Texts with stretches marked in them: `samples/NAME.html` to look at and `samples/NAME.txt` for a terminal."""

    lines: Sequence[MarkedLine]
    outcomes: Mapping[str, tuple[str, str, str, str]]
    """Outcome to a short text, a sign that tells it apart without colours, and its colours on a light and on a dark
    background; the first one is right."""
    counts: Mapping[str, int]
    """Number of stretches of the whole test with each outcome."""


def reliability(confidences: Values, predictions: Values, targets: Values) -> Reliability:
    """Return the reliability of predictions, which are right where they equal their target."""
    are_correct = [one == other for one, other in zip(predictions, targets, strict=True)]
    return Reliability(name="reliability", confidences=confidences, are_correct=are_correct)
