"""Draws the figures of a run."""

import logging
from pathlib import Path

import numpy as np
import pyarrow as pa

from lightrail.datamodules.base import DataModule
from lightrail.lightning_modules.base import TaskModule
from lightrail.project.figures.draw import draw
from lightrail.project.figures.plots import Series, learning_curves, length_histogram

log = logging.getLogger(__name__)


def write_figures(data: DataModule, model: TaskModule, predictions: pa.Table, series: Series, directory: Path) -> None:
    """Draw learning curves, lengths of the training examples, and the figures of the task's test.

    Args:
        series: (step, value) pairs of each metric of the run.
    """
    folder = directory / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    columns = {name: predictions[name].to_numpy() for name in predictions.column_names}
    for figure in model.figures(columns, data.rows("test").row):
        try:
            draw(figure, directory)
        except Exception:  # of a type or value from a user's task: the run is trained and tested, and stays valid
            log.exception("the figure %s is left out: it cannot be drawn", figure.name)
    lengths = data.lengths(data.rows("train"))
    lengths = lengths if lengths.ndim == 1 else lengths.sum(1)
    if len(np.unique(lengths)) > 1:  # of equal lengths, as of images, a histogram shows nothing
        length_histogram(lengths.tolist(), folder / "lengths.png", unit=data.length_unit)
    lower = {f"val/{name}" for name, score in model.scores().items() if not score.higher_is_better}
    learning_curves(series, folder / "learning_curves.png", {"val/loss", *lower})
