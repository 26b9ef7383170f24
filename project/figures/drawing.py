"""The style of our figures: page, colours, and fonts that can draw the labels. pyplot's state stays as it is."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

INK, MUTED, FAINT, GRID = "#1f2933", "#6b7785", "#98a2ad", "#e6e9ed"
BLUE, ORANGE, GRAY = "#2f6fdb", "#e07b1f", "#b8c0c8"
BLUES = LinearSegmentedColormap.from_list("lightrail", ["#ffffff", "#d6e4fa", "#7ba7ee", "#1d4fa8"])
DOTS_PER_INCH = 150

CHINESE_FONTS = (
    "Noto Sans CJK SC",
    "Source Han Sans SC",
    "Noto Sans SC",
    "PingFang SC",
    "Microsoft YaHei",
    "Hiragino Sans GB",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "SimHei",
    "Noto Sans CJK JP",
    "Droid Sans Fallback",
    "Arial Unicode MS",
)


@contextmanager
def page(path: Path, width_inches: float, height_inches: float) -> Iterator[Figure]:
    """Yield a figure to draw on; it is written to `path` as a PNG when the block is left normally."""
    with mpl.rc_context(_style()):
        figure = Figure(figsize=(width_inches, height_inches), dpi=DOTS_PER_INCH, layout="constrained")
        FigureCanvasAgg(figure)  # without pyplot, whose global list would keep every figure in memory
        yield figure
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="png")


def title(axes: Axes, text: str, facts: str = "") -> None:
    """Write a title flush left, with the numbers of the figure in a lighter line below it."""
    axes.set_title(drawable(text), loc="left", fontsize=11, color=INK, pad=20 if facts else 8)
    if facts:
        axes.annotate(
            facts, (0, 1), (0, 6), xycoords="axes fraction", textcoords="offset points", color=MUTED, fontsize=8
        )


def drawable(text: str, max_characters: int = 0) -> str:
    """Return `text` in characters that the fonts have and matplotlib takes literally, cut to `max_characters`."""
    if max_characters and len(text) > max_characters:
        text = text[: max_characters - 1] + "…"
    known = _known_characters()
    codes = [letter if ord(letter) in known else ascii(letter)[1:-1] for letter in text]
    return "".join(codes).replace("$", r"\$")  # matplotlib would read a pair of them as a formula


@cache
def font_families() -> list[str]:
    """Return the fonts to try in turn: the first of our Chinese ones that this machine has comes second."""
    there = {font.name for font in font_manager.fontManager.ttflist}
    return ["DejaVu Sans", *[name for name in CHINESE_FONTS if name in there][:1]]


@cache
def _known_characters() -> frozenset[int]:
    fonts = [font_manager.get_font(font_manager.findfont(family)) for family in font_families()]
    return frozenset(code for font in fonts for code in font.get_charmap())


def _style() -> dict[str, Any]:
    return {
        "font.family": font_families(),
        "font.size": 9,
        "text.color": INK,
        "axes.edgecolor": GRAY,
        "axes.labelcolor": MUTED,
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.unicode_minus": False,
        "grid.color": GRID,
        "grid.linewidth": 0.8,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "legend.frameon": False,
        "legend.fontsize": 8,
        "lines.linewidth": 1.6,
    }
