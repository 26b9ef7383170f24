"""The style of our figures: page, colours, and texts that any reader can see. pyplot's state stays as it is."""

import io
import re
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_mixed import MixedModeRenderer
from matplotlib.backends.backend_svg import FigureCanvasSVG, RendererSVG
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text

INK, MUTED, FAINT, GRID = "#1f2933", "#6b7785", "#98a2ad", "#e6e9ed"
BLUE, ORANGE, GRAY = "#2f6fdb", "#e07b1f", "#b8c0c8"
BLUES = LinearSegmentedColormap.from_list("lightrail", ["#ffffff", "#d6e4fa", "#7ba7ee", "#1d4fa8"])
DOTS_PER_INCH = 150

FONT = "DejaVu Sans"
"""The font that matplotlib brings along: what it can draw does not depend on the machine."""
_FONTS = f"'{FONT}', Verdana, 'PingFang SC', 'Microsoft YaHei', 'Noto Sans CJK SC', sans-serif"
"""Fonts of a browser: of about the same width, and with Chinese characters."""


@contextmanager
def page(path: Path, width_inches: float, height_inches: float) -> Iterator[Figure]:
    """Yield a figure to draw on; it is written to `path`, a PNG, when the block is left normally.

    If a text has characters that the font lacks, such as Chinese ones, the figure becomes an SVG instead, with the
    ending .svg, whose texts are drawn by the reader's browser: a server may have no font for them. `written` tells.
    """
    with mpl.rc_context(_style()):
        figure = Figure(figsize=(width_inches, height_inches), dpi=DOTS_PER_INCH, layout="constrained")
        FigureCanvasAgg(figure)  # without pyplot, whose global list would keep every figure in memory
        yield figure
        path.parent.mkdir(parents=True, exist_ok=True)
        written(path).unlink(missing_ok=True)
        if has_font_for(*_texts(figure)):
            figure.savefig(path, format="png")
        else:
            path.with_suffix(".svg").write_text(_as_svg(figure), encoding="utf-8")


def written(path: Path) -> Path:
    """Return the file of a figure that `page` wrote for a path: this one, or an SVG beside it."""
    return path if path.exists() else path.with_suffix(".svg")


def has_font_for(*texts: str) -> bool:
    """Whether the font that matplotlib brings along can draw every character."""
    return all(ord(letter) in _known_characters() for text in texts for letter in text if letter != "\n")


def _texts(figure: Figure) -> list[str]:
    for axes in figure.axes:  # sets the texts of the ticks
        axes.get_xticklabels(), axes.get_yticklabels()
    return [text.get_text() for text in figure.findobj(Text)]


class _TextSvg(RendererSVG):  # type: ignore[misc]  # matplotlib gives it no types
    """Leaves texts as text, and measures characters that the font lacks by those that are as wide."""

    def get_text_width_height_descent(self, s: str, prop: FontProperties, ismath: Any) -> tuple[float, float, float]:
        known = _known_characters()
        # A dash is as wide as the font's size, which Chinese characters are.
        measured = (
            own if ord(own) in known else "—" if unicodedata.east_asian_width(own) in "WF" else "m" for own in s
        )
        width, height, descent = super().get_text_width_height_descent("".join(measured), prop, ismath)
        return width, height, descent


def _as_svg(figure: Figure) -> str:
    stream = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "lightrail"}):
        canvas = FigureCanvasSVG(figure)
        dpi, figure.dpi = figure.dpi, 72
        width, height = figure.get_size_inches()
        svg = _TextSvg(72 * width, 72 * height, stream, image_dpi=dpi, metadata={"Date": None})
        renderer = MixedModeRenderer(figure, width, height, dpi, svg)
        canvas.get_renderer = lambda: renderer  # for the layout, which measures texts
        figure.draw(renderer)
        renderer.finalize()
    return _NOT_IN_XML.sub("\ufffd", stream.getvalue()).replace(f"'{FONT}'", _FONTS)


_NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def title(axes: Axes, text: str, facts: str = "") -> None:
    """Write a title flush left, with the numbers of the figure in a lighter line below it."""
    axes.set_title(drawable(text), loc="left", fontsize=11, color=INK, pad=20 if facts else 8)
    if facts:
        axes.annotate(
            facts, (0, 1), (0, 6), xycoords="axes fraction", textcoords="offset points", color=MUTED, fontsize=8
        )


def drawable(text: str, max_characters: int = 0) -> str:
    """Return `text` in printable characters that matplotlib takes literally, cut to `max_characters`."""
    if max_characters and len(text) > max_characters:
        text = text[: max_characters - 1] + "…"
    codes = [letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text]
    return "".join(codes).replace("$", r"\$")  # matplotlib would read a pair of them as a formula


@cache
def _known_characters() -> frozenset[int]:
    return frozenset(font_manager.get_font(font_manager.findfont(FONT)).get_charmap())


def _style() -> dict[str, Any]:
    return {
        "font.family": FONT,
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
