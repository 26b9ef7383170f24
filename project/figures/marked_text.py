"""Sentences with the entities that were expected and predicted marked in them, as a page and as plain text."""

import html
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lightrail.lightning_modules.metrics.entity_scores import Entity, Outcome, outcomes
from lightrail.project.figures.style import STYLE

WORDS: Mapping[Outcome, str] = {
    "correct": "right",
    "boundary": "wrong boundary",
    "type": "wrong type",
    "boundary_and_type": "wrong boundary and type",
    "missing": "missing",
    "spurious": "spurious",
}
CONTEXT = 40
"""Characters kept on either side of an entity; what lies farther away is left out."""

_MARKS = """
:root {
  --correct: #d9f2e0; --boundary: #dbe8fd; --type: #ecdffa; --boundary_and_type: #fbd9ee; --missing: #fbd9d3;
  --spurious: #fde6bf;
}
@media (prefers-color-scheme: dark) {
  :root {
    --correct: #17402a; --boundary: #1b3a6b; --type: #452a66; --boundary_and_type: #5e2148; --missing: #5c2320;
    --spurious: #5a3d0c;
  }
}
mark { color: var(--ink); border-radius: 4px; padding: 1px 4px; }
mark sub { color: var(--muted); font-size: 11px; margin-left: 4px; vertical-align: baseline; }
.legend mark { margin-right: 10px; white-space: nowrap; }
.line { display: grid; grid-template-columns: 6.5em 1fr; margin: 6px 0; }
.line span:first-child { color: var(--muted); font-size: 13px; }
.line span:last-child { overflow-wrap: anywhere; white-space: pre-wrap; line-height: 1.9; }
""" + "".join(f"mark.{outcome} {{ background: var(--{outcome}); }}\n" for outcome in WORDS)


@dataclass(frozen=True)
class Mark:
    """An entity and what became of it."""

    start: int
    end: int
    kind: str
    outcome: Outcome
    score: float | None = None
    """The probability it was predicted with."""


@dataclass(frozen=True)
class MarkedSentence:
    """A sentence, what was expected in it, and what was predicted."""

    id: int
    text: str
    expected: Sequence[Mark]
    predicted: Sequence[Mark]
    loss: float
    """Nats per word."""

    @property
    def num_errors(self) -> int:
        """Wrong predictions, and expected entities that none of these stands for."""
        wrong = sum(mark.outcome != "correct" for mark in self.predicted)
        return wrong + sum(mark.outcome == "missing" for mark in self.expected)


def marked_sentence(
    number: int, text: str, predicted: Mapping[Entity, float], expected: Iterable[Entity], loss: float
) -> MarkedSentence:
    """Find out what became of each entity; `predicted` has the probability of each."""
    found = outcomes(predicted, expected)
    return MarkedSentence(
        id=number,
        text=text,
        expected=[Mark(*own, outcome) for outcome, _, own in found if own],
        predicted=[Mark(*own, outcome, predicted[own]) for outcome, own, _ in found if own],
        loss=loss,
    )


def as_page(sentences: Sequence[MarkedSentence], counts: Mapping[Outcome, int], num_wrong: int) -> str:
    """A page of its own, light or dark as the reader prefers.

    Args:
        counts: entities with each outcome in the whole test.
        num_wrong: sentences with an error; those shown may be fewer.
    """
    legend = "".join(f'<mark class="{own}">{WORDS[own]} {counts[own]:,}</mark>' for own in WORDS)
    body = "\n".join(map(_section, sentences)) or "<section>Every sentence is right.</section>"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>Worst mistakes</title>\n'
        f"<style>{STYLE}{_MARKS}</style></head>\n<body><main>\n<h1>Worst mistakes</h1>\n"
        f'<p class="lead">{len(sentences):,} of {num_wrong:,} sentences with an error, those with most errors first. '
        f'Counts are of the whole test.</p>\n<section class="legend">{legend}</section>\n'
        f"{body}\n</main></body></html>\n"
    )


def as_text(sentences: Sequence[MarkedSentence]) -> str:
    """The same sentences to read in a terminal: `[text TYPE]` is right, of others their outcome is said."""
    blocks = []
    for sentence in sentences:
        lines = [f"#{sentence.id}  {_facts(sentence)}"]
        for name, marks in (("expected", sentence.expected), ("predicted", sentence.predicted)):
            lines += [f"  {name:<10}{_plain(sentence.text, layer)}" for layer in _layers(marks)]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n" if blocks else ""


def _section(sentence: MarkedSentence) -> str:
    lines = [
        f'<div class="line"><span>{name}</span><span>{_html(sentence.text, layer)}</span></div>'
        for name, marks in (("expected", sentence.expected), ("predicted", sentence.predicted))
        for layer in _layers(marks)
    ]
    return f"<section>{''.join(lines)}<small>example {sentence.id}: {_facts(sentence)}</small></section>"


def _facts(sentence: MarkedSentence) -> str:
    return f"{sentence.num_errors} error{'s' * (sentence.num_errors != 1)}, loss {sentence.loss:.3f} nats per word"


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
    """The text in pieces, marked and not, long stretches without a mark shortened."""
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


def _html(text: str, marks: Sequence[Mark]) -> str:
    parts = []
    for piece, mark in _pieces(text, marks):
        if mark is None:
            parts.append(html.escape(piece))
            continue
        score = "" if mark.score is None else f", probability {mark.score:.2f}"
        title = html.escape(f"{WORDS[mark.outcome]}: {mark.kind}{score}")
        kind = html.escape(mark.kind)
        parts.append(f'<mark class="{mark.outcome}" title="{title}">{html.escape(piece)}<sub>{kind}</sub></mark>')
    return "".join(parts)


_ONE_LINE = str.maketrans("\r\n", "  ")


def _plain(text: str, marks: Sequence[Mark]) -> str:
    parts = []
    for piece, mark in _pieces(text.translate(_ONE_LINE), marks):
        said = "" if mark is None or mark.outcome == "correct" else f": {WORDS[mark.outcome]}"
        parts.append(piece if mark is None else f"[{piece} {mark.kind}{said}]")
    return "".join(parts)
