"""Explanations as a self-contained HTML page: no requests, no scripts, for light and dark mode.

Shapes: T positions of rows, S positions of columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from lightrail.lightning_modules.explaining.explanation import (
    ERROR_BOUND,
    Alignment,
    AttentionHeads,
    Attribution,
    Explanation,
)
from lightrail.project.figures.style import STYLE

LEAST_SHOWN = 0.05
"""Weights of attention below this are left out of figures; the JSON file has them."""
_NUM_NAMED = 3
"""Positions that are named when the pointer is over a row of a small map."""

_STYLE = """
h3 { font-size: 14px; margin: 16px 0 4px; color: var(--muted); }
.text { overflow-wrap: anywhere; white-space: pre-wrap; }
.parts { display: flex; flex-wrap: wrap; gap: 6px 3px; margin: 10px 0; }
.part { text-align: center; border-bottom: 3px solid transparent; border-radius: 4px 4px 0 0; padding: 2px 5px; }
.part b { display: block; font-weight: 500; white-space: pre-wrap; overflow-wrap: anywhere; }
.part small { font-variant-numeric: tabular-nums; color: var(--ink); }
.plus { background: color-mix(in srgb, var(--better) calc(var(--size) * 45%), transparent);
  border-bottom-color: var(--better); }
.minus { background: color-mix(in srgb, var(--worse) calc(var(--size) * 45%), transparent);
  border-bottom: 3px dashed var(--worse); }
.warning { border: 2px solid; border-radius: 9px; color: var(--worse); padding: 6px 12px; font-weight: 600; }
table.map { width: auto; }
table.map th, table.map td { padding: 2px 5px; text-align: center; border: 1px solid var(--line); }
table.map thead th { border-top: 0; }
table.map th { color: var(--ink); font-weight: 500; white-space: pre; }
table.map tbody th { text-align: right; position: sticky; left: 0; background: var(--paper); }
table.map td { font-size: 12px; min-width: 30px; font-variant-numeric: tabular-nums;
  background: color-mix(in srgb, var(--better) calc(var(--size) * 45%), transparent); }
table.map td.most { outline: 2px solid var(--better); outline-offset: -2px; font-weight: 700; }
.layer { display: grid; grid-template-columns: repeat(auto-fill, minmax(130px, 1fr)); gap: 10px; }
.layer figure { border: 0; padding: 0; margin: 0; min-width: 0; }
.layer svg { display: block; width: 100%; border: 1px solid var(--line); border-radius: 4px; }
.layer path { fill: var(--better); } .layer rect { fill: transparent; } .layer g:hover rect { fill: var(--line); }
.layer figcaption { margin: 2px 0 0; font-size: 12px; overflow-wrap: anywhere; }
"""


@dataclass(frozen=True)
class ExplainedText:
    """A text with explanations of what is predicted for it."""

    text: str
    explanations: Sequence[Explanation]


def as_page(name: str, explained: Sequence[ExplainedText], lead: str) -> str:
    """Format explanations as HTML, with all texts escaped.

    Args:
        name: what the model was named by, or what the texts are.
        lead: a line below the title.
    """
    body = "\n".join(_text(number, own) for number, own in enumerate(explained, 1))
    title = escape(f"Explanations: {name}")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}{_STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n"
        f'<p class="lead">{escape(lead)}</p>\n{body}\n'
        "</main>\n</body>\n</html>\n"
    )


def _text(number: int, own: ExplainedText) -> str:
    parts = [_drawn(each) for each in own.explanations] or ["<p>The model has nothing to explain for this text.</p>"]
    return f'<section>\n<h2>Text {number}</h2>\n<p class="text">{escape(own.text)}</p>\n</section>\n' + "\n".join(
        f"<section>\n{part}\n</section>" for part in parts
    )


def _drawn(explanation: Explanation) -> str:
    if isinstance(explanation, Attribution):
        content = _attribution(explanation)
    elif isinstance(explanation, Alignment):
        content = _alignment(explanation)
    else:
        content = _heads(explanation)
    return f"<h2>{escape(explanation.title)}</h2>\n{content}"


def _attribution(own: Attribution) -> str:
    largest = max(map(abs, own.values), default=0.0) or 1.0
    parts = "".join(
        f'<span class="part {"plus" if value >= 0 else "minus"}" style="--size:{abs(value) / largest:.2f}" '
        f'title="{escape(f"{token}: {value:+.6f}")}"><b>{escape(token)}</b><small>{value:+.2f}</small></span>'
        for token, value in zip(own.tokens, own.values, strict=True)
    )
    difference = own.score - own.baseline_score
    missed = f"{own.error:.2g}" + (f" ({100 * own.error / abs(difference):.2g} %)" if difference else "")
    warning = (
        ""
        if own.is_reliable
        else (
            '<p class="warning">Not to be relied on: the parts miss the difference of the scores by more than '
            f"{100 * ERROR_BOUND:.0f} % of it.</p>\n"
        )
    )
    return (
        f'{warning}<div class="parts">{parts}</div>\n'
        '<p class="told">Below each token the part that it adds to the score: <b class="part plus">+</b> and a solid '
        'line raise it, <b class="part minus">−</b> and a dashed line lower it; the stronger its colour, the more. '
        f"{escape(own.note)}</p>\n"
        f'<p class="told">Integrated gradients, {own.num_steps} steps. Score {own.score:.4f}; {own.baseline_score:.4f} '
        f"with {escape(own.baseline)} at every position. The parts add up to {sum(own.values):+.4f}, the difference is "
        f"{difference:+.4f}: an error of {missed}, where {100 * ERROR_BOUND:.0f} % is the bound.</p>"
    )


def _alignment(own: Alignment) -> str:
    head = "".join(f"<th>{escape(token)}</th>" for token in own.columns)
    rows = []
    for token, weights in zip(own.rows, own.weights, strict=True):
        most = max(weights)
        cells = "".join(
            f'<td{" class=most" if weight == most else ""} style="--size:{weight:.2f}" '
            f'title="{escape(f"{token} → {column}: {weight:.4f}")}">{_short(weight)}</td>'
            for column, weight in zip(own.columns, weights, strict=True)
        )
        rows.append(f"<tr><th>{escape(token)}</th>{cells}</tr>")
    body = "\n".join(rows)
    return (
        f'<p class="text">{escape(own.note)}</p>\n<div class="wide"><table class="map"><thead><tr><th></th>{head}</tr>'
        f"</thead>\n<tbody>\n{body}\n</tbody></table></div>\n"
        '<p class="told">A row is a token that is written, a column one that is read; a number is the part of the '
        f"attention that it gets, the largest of a row framed, those below {LEAST_SHOWN} left out.</p>"
    )


def _short(weight: float) -> str:
    return f"{weight:.2f}".removeprefix("0") if weight >= LEAST_SHOWN else "·"


def _heads(own: AttentionHeads) -> str:
    layers = "\n".join(
        f'<h3>Layer {layer}</h3>\n<div class="layer">'
        + "".join(_map(f"head {head}", weights, own.rows, own.columns) for head, weights in enumerate(heads, 1))
        + "</div>"
        for layer, heads in enumerate(own.layers, 1)
    )
    return (
        f'<p class="told">{escape(own.note)} The larger a square, the greater the weight; below {LEAST_SHOWN} there is '
        "none. Below a map is the largest weight between two tokens; the pointer over a row names its largest ones."
        f"</p>\n{layers}"
    )


def _map(name: str, weights: Sequence[Sequence[float]], rows: Sequence[str], columns: Sequence[str]) -> str:
    width, parts = len(columns), []
    for place, row in enumerate(weights):
        largest = sorted(range(width), key=lambda column: -row[column])[:_NUM_NAMED]
        told = ", ".join(f"{columns[column]} {row[column]:.2f}" for column in largest)
        squares = "".join(_square(column, place, weight) for column, weight in enumerate(row) if weight >= LEAST_SHOWN)
        parts.append(
            f'<g><title>{escape(f"{rows[place]} → {told}")}</title><rect y="{place}" width="{width}" height="1"/>'
            f'<path d="{squares}"/></g>'
        )
    is_itself = rows == columns and width > 1
    first = int(len(rows) > 1 and rows[:-1] == columns[1:])  # a decoder's first token can look at the start alone
    pairs = [
        (row, column) for row in range(first, len(rows)) for column in range(width) if not (is_itself and row == column)
    ]
    place, column = max(pairs, key=lambda pair: weights[pair[0]][pair[1]])
    caption = escape(f"{name}: {rows[place]} → {columns[column]} {weights[place][column]:.2f}")
    return (
        f'<figure><svg viewBox="0 0 {width} {len(rows)}" role="img" aria-label="{caption}">{"".join(parts)}</svg>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _square(column: int, row: int, weight: float) -> str:
    """Draw a square whose area is the weight, around the middle of its cell."""
    side = weight**0.5
    edge = f"{side:.2f}"
    return f"M{column + (1 - side) / 2:.2f} {row + (1 - side) / 2:.2f}h{edge}v{edge}h-{edge}z"
