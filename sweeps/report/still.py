"""Draws the interactive figures of `plots.py` as images, without a browser."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from lightrail.project.figures.drawing import INK, drawable, page, title

MARKERS = {"circle": "o", "x": "x", "star": "*"}
INCHES_FOR_PANEL = 2.6
LONG_LABEL = 8
"""Number of characters of a label at the horizontal axis from which on all of them are tilted."""


def draw_still(figure: go.Figure, path: Path) -> None:
    """Draw the panels, lines, points and bars of a figure as a PNG."""
    panels = sorted({trace.xaxis or "x" for trace in figure.data}, key=lambda name: int(name[1:] or 1))
    has_bars = any(trace.type == "bar" for trace in figure.data)
    height = max(2.4, 1.2 + 0.32 * len(figure.data[0].y)) if has_bars else 4.4
    with page(path, max(7.2, INCHES_FOR_PANEL * len(panels)), height) as drawn:
        places = drawn.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for name, axes in zip(panels, places, strict=True):
            _draw_panel(axes, figure, name)
        places[0].set_ylabel(figure.layout.yaxis.title.text or "")
        title(places[0], figure.layout.title.text)
        if figure.layout.showlegend is not False and not has_bars:
            drawn.legend(loc="outside lower center", ncols=5)


def _draw_panel(axes: Axes, figure: go.Figure, name: str) -> None:
    layout = figure.layout[f"xaxis{name[1:]}"]
    own = [trace for trace in figure.data if (trace.xaxis or "x") == name]
    for trace in own:
        if trace.type == "bar":
            bars = axes.barh(
                [drawable(str(label)) for label in trace.y], trace.x, color=trace.marker.color, height=0.62
            )
            axes.bar_label(bars, trace.text, padding=3)
            axes.grid(visible=False, axis="y")
        else:
            _draw_trace(axes, trace)
    for note in figure.layout.annotations:
        axes.annotate(
            drawable(note.text), (note.x, note.y), (4, 0), textcoords="offset points", va="center", fontsize=7
        )
    axes.set_xlabel(drawable(layout.title.text or ""))
    if layout.tickvals is not None:
        is_long = max(map(len, layout.ticktext)) > LONG_LABEL
        tilted: dict[str, Any] = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if is_long else {}
        axes.set_xticks(layout.tickvals, [drawable(text) for text in layout.ticktext], color=INK, **tilted)
        axes.grid(visible=False, axis="x")
        axes.set_xlim(layout.range)
    elif layout.type == "log":
        axes.set_xscale("log")
    elif not axes.containers:
        are_whole = all(float(x).is_integer() for trace in own for x in trace.x)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=are_whole))
    if figure.layout.yaxis.visible is False:
        axes.set(yticks=[], ylim=figure.layout.yaxis.range)
        axes.spines[["left", "bottom"]].set_visible(False)


def _draw_trace(axes: Axes, trace: Any) -> None:
    label = trace.name if trace.showlegend is not False and trace.name else "_nolegend_"
    has_lines, has_markers = "lines" in trace.mode, "markers" in trace.mode
    color = trace.line.color if has_lines else trace.marker.color
    if has_lines:
        style = "steps-post" if trace.line.shape == "hv" else "default"
        width = trace.line.width / 1.5
        axes.plot(trace.x, trace.y, color=color, linewidth=width, drawstyle=style, label=label)
    if has_markers:
        symbols = trace.marker.symbol
        symbols = [symbols] * len(trace.x) if isinstance(symbols, str) else symbols
        size = trace.marker.size / 2 * (0.6 if has_lines else 1)
        for symbol in dict.fromkeys(symbols):
            x, y = _those(trace.x, symbols, symbol), _those(trace.y, symbols, symbol)
            larger = 2.0 if symbol != "circle" and has_lines else 1.4 if symbol == "star" else 1.0
            marked = {"marker": MARKERS[symbol], "markersize": size * larger, "linestyle": "none", "color": color}
            axes.plot(x, y, **marked, label="_nolegend_" if has_lines else label)


def _those(values: Sequence[Any], symbols: Sequence[str], symbol: str) -> list[Any]:
    return [value for value, own in zip(values, symbols, strict=True) if own == symbol]
