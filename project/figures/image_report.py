"""The worst mistakes on pictures, as one sheet."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from numpy.typing import NDArray

from lightrail.datamodules.base import DataModule
from lightrail.project.figures.drawing import INK, MUTED, drawable, page
from lightrail.project.models.predictions import worst_mistakes

NUM_SHOWN = 36
NUM_COLUMNS = 6
MAX_CHARACTERS = 16


def draw_worst_images(data: DataModule, predictions: pa.Table, path: Path) -> None:
    """Draw the pictures whose wrong answers cost most, each with its target and, below that, the answer and its score.

    Without a mistake nothing is drawn.
    """
    worst = worst_mistakes(predictions).slice(0, NUM_SHOWN).to_pylist()
    if not worst:
        return
    num_rows = math.ceil(len(worst) / NUM_COLUMNS)
    with page(path, 1.35 * NUM_COLUMNS, 1.7 * num_rows + 0.4) as figure:
        num_wrong = sum(one != other for one, other in zip(*_answers(predictions), strict=True))
        facts = f"{num_wrong:,} of {len(predictions):,} wrong; the {len(worst)} whose loss is greatest"
        figure.suptitle(f"Worst mistakes: target, and answer with its score ({facts})", fontsize=9, color=MUTED)
        places = list(figure.subplots(num_rows, NUM_COLUMNS, squeeze=False).flat)
        for axes, mistake in zip(places, worst, strict=False):
            _draw(axes, _picture(data, mistake["id"]), mistake)
        for axes in places[len(worst) :]:
            axes.remove()


def _answers(predictions: pa.Table) -> tuple[list[str], list[str]]:
    return predictions["target"].to_pylist(), predictions["prediction"].to_pylist()


def _picture(data: DataModule, number: int) -> NDArray[np.uint8]:
    """The picture of a test example, [H, W] or [H, W, 3]."""
    pixels = np.asarray(data.rows("test").row(number)["pixels"]).reshape(data.facts()["image_shape"])
    return np.moveaxis(pixels, 0, -1).squeeze(-1) if len(pixels) == 1 else np.moveaxis(pixels, 0, -1)


def _draw(axes: Axes, picture: NDArray[np.uint8], mistake: dict[str, Any]) -> None:
    axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_axis_off()
    target, answer = (drawable(mistake[name], MAX_CHARACTERS) for name in ("target", "prediction"))
    axes.set_title(f"{target}\n{answer} {mistake['score']:.2f}", fontsize=8, color=INK)
