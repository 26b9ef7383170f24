"""Numbers and texts of a comparison as people read them, in Markdown as in HTML."""

import math
from collections.abc import Callable

from lightrail.project.comparing.comparison import Comparison
from lightrail.project.comparing.examples import Answer
from lightrail.project.comparing.measuring import Difference, Estimate

MAX_CHARACTERS = 80
"""Of a text shown in a table."""
MAX_SETTING_CHARACTERS = 40


def shown_estimate(estimate: Estimate) -> str:
    deviation = "" if estimate.deviation is None else f" ± {number(estimate.deviation)}"
    return f"{number(estimate.value)}{deviation}"


def shown_interval(low: float, high: float, *, is_signed: bool = False) -> str:
    if math.isnan(low) and math.isnan(high):
        return ""
    return f"[{number(low, is_signed=is_signed)}, {number(high, is_signed=is_signed)}]"


def number(value: float, *, is_signed: bool = False) -> str:
    """Four decimals; more where they would show nothing but zeros.

    >>> number(0.91234), number(0.0123, is_signed=True), number(0.0000123)
    ('0.9123', '+0.0123', '1.2e-05')
    """
    if not math.isfinite(value):
        return "undefined" if math.isnan(value) else str(value)
    sign = "+" if is_signed else ""
    return f"{value:{sign}.4f}" if value == 0 or abs(value) >= 0.00005 else f"{value:{sign}.1e}"


def probability(p: float) -> str:
    """Three decimals.

    >>> probability(0.0416), probability(0.00001)
    ('0.042', '< 0.001')
    """
    if math.isnan(p):
        return "undefined"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def verdict(difference: Difference) -> str:
    """In which direction, too: a lower loss is a better one."""
    if math.isnan(difference.p):
        return "undefined"
    if not difference.is_shown:
        return difference.verdict
    return f"{difference.verdict}: {'better' if difference.is_better else 'worse'}"


def about_answer(answer: Answer) -> str:
    """Confidence, and of a group how many runs agree."""
    agreeing = f", {answer.num_agreeing} of {answer.num_runs}" if answer.num_runs > 1 else ""
    return f"{answer.score:.2f}{agreeing}"


def cut(text: str, max_characters: int = MAX_CHARACTERS) -> str:
    """One line, not too long."""
    line = " ".join(text.split())
    return line if len(line) <= max_characters else f"{line[: max_characters - 1]}…"


def short_setting(name: str) -> str:
    """A setting as one writes it on the command line: `model.encoder.width`."""
    return name.replace(".init_args", "")


def short_value(name: str, value: str | None) -> str:
    """Of a class its name alone; – where there is no such setting."""
    if value is None:
        return "–"
    return cut(value.rpartition(".")[2] if name.endswith("class_path") else value, MAX_SETTING_CHARACTERS)


def headline(comparison: Comparison, quote: Callable[[str], str]) -> str:
    """What the main metric says, in one sentence.

    Args:
        quote: makes a name part of the text.
    """
    own = [difference for difference in comparison.measured.differences if difference.metric == comparison.main_metric]
    said = [f"{quote(comparison.label(difference.side))} {_against(difference)}" for difference in own]
    return (
        f"{comparison.main_metric} on {comparison.num_rows:,} test examples, against {quote(comparison.label(0))}: "
        f"{'; '.join(said)}."
    )


def _against(difference: Difference) -> str:
    interval = shown_interval(difference.low, difference.high, is_signed=True)
    return f"{number(difference.value, is_signed=True)} {interval}, {verdict(difference)}"
