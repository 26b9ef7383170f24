"""Texts with marked stretches, as an HTML page and as plain text."""

import html
import itertools
from collections.abc import Iterator, Sequence

from lightrail.lightning_modules.figures.figure import Mark, MarkedLine, MarkedText
from lightrail.project.figures.style import STYLE

CONTEXT = 40
"""Characters kept on either side of a mark; what lies farther away is left out."""

_MARKS = """
mark { color: var(--ink); border-radius: 4px 4px 0 0; padding: 1px 4px; }
mark sub { font-size: 11px; margin-left: 4px; vertical-align: baseline; white-space: nowrap; }
.legend { line-height: 2.2; }
.legend mark { display: inline-block; line-height: 1.5; margin-right: 10px; }
.line { display: grid; grid-template-columns: 6.5em 1fr; margin: 6px 0; }
.line span:first-child { color: var(--muted); font-size: 13px; }
.line span:last-child { overflow-wrap: anywhere; white-space: pre-wrap; line-height: 1.9; }
"""


def as_page(figure: MarkedText) -> str:
    """Return an HTML page of marked texts, light or dark as the reader prefers."""
    legend = "".join(
        f'<mark class="{own}">{html.escape(f"{sign} {words}")} {figure.counts.get(own, 0):,}</mark>'
        for own, (words, sign, *_) in figure.outcomes.items()
    )
    body = "\n".join(_section(line, figure) for line in figure.lines) or "<section>Every text is right.</section>"
    name = html.escape(figure.title)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{name}</title>\n'
        f"<style>{STYLE}{_MARKS}{_colours(figure)}</style></head>\n<body><main>\n<h1>{name}</h1>\n"
        f'<p class="lead">{html.escape(figure.note)} Counts are of the whole test.</p>\n'
        f'<section class="legend">{legend}<small>After each marked text: its type, and the sign of its outcome.</small>'
        f"</section>\n{body}\n</main></body></html>\n"
    )


def as_text(figure: MarkedText) -> str:
    """Return marked texts for a terminal: `[text TYPE]` is right, other outcomes are named."""
    blocks = []
    for line in figure.lines:
        lines = [f"# {line.heading}"]
        for name, marks in line.layers.items():
            lines += [f"  {name:<10}{_plain(line.text, layer, figure)}" for layer in _layers(marks)]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n" if blocks else ""


def _colours(figure: MarkedText) -> str:
    light, dark = (
        "".join(f"mark.{own} {{ background: {colours[place]}; }}\n" for own, colours in figure.outcomes.items())
        for place in (-2, -1)
    )
    lines = "".join(
        f"mark.{own} {{ border-bottom: {line}; }}\n"
        for own, line in zip(figure.outcomes, itertools.chain(["2px solid"], itertools.cycle(_LINES)), strict=False)
    )
    return f"{lines}{light}@media (prefers-color-scheme: dark) {{\n{dark}}}\n"


_LINES = ("2px dashed", "2px dotted", "4px double")
"""Lines below wrong stretches; below a right one it is solid."""


def _section(line: MarkedLine, figure: MarkedText) -> str:
    parts = [
        f'<div class="line"><span>{name}</span><span>{_html(line.text, layer, figure)}</span></div>'
        for name, marks in line.layers.items()
        for layer in _layers(marks)
    ]
    return f"<section>{''.join(parts)}<small>{html.escape(line.heading)}</small></section>"


def _layers(marks: Sequence[Mark]) -> list[list[Mark]]:
    """Divide marks so that none of a layer overlap; one empty layer for no marks."""
    layers: list[list[Mark]] = [[]]
    for mark in sorted(marks, key=lambda own: (own.start, -own.end)):
        layer = next((own for own in layers if not own or own[-1].end <= mark.start), None)
        if layer is None:
            layers.append(layer := [])
        layer.append(mark)
    return layers


def _pieces(text: str, marks: Sequence[Mark]) -> Iterator[tuple[str, Mark | None]]:
    """Yield the text in pieces with their marks; long stretches without a mark are shortened."""
    place = 0
    for mark in (*marks, None):
        between = text[place : mark.start if mark else len(text)]
        if len(between) > 2 * CONTEXT + 1:
            between = f"{between[:CONTEXT]}…{between[-CONTEXT:]}"
        if between:
            yield between, None
        if mark:
            yield text[mark.start : mark.end], mark
            place = mark.end


def _html(text: str, marks: Sequence[Mark], figure: MarkedText) -> str:
    parts = []
    for piece, mark in _pieces(text, marks):
        if mark is None:
            parts.append(html.escape(piece))
            continue
        score = "" if mark.score is None else f", probability {mark.score:.2f}"
        words, sign, *_ = figure.outcomes[mark.outcome]
        title = html.escape(f"{words}: {mark.kind}{score}")
        kind = html.escape(f"{mark.kind} {sign}")
        parts.append(f'<mark class="{mark.outcome}" title="{title}">{html.escape(piece)}<sub>{kind}</sub></mark>')
    return "".join(parts)


_ONE_LINE = str.maketrans("\r\n", "  ")


def _plain(text: str, marks: Sequence[Mark], figure: MarkedText) -> str:
    parts = []
    for piece, mark in _pieces(text.translate(_ONE_LINE), marks):
        if mark is None:
            parts.append(piece)
            continue
        is_right = mark.outcome == next(iter(figure.outcomes))
        parts.append(f"[{piece} {mark.kind}{'' if is_right else f': {figure.outcomes[mark.outcome][0]}'}]")
    return "".join(parts)
