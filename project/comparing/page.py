"""Comparisons as self-contained HTML files: no requests, no scripts, for light and dark mode."""

import base64
import difflib
import itertools
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from lightrail.project.basics.tables import html_table
from lightrail.project.comparing.comparison import Comparison
from lightrail.project.comparing.entries import Answer, Example
from lightrail.project.comparing.markdown import (
    about_answer,
    cut,
    headline,
    number,
    probability,
    short_setting,
    short_value,
    shown_estimate,
    shown_interval,
    verdict,
)
from lightrail.project.comparing.measuring import Difference
from lightrail.project.figures.drawing import drawable, page, written
from lightrail.project.figures.style import STYLE
from lightrail.project.tracking.lookup import SHORT_ID

CHINESE = re.compile(r"[\u3400-\u9fff]")
ALIKE = 0.6
"""Fraction of equal characters from which on a prediction is compared with its target character by character."""


@dataclass(frozen=True)
class Palette:
    """Colours of a figure. Better and worse are distinguishable with red-green colour blindness."""

    paper: str
    ink: str
    muted: str
    line: str
    better: str
    worse: str
    unclear: str


LIGHT = Palette("#ffffff", "#1f2933", "#6b7785", "#dfe4ea", "#2f6fdb", "#d9660a", "#8d99a6")
DARK = Palette("#161b22", "#e6edf3", "#9aa7b4", "#30363d", "#6ea8fe", "#ff9d4d", "#8b949e")


def as_html(comparison: Comparison) -> str:
    """Format a comparison as HTML, with all texts of runs escaped."""
    title = " / ".join(comparison.label(place) for place in range(len(comparison.entries)))
    body = "\n".join(
        [
            f"<h1>{escape(title)}</h1>",
            f'<p class="lead">{headline(comparison, _name, escape)}</p>',
            _figure(comparison),
            _section("Values", _values(comparison)),
            _section(f"Differences to {comparison.label(0)}", _differences(comparison)),
            *_examples(comparison),
            _section("Settings in which they differ", _settings(comparison)),
            *_notes(comparison),
            _link(comparison),
        ]
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _name(text: str) -> str:
    return f"<b>{escape(text)}</b>"


def _section(title: str, content: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n{content}\n</section>"


def _figure(comparison: Comparison) -> str:
    """Draw the figure for light and for dark mode; the style sheet shows one of them."""
    light, dark = (_image(comparison, palette) for palette in (LIGHT, DARK))
    alternative = escape(f"Differences to {comparison.label(0)} with 95 % intervals, metric by metric")
    baseline = escape(comparison.label(0))
    return (
        f'<figure>\n<img class="light" alt="{alternative}" src="{light}">\n'
        f'<img class="dark" alt="{alternative}" src="{dark}">\n'
        f"<figcaption>Difference to <b>{baseline}</b> with its 95 % interval. Filled: shown by the corrected p value; "
        f"<span class=better>better</span> or <span class=worse>worse</span>.</figcaption>\n</figure>"
    )


def _image(comparison: Comparison, palette: Palette) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "forest.png"
        forest_plot(comparison, palette, path)
        image = written(path)
        kind = "png" if image == path else "svg+xml"
        return f"data:image/{kind};base64,{base64.b64encode(image.read_bytes()).decode()}"


def _values(comparison: Comparison) -> str:
    estimates = comparison.measured.estimates
    head = [f"{escape(name)} {'↑' if comparison.higher_is_better[name] else '↓'}" for name in estimates]
    rows = []
    for place, entry in enumerate(comparison.entries):
        baseline = ' <span class="tag">baseline</span>' if place == 0 else ""
        name = f"<b>{escape(comparison.label(place))}</b>{baseline}<small>{escape(entry.run_id[:SHORT_ID])}</small>"
        own = [each[place] for each in estimates.values()]
        cells = [f"{shown_estimate(each)}<small>{shown_interval(each.low, each.high)}</small>" for each in own]
        rows.append([name, *cells])
    caption = "With 95 % intervals; ↑ higher is better, ↓ lower is better."
    if any(each.deviation is not None for own in estimates.values() for each in own):
        caption += " Of several seeds: mean ± sample standard deviation over the seeds."
    return f'{html_table(["run", *head], rows, "numbers")}\n<p class="told">{caption}</p>'


def _differences(comparison: Comparison) -> str:
    rows = [
        [
            f"<b>{escape(own.metric)}</b>",
            escape(comparison.label(own.side)),
            number(own.value, is_signed=True),
            shown_interval(own.low, own.high, is_signed=True),
            *([escape(probability(own.p)), escape(probability(own.corrected_p))] if own.test else ["", ""]),
            f'<span class="verdict {_kind(own)}">{escape(verdict(own))}</span>' if own.test else "",
        ]
        for own in comparison.measured.differences
    ]
    head = ["metric", "run", "difference", "95 % interval", "p", "corrected p", "verdict"]
    return f'{html_table(head, rows, "tests")}\n<p class="told">{escape(comparison.method)}</p>'


def _kind(difference: Difference) -> str:
    if not difference.is_shown:
        return "unclear"
    return "better" if difference.is_better else "worse"


def _examples(comparison: Comparison) -> Iterator[str]:
    if not comparison.examples:
        return
    labels = [escape(comparison.label(place)) for place in range(len(comparison.entries))]
    inputs = ["input"] if comparison.examples[0].input is not None else []
    rows = [_example(example) for example in comparison.examples]
    targets = ["target"] if comparison.examples[0].target is not None else []
    shown = "below each prediction its confidence" if targets else "shown are bits per character"
    caption = f'<p class="told">Largest differences in loss first; {shown}.</p>'
    content = f"{html_table(['id', *inputs, *targets, *labels], rows, 'examples')}\n{caption}"
    yield _section("Examples on which they differ most", content)


def _example(example: Example) -> list[str]:
    inputs = [] if example.input is None else [f'<span class="input">{escape(cut(example.input))}</span>']
    if example.target is None:
        return [f"<small>{example.id}</small>", *inputs, *(number(answer.loss) for answer in example.answers)]
    answers = [f"{_marked(answer, example.target)}<small>{about_answer(answer)}</small>" for answer in example.answers]
    return [f"<small>{example.id}</small>", *inputs, escape(cut(example.target)), *answers]


def _marked(answer: Answer, target: str) -> str:
    """Format a prediction with its wrong parts marked."""
    if answer.is_right:
        return f'<span class="right">{escape(cut(answer.text))}</span>'
    return "".join(
        escape(part) if is_right else f"<mark>{escape(part)}</mark>" for part, is_right in _parts(answer, target)
    )


def _parts(answer: Answer, target: str) -> list[tuple[str, bool]]:
    """Split a prediction into right and wrong parts; all of it is wrong where it is too far from the target."""
    own, other = cut(answer.text), cut(target)
    if len(own) == len(other) and CHINESE.search(other):  # tagged character by character
        pairs = itertools.groupby(zip(own, other, strict=True), lambda pair: pair[0] == pair[1])
        return [("".join(one for one, _ in pair), is_right) for is_right, pair in pairs]
    matcher = difflib.SequenceMatcher(None, other, own, autojunk=False)
    if matcher.ratio() < ALIKE:
        return [(own, False)]
    return [(own[start:end] or "·", change == "equal") for change, _, _, start, end in matcher.get_opcodes()]


def _settings(comparison: Comparison) -> str:
    if not comparison.settings:
        return "<p>None.</p>"
    labels = [escape(comparison.label(place)) for place in range(len(comparison.entries))]
    rows = [
        [f"<code>{escape(short_setting(name))}</code>", *(escape(short_value(name, value)) for value in values)]
        for name, values in comparison.settings.items()
    ]
    return html_table(["setting", *labels], rows)


def _notes(comparison: Comparison) -> Iterator[str]:
    if comparison.notes:
        lines = "".join(f"<li>{escape(note)}</li>" for note in comparison.notes)
        yield _section("Notes", f"<ul>{lines}</ul>")


def _link(comparison: Comparison) -> str:
    server = ", after <code>lightrail ui</code>" if comparison.link_needs_server else ""
    return f'<p><a href="{escape(comparison.link)}">The same runs in MLflow</a>{server}</p>'


MAX_NAME_CHARACTERS = 28
WIDTH_INCHES = 8.6
ROW_INCHES, PANEL_INCHES = 0.34, 0.78
"""Height of a run in a panel, and of the rest of a metric's panel."""


def forest_plot(comparison: Comparison, palette: Palette, path: Path) -> None:
    """Draw a panel per metric with a line per run, coloured where the difference is significant."""
    by_metric: dict[str, list[Difference]] = {}
    for difference in comparison.measured.differences:
        by_metric.setdefault(difference.metric, []).append(difference)
    height = sum(PANEL_INCHES + ROW_INCHES * len(own) for own in by_metric.values())
    with page(path, WIDTH_INCHES, height) as figure:
        figure.set_facecolor(palette.paper)
        figure.set_layout_engine("constrained", hspace=0.12)
        ratios = [PANEL_INCHES + ROW_INCHES * len(own) for own in by_metric.values()]
        panels = figure.subplots(len(by_metric), 1, squeeze=False, height_ratios=ratios)[:, 0]
        for axes, (metric, differences) in zip(panels, by_metric.items(), strict=True):
            _draw_panel(axes, metric, differences, comparison, palette)


def _draw_panel(
    axes: Axes, metric: str, differences: Sequence[Difference], comparison: Comparison, palette: Palette
) -> None:
    _draw_ground(axes, palette)
    names = [drawable(comparison.label(own.side), MAX_NAME_CHARACTERS) for own in differences]
    for row, own in enumerate(differences):
        _draw_difference(axes, row, own, palette)
    axes.set_yticks(range(len(names)), names)
    axes.set(ylim=(len(names) - 0.4, -0.6), xlim=_limits(differences))
    axes.set_title(metric, loc="left", fontsize=10, color=palette.ink, fontweight="bold", pad=6)
    axes.annotate(
        "better →" if comparison.higher_is_better[metric] else "← better",
        (1, 1),
        (0, 7),
        xycoords="axes fraction",
        textcoords="offset points",
        ha="right",
        color=palette.better,
        fontsize=8,
    )


def _draw_ground(axes: Axes, palette: Palette) -> None:
    axes.set_facecolor(palette.paper)
    axes.grid(visible=True, axis="x", color=palette.line, linewidth=0.8)
    axes.grid(visible=False, axis="y")
    axes.axvline(0, color=palette.ink, linewidth=1.1, zorder=2)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.tick_params(axis="x", colors=palette.muted, length=0, labelsize=8)
    axes.tick_params(axis="y", colors=palette.ink, length=0, labelsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: "0" if abs(value) < 1e-12 else f"{value:+g}"))


def _draw_difference(axes: Axes, row: int, own: Difference, palette: Palette) -> None:
    color = palette.unclear
    if own.is_shown:
        color = palette.better if own.is_better else palette.worse
    if np.isfinite([own.value, own.low, own.high]).all():
        axes.plot([own.low, own.high], [row, row], color=color, linewidth=2.4, solid_capstyle="round", zorder=3)
        marker = color if own.is_shown else palette.paper
        axes.plot(
            [own.value], [row], "o", markersize=7.5, color=color, markerfacecolor=marker, markeredgewidth=1.8, zorder=4
        )
    axes.annotate(
        f"{number(own.value, is_signed=True)}{f'   p {probability(own.corrected_p)}' if own.test else ''}",
        (1, row),
        (8, 0),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        va="center",
        color=color if own.is_shown else palette.muted,
        fontsize=8.5,
        annotation_clip=False,
    )


def _limits(differences: Sequence[Difference]) -> tuple[float, float]:
    """Return limits of the axis that include zero and all intervals with a margin, also for equal runs."""
    ends = [end for own in differences for end in (own.low, own.high, own.value) if np.isfinite(end)]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    air = 0.08 * (high - low) or 1.0
    return low - air, high + air
