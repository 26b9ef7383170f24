"""Figures as data: what a task shows of its test. They are drawn, each kind in one way, by `project/figures`.

A figure named `labels` becomes `figures/labels.png` of the run; what is a page or a table goes to `samples/`. Text may
hold any characters. Needs no torch.
"""

from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Values: TypeAlias = Sequence[Any] | NDArray[Any]
"""One for each example, label or point."""


@dataclass(frozen=True, kw_only=True)
class Figure(ABC):
    """One figure of a run, drawn from its test."""

    name: str
    """Of the file, without its ending."""
    title: str
    note: str = ""
    """A line below the title, in a lighter colour: the numbers that belong to it."""


@dataclass(frozen=True, kw_only=True)
class Reliability(Figure):
    """How often predictions are right against the confidence they were made with, with the calibration error."""

    title: str = "Reliability"
    confidences: Values
    """In [0, 1], of each prediction."""
    are_correct: Values


@dataclass(frozen=True, kw_only=True)
class Bars(Figure):
    """A bar for each label with further values marked on it, all in [0, 1]; also a table, `samples/TABLE.csv`.

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
    """How often each label was taken for which; of many labels the most frequent."""

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
    """A stretch of a text with what it is called and what became of it."""

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
    outcomes: Mapping[str, tuple[str, str, str]]
    """Outcome to its words and its colours on light and on dark paper; the first one is right and needs no words."""
    counts: Mapping[str, int]
    """How many stretches of the whole test have each outcome."""


def reliability(confidences: Values, predictions: Values, targets: Values) -> Reliability:
    """The reliability of predictions that are right where they equal their target."""
    are_correct = [one == other for one, other in zip(predictions, targets, strict=True)]
    return Reliability(name="reliability", confidences=confidences, are_correct=are_correct)
