"""How much a language model gains from what came before."""

from pathlib import Path

import numpy as np
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from lightrail.project.figures.drawing import BLUE, page, title


def draw_loss_by_position(ranges: NDArray[np.float64], path: Path) -> None:
    """Draw the mean nats of test targets against how many tokens the model had seen.

    Args:
        ranges: for each range of positions its mean position, from 1, the mean nats and the number of targets, [P, 3].
    """
    if not len(ranges):
        return
    positions, nats, counts = ranges.T
    facts = f"{counts.sum():,.0f} targets, {np.average(nats, weights=counts):.3f} nats per target on average"
    with page(path, 6.4, 3.8) as figure:
        axes = figure.subplots()
        axes.plot(positions, nats, color=BLUE, marker="o", markersize=3.5)
        title(axes, "Loss by position", facts)
        axes.set(xlabel="tokens seen", ylabel="nats per target", xscale="log")
        axes.set_ylim(0, 1.05 * np.max(nats, where=np.isfinite(nats), initial=0.01))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda position, _: f"{position:,.0f}"))
        axes.xaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))
