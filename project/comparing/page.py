"""A comparison as one HTML file that needs nothing else: no request, no script, in light and dark."""

import base64
import difflib
import html
import itertools
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lightrail.project.basics.tables import html_table
from lightrail.project.comparing.comparison import Comparison
from lightrail.project.comparing.entries import SHORT_ID
from lightrail.project.comparing.examples import Answer, Example
from lightrail.project.comparing.forest import DARK, LIGHT, Palette, forest_plot
from lightrail.project.comparing.measuring import Difference
from lightrail.project.comparing.words import (
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
from lightrail.project.figures.style import STYLE

CHINESE = re.compile(r"[\u3400-\u9fff]")
ALIKE = 0.6
"""Share of equal characters from which on an answer and its target are compared character by character."""


def as_html(comparison: Comparison) -> str:
    """Everything that comes from runs is escaped."""
    title = " / ".join(comparison.label(place) for place in range(len(comparison.entries)))
    body = "\n".join(
        [
            f"<h1>{_text(title)}</h1>",
            f'<p class="lead">{headline(comparison, _name)}</p>',
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
        f"<title>{_text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _text(text: str) -> str:
    return html.escape(text)


def _name(text: str) -> str:
    return f"<b>{_text(text)}</b>"


def _section(title: str, content: str) -> str:
    return f"<section>\n<h2>{_text(title)}</h2>\n{content}\n</section>"


def _figure(comparison: Comparison) -> str:
    """The same picture for light and for dark; the style shows one of them."""
    light, dark = (_image(comparison, palette) for palette in (LIGHT, DARK))
    told = _text(f"Differences to {comparison.label(0)} with 95 % intervals, metric by metric")
    baseline = _text(comparison.label(0))
    return (
        f'<figure>\n<img class="light" alt="{told}" src="{light}">\n<img class="dark" alt="{told}" src="{dark}">\n'
        f"<figcaption>Difference to <b>{baseline}</b> with its 95 % interval. Filled: shown by the corrected p value; "
        f"<span class=better>better</span> or <span class=worse>worse</span>.</figcaption>\n</figure>"
    )


def _image(comparison: Comparison, palette: Palette) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "forest.png"
        forest_plot(comparison, palette, path)
        return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _values(comparison: Comparison) -> str:
    estimates = comparison.measured.estimates
    head = [f"{_text(name)} {'↑' if comparison.higher_is_better[name] else '↓'}" for name in estimates]
    rows = []
    for place, entry in enumerate(comparison.entries):
        baseline = ' <span class="tag">baseline</span>' if place == 0 else ""
        name = f"<b>{_text(comparison.label(place))}</b>{baseline}<small>{_text(entry.run_id[:SHORT_ID])}</small>"
        own = [each[place] for each in estimates.values()]
        cells = [f"{shown_estimate(each)}<small>{shown_interval(each.low, each.high)}</small>" for each in own]
        rows.append([name, *cells])
    told = "With 95 % intervals; ↑ higher is better, ↓ lower is better."
    if any(each.deviation is not None for own in estimates.values() for each in own):
        told += " Of several seeds: mean ± sample standard deviation over the seeds."
    return f'{html_table(["run", *head], rows, "numbers")}\n<p class="told">{told}</p>'


def _differences(comparison: Comparison) -> str:
    rows = [
        [
            f"<b>{_text(own.metric)}</b>",
            _text(comparison.label(own.side)),
            number(own.value, is_signed=True),
            shown_interval(own.low, own.high, is_signed=True),
            _text(probability(own.p)),
            _text(probability(own.corrected_p)),
            f'<span class="verdict {_kind(own)}">{_text(verdict(own))}</span>',
        ]
        for own in comparison.measured.differences
    ]
    head = ["metric", "run", "difference", "95 % interval", "p", "corrected p", "verdict"]
    return f'{html_table(head, rows, "tests")}\n<p class="told">{_text(comparison.method)}</p>'


def _kind(difference: Difference) -> str:
    if not difference.is_shown:
        return "unclear"
    return "better" if difference.is_better else "worse"


def _examples(comparison: Comparison) -> Iterator[str]:
    if not comparison.examples:
        return
    labels = [_text(comparison.label(place)) for place in range(len(comparison.entries))]
    inputs = ["input"] if comparison.examples[0].input is not None else []
    rows = [_example(example) for example in comparison.examples]
    targets = ["target"] if comparison.examples[0].target is not None else []
    shown = "below each answer its confidence" if targets else "shown are bits per character"
    told = f'<p class="told">Those first whose losses are farthest apart; {shown}.</p>'
    content = f"{html_table(['id', *inputs, *targets, *labels], rows, 'examples')}\n{told}"
    yield _section("Examples on which they differ most", content)


def _example(example: Example) -> list[str]:
    inputs = [] if example.input is None else [f'<span class="input">{_text(cut(example.input))}</span>']
    if example.target is None:
        return [f"<small>{example.id}</small>", *inputs, *(number(answer.loss) for answer in example.answers)]
    answers = [f"{_marked(answer, example.target)}<small>{about_answer(answer)}</small>" for answer in example.answers]
    return [f"<small>{example.id}</small>", *inputs, _text(cut(example.target)), *answers]


def _marked(answer: Answer, target: str) -> str:
    """An answer with what is wrong in it marked."""
    if answer.is_right:
        return f'<span class="right">{_text(cut(answer.text))}</span>'
    return "".join(
        _text(part) if is_right else f"<mark>{_text(part)}</mark>" for part, is_right in _parts(answer, target)
    )


def _parts(answer: Answer, target: str) -> list[tuple[str, bool]]:
    """Stretches of the answer, and whether they are right; all of it is wrong where it is not nearly the target."""
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
    labels = [_text(comparison.label(place)) for place in range(len(comparison.entries))]
    rows = [
        [f"<code>{_text(short_setting(name))}</code>", *(_text(short_value(name, value)) for value in values)]
        for name, values in comparison.settings.items()
    ]
    return html_table(["setting", *labels], rows)


def _notes(comparison: Comparison) -> Iterator[str]:
    if comparison.notes:
        lines = "".join(f"<li>{_text(note)}</li>" for note in comparison.notes)
        yield _section("Notes", f"<ul>{lines}</ul>")


def _link(comparison: Comparison) -> str:
    server = ", after <code>lightrail ui</code>" if comparison.link_needs_server else ""
    return f'<p><a href="{_text(comparison.link)}">The same runs in MLflow</a>{server}</p>'
