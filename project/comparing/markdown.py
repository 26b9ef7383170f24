"""A comparison as Markdown whose tables also read well in a terminal."""

import re
from collections.abc import Iterator

from lightrail.project.basics.tables import markdown_table
from lightrail.project.comparing.comparison import Comparison
from lightrail.project.comparing.entries import SHORT_ID
from lightrail.project.comparing.examples import Example
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

MAX_ANSWER_CHARACTERS = 40
MEANS_SOMETHING = re.compile(r"([\\`*<>|\[\]]|(?<!\w)_|_(?!\w))")
"""What Markdown takes for markup; inside a word `_` is none."""


def as_markdown(comparison: Comparison) -> str:
    parts = [
        f"# {' / '.join(literal(comparison.label(place)) for place in range(len(comparison.entries)))}",
        headline(comparison, literal),
        *_values(comparison),
        *_differences(comparison),
        *_examples(comparison),
        *_settings(comparison),
    ]
    if comparison.notes:
        parts += ["## Notes", "\n".join(f"- {literal(note)}" for note in comparison.notes)]
    server = ", after `lightrail ui`" if comparison.link_needs_server else ""
    return "\n\n".join([*parts, f"The same runs in MLflow{server}: <{comparison.link}>"]) + "\n"


def literal(text: str) -> str:
    """Text of the user's, with nothing in it that Markdown would take for markup.

    >>> print(literal("a_b | _c_"))
    a_b \\| \\_c\\_
    """
    return MEANS_SOMETHING.sub(r"\\\1", " ".join(text.split()))


def _values(comparison: Comparison) -> Iterator[str]:
    estimates = comparison.measured.estimates
    rows = []
    for place, entry in enumerate(comparison.entries):
        own = [each[place] for each in estimates.values()]
        cells = [f"{shown_estimate(each)} {shown_interval(each.low, each.high)}" for each in own]
        baseline = " (baseline)" if place == 0 else ""
        rows.append([f"{literal(comparison.label(place))}{baseline}", entry.run_id[:SHORT_ID], *cells])
    yield "## Values"
    yield markdown_table(["run", "id", *(f"{name} {_better(comparison, name)}" for name in estimates)], rows)
    if any(each.deviation is not None for own in estimates.values() for each in own):
        yield "Of several seeds: mean ± sample standard deviation over the seeds."


def _better(comparison: Comparison, metric: str) -> str:
    return "↑" if comparison.higher_is_better[metric] else "↓"


def _differences(comparison: Comparison) -> Iterator[str]:
    rows = [
        [
            own.metric,
            literal(comparison.label(own.side)),
            number(own.value, is_signed=True),
            shown_interval(own.low, own.high, is_signed=True),
            probability(own.p),
            probability(own.corrected_p),
            verdict(own),
        ]
        for own in comparison.measured.differences
    ]
    yield f"## Differences to {literal(comparison.label(0))}"
    yield markdown_table(["metric", "run", "difference", "95 % interval", "p", "corrected p", "verdict"], rows)
    yield comparison.method


def _examples(comparison: Comparison) -> Iterator[str]:
    if not comparison.examples:
        return
    labels = [literal(comparison.label(place)) for place in range(len(comparison.entries))]
    inputs = ["input"] if comparison.examples[0].input is not None else []
    yield "## Examples on which they differ most"
    targets = ["target"] if comparison.examples[0].target is not None else []
    yield markdown_table(["id", *inputs, *targets, *labels], [_example(example) for example in comparison.examples])
    yield "In brackets: confidence; ✓ where the answer is the target." if targets else "Bits per character."


def _example(example: Example) -> list[str]:
    inputs = [] if example.input is None else [literal(cut(example.input))]
    if example.target is None:
        return [str(example.id), *inputs, *(number(answer.loss) for answer in example.answers)]
    answers = [
        f"{'✓ ' if answer.is_right else ''}{literal(cut(answer.text, MAX_ANSWER_CHARACTERS))} ({about_answer(answer)})"
        for answer in example.answers
    ]
    return [str(example.id), *inputs, literal(cut(example.target, MAX_ANSWER_CHARACTERS)), *answers]


def _settings(comparison: Comparison) -> Iterator[str]:
    yield "## Settings in which they differ"
    if not comparison.settings:
        yield "None."
        return
    labels = [literal(comparison.label(place)) for place in range(len(comparison.entries))]
    rows = [
        [literal(short_setting(name)), *(literal(short_value(name, value)) for value in values)]
        for name, values in comparison.settings.items()
    ]
    yield markdown_table(["setting", *labels], rows)
