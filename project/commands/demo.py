"""`lightrail demo`: train the pinyin tagger and its baseline on real text, and compare the two."""

from collections.abc import Sequence
from typing import Any

from lightrail.project.basics.tables import aligned
from lightrail.project.configuration import parse
from lightrail.project.running.fitting import FinishedRun, fit

NUM_SHOWN = 10


def run(arguments: list[str]) -> int:
    """Train the pinyin tagger and the baseline with the shipped settings, and print predictions and metrics.

    Args:
        arguments: settings for both, such as `--tracking.uri`.
    """
    print("1. The baseline: each syllable becomes its most frequent character.\n", flush=True)
    baseline = fit(parse(["--config=pinyin_baseline", "--tracking.run_name=baseline", *arguments]))
    print("\n2. The tagger: a small Transformer reads the whole sentence.\n", flush=True)
    tagger = fit(parse(["--config=pinyin", "--tracking.run_name=tagger", *arguments]))
    print("\nHeld-out sentences it never saw, wrong characters in [ ]:\n")
    assert tagger.predictions is not None, "the demo runs in one process"
    for row in every_nth(tagger.predictions.to_pylist(), NUM_SHOWN):
        got = marked(row["prediction"], row["target"])
        print(f"  pinyin    {row['pinyin']}\n  expected  {row['target']}\n  got       {got}\n")
    print(table({"baseline": baseline, "tagger": tagger}))
    print("\nOpen both runs in the MLflow UI:  .venv/bin/lightrail ui")
    return 0


def every_nth(rows: Sequence[dict[str, Any]], number: int) -> Sequence[dict[str, Any]]:
    """Return at most `number` evenly spaced rows."""
    return rows[:: max(1, len(rows) // number)][:number]


def marked(predicted: str, target: str) -> str:
    """Put each wrong span of a prediction in brackets.

    >>> marked("我门都是雪生", "我们都是学生")
    '我[门]都是[雪]生'
    """
    if len(predicted) != len(target):
        return f"[{predicted}]"
    shown = "".join(own if own == other else f"[{own}]" for own, other in zip(predicted, target, strict=True))
    return shown.replace("][", "")


def table(runs: dict[str, FinishedRun]) -> str:
    """Format a table of metrics, one row per run."""
    names = sorted({name for run in runs.values() for name in run.metrics})
    rows = [[name, *(f"{run.metrics[key]:.4f}" for key in names)] for name, run in runs.items()]
    return "\n".join(aligned([["run".ljust(10), *names], *rows], right=range(1, len(names) + 1)))
