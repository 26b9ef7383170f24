"""The pictures of a run: what people would rather look at than read."""

from pathlib import Path

import pyarrow as pa

from lightrail.datamodules.base import DataModule
from lightrail.lightning_modules.base import TaskModule
from lightrail.lightning_modules.metrics.label_scores import SEPARATOR
from lightrail.project.figures.entity_report import write_entities
from lightrail.project.figures.image_report import draw_worst_images
from lightrail.project.figures.label_table import draw_label_rows, label_rows, write_label_rows
from lightrail.project.figures.plots import (
    Series,
    confusion_matrix,
    draw_loss_by_position,
    learning_curves,
    length_histogram,
    reliability_diagram,
)
from lightrail.project.models.predictions import PREDICTION

PROBABILITIES = "probabilities"
"""The column that only classification has: the probability of each label."""
ENTITIES = "entities"
"""The column that only entities have: each with its place in the text."""
IMAGE = "image"
"""The column that only pictures have: what each is called."""
LOSS_BY_POSITION = "loss_by_position"
"""The table that only language models have."""


def write_figures(data: DataModule, model: TaskModule, predictions: pa.Table, series: Series, directory: Path) -> None:
    """Draw learning curves, lengths and, of a task that has them, reliability, labels, entities or positions.

    Args:
        series: (step, value) pairs of each metric of the run.
    """
    folder = directory / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    if PREDICTION in predictions.column_names:
        _draw_reliability(predictions, folder / "reliability.png")
    if LOSS_BY_POSITION in model.tables:
        draw_loss_by_position(model.tables[LOSS_BY_POSITION].numpy(), folder / "loss_by_position.png")
    if PROBABILITIES in predictions.column_names:
        _write_labels(data, model, predictions, directory)
    if ENTITIES in predictions.column_names:
        write_entities(predictions, data.facts()["labels"], directory)
    if IMAGE in predictions.column_names:
        draw_worst_images(data, predictions, folder / "worst_mistakes.png")
    else:  # pictures are of one size
        lengths = data.rows("train").lengths(data.length_column).tolist()
        length_histogram(lengths, folder / "lengths.png", unit=data.length_unit)
    learning_curves(series, folder / "learning_curves.png")


def _draw_reliability(predictions: pa.Table, path: Path) -> None:
    targets, predicted = predictions["target"].to_pylist(), predictions[PREDICTION].to_pylist()
    is_correct = [one == other for one, other in zip(targets, predicted, strict=True)]
    reliability_diagram(predictions["score"].to_pylist(), is_correct, path)


def _write_labels(data: DataModule, model: TaskModule, predictions: pa.Table, directory: Path) -> None:
    facts = data.facts()
    has_many = facts.get("has_many_labels", False)
    rows = label_rows(predictions, facts["labels"], SEPARATOR if has_many else None)
    write_label_rows(rows, model.per_label(), directory / "samples" / "per_class.csv")
    draw_label_rows(rows, directory / "figures" / "labels.png")
    if not has_many:
        targets, predicted = predictions["target"].to_pylist(), predictions["prediction"].to_pylist()
        confusion_matrix(targets, predicted, directory / "figures" / "confusion_matrix.png")
