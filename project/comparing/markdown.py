"""Comparisons as Markdown that is also readable in a terminal, and the formatting of numbers shared with HTML."""

import math
from collections.abc import Callable, Iterator
from urllib import parse

from lightrail.project.basics.tables import literal, markdown_table
from lightrail.project.comparing.comparison import Comparison
from lightrail.project.comparing.entries import Answer, Example
from lightrail.project.comparing.measuring import Difference, Estimate
from lightrail.project.tracking.lookup import SHORT_ID

MAX_ANSWER_CHARACTERS = 40


LINK = ":/?#[]@!$&'()*+,;=%"
"""Characters of an address that stay as they are."""


def as_markdown(comparison: Comparison) -> str:
    """Format a comparison as Markdown."""
    parts = [
        f"# {' / '.join(literal(comparison.label(place)) for place in range(len(comparison.entries)))}",
        headline(comparison, literal, literal),
        *_values(comparison),
        *_differences(comparison),
        *_examples(comparison),
        *_settings(comparison),
    ]
    if comparison.notes:
        parts += ["## Notes", "\n".join(f"- {literal(note)}" for note in comparison.notes)]
    server = ", after `lightrail ui`" if comparison.link_needs_server else ""
    return "\n\n".join([*parts, f"The same runs in MLflow{server}: <{parse.quote(comparison.link, safe=LINK)}>"]) + "\n"


def _values(comparison: Comparison) -> Iterator[str]:
    estimates = comparison.measured.estimates
    rows = []
    for place, entry in enumerate(comparison.entries):
        own = [each[place] for each in estimates.values()]
        cells = [f"{shown_estimate(each)} {shown_interval(each.low, each.high)}" for each in own]
        baseline = " (baseline)" if place == 0 else ""
        rows.append([f"{literal(comparison.label(place))}{baseline}", literal(entry.run_id[:SHORT_ID]), *cells])
    yield "## Values"
    yield markdown_table(["run", "id", *(f"{literal(name)} {_better(comparison, name)}" for name in estimates)], rows)
    if any(each.deviation is not None for own in estimates.values() for each in own):
        yield "Of several seeds: mean ± sample standard deviation over the seeds."


def _better(comparison: Comparison, metric: str) -> str:
    return "↑" if comparison.higher_is_better[metric] else "↓"


def _differences(comparison: Comparison) -> Iterator[str]:
    rows = [
        [
            literal(own.metric),
            literal(comparison.label(own.side)),
            number(own.value, is_signed=True),
            shown_interval(own.low, own.high, is_signed=True),
            *([probability(own.p), probability(own.corrected_p)] if own.test else ["", ""]),
            verdict(own) if own.test else "",
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
    yield "In brackets: confidence; ✓ where the prediction is the target." if targets else "Bits per character."


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


MAX_CHARACTERS = 80
"""Maximum length of a text in a table."""
MAX_SETTING_CHARACTERS = 40


def shown_estimate(estimate: Estimate) -> str:
    """Format an estimate, with its standard deviation over the seeds, if any."""
    deviation = "" if estimate.deviation is None else f" ± {number(estimate.deviation)}"
    return f"{number(estimate.value)}{deviation}"


def shown_interval(low: float, high: float, *, is_signed: bool = False) -> str:
    """Format an interval, "" for one that is undefined."""
    if math.isnan(low) and math.isnan(high):
        return ""
    return f"[{number(low, is_signed=is_signed)}, {number(high, is_signed=is_signed)}]"


def number(value: float, *, is_signed: bool = False) -> str:
    """Format a number with four decimals, or in scientific notation where these are all zero.

    >>> number(0.91234), number(0.0123, is_signed=True), number(0.0000123)
    ('0.9123', '+0.0123', '1.2e-05')
    """
    if not math.isfinite(value):
        return "undefined" if math.isnan(value) else str(value)
    sign = "+" if is_signed else ""
    return f"{value:{sign}.4f}" if value == 0 or abs(value) >= 0.00005 else f"{value:{sign}.1e}"


def probability(p: float) -> str:
    """Format a p value with three decimals.

    >>> probability(0.0416), probability(0.00001)
    ('0.042', '< 0.001')
    """
    if math.isnan(p):
        return "undefined"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def verdict(difference: Difference) -> str:
    """Format the verdict of a significance test with its direction: better or worse."""
    if difference.test and math.isnan(difference.p):
        return "undefined"
    if not difference.is_shown:
        return difference.verdict
    return f"{difference.verdict}: {'better' if difference.is_better else 'worse'}"


def about_answer(answer: Answer) -> str:
    """Format the confidence of a prediction, and for a group the number of agreeing runs."""
    agreeing = f", {answer.num_agreeing} of {answer.num_runs}" if answer.num_runs > 1 else ""
    return f"{answer.score:.2f}{agreeing}"


def cut(text: str, max_characters: int = MAX_CHARACTERS) -> str:
    """Shorten a text to one line of at most `max_characters`."""
    line = " ".join(text.split())
    return line if len(line) <= max_characters else f"{line[: max_characters - 1]}…"


def short_setting(name: str) -> str:
    """Return a setting's name as on the command line: `model.encoder.width`."""
    return name.replace(".init_args", "")


def short_value(name: str, value: str | None) -> str:
    """Shorten the value of a setting, a class to its bare name; – for a missing setting."""
    if value is None:
        return "–"
    return cut(value.rpartition(".")[2] if name.endswith("class_path") else value, MAX_SETTING_CHARACTERS)


def headline(comparison: Comparison, quote: Callable[[str], str], escape: Callable[[str], str]) -> str:
    """Summarize the main metric in one sentence.

    Args:
        quote: escapes the name of an entry, and may emphasize it.
        escape: escapes a text.
    """
    own = [difference for difference in comparison.measured.differences if difference.metric == comparison.main_metric]
    parts = [f"{quote(comparison.label(difference.side))} {_against(difference)}" for difference in own]
    return (
        f"{escape(comparison.main_metric)} on {comparison.num_rows:,} test examples, "
        f"against {quote(comparison.label(0))}: {'; '.join(parts)}."
    )


def _against(difference: Difference) -> str:
    interval = shown_interval(difference.low, difference.high, is_signed=True)
    return f"{number(difference.value, is_signed=True)} {interval}, {verdict(difference)}"
