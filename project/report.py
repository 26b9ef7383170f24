"""The pictures of a run: what people would rather look at than read."""

from pathlib import Path

import pyarrow as pa

from datamodules.base import DataModule
from project.tracking.figures import (
    Series,
    confusion_matrix,
    learning_curves,
    length_histogram,
    reliability_diagram,
)


def write_figures(data: DataModule, predictions: pa.Table, series: Series, directory: Path) -> None:
    """Draw learning curves, reliability, lengths and, where the data has labels, the confusion matrix into `figures/`.

    Args:
        series: (step, value) pairs of each metric of the run.
    """
    folder = directory / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    targets, predicted = predictions["target"].to_pylist(), predictions["prediction"].to_pylist()
    is_correct = [one == other for one, other in zip(targets, predicted, strict=True)]
    reliability_diagram(predictions["score"].to_pylist(), is_correct, folder / "reliability.png")
    if "labels" in data.facts():
        confusion_matrix(targets, predicted, folder / "confusion_matrix.png")
    lengths = data.rows("train").lengths(data.length_column).tolist()
    length_histogram(lengths, folder / "lengths.png", unit=data.length_unit)
    learning_curves(series, folder / "learning_curves.png")
