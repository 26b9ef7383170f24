"""Idle time of two workers with eight trials of very different lengths.

A worker is idle while it has no trial although some have not started. After the start of the last trial workers cannot
be kept busy: this tail is separate. Optuna's times are those of a worker with a trial. MLflow's are those of an open
run: by them the start of a process and the building of data and network are idle time too. The last row is computed
from the same trials: the waste of a sweep that starts them in pairs, the next pair when both have ended.
"""

import statistics
from typing import NamedTuple

from benchmarks.sweeping.swept import NO_PRUNER, Idle, Span, Workplace, idle_time

WORKERS = 2
SETTING = "trainer.max_steps"
STEPS = (1920, 240, 480, 1440, 120, 960, 360, 720)
TARGET = 0.05


class Round(NamedTuple):
    """Idle times of one sweep."""

    by_optuna: Idle
    by_mlflow: Idle
    share_in_pairs: float


def measure_idle_time(place: Workplace, rounds: int) -> None:
    """Print fractions of the workers' time, medians over the rounds."""
    measured = [_round(place, number) for number in range(rounds)]
    print(f"\nIdle time of {WORKERS} workers: digits, trials of {', '.join(map(str, STEPS))} steps, {rounds} rounds")
    print(f"{'':40}{'idle':>9}{'of':>8}{'share':>8}{'tail':>8}")
    _print_row("by Optuna: worker without a trial", [each.by_optuna for each in measured], f"  (target {TARGET:.0%})")
    _print_row("by MLflow: no run open", [each.by_mlflow for each in measured])
    print(f"{'in pairs, computed':57}{statistics.median(each.share_in_pairs for each in measured):8.1%}")


def _print_row(name: str, idle: list[Idle], more: str = "") -> None:
    waiting, available, tail, share = (
        statistics.median(getattr(own, part) for own in idle) for part in ("waiting", "available", "tail", "share")
    )
    print(f"{name:40}{waiting:8.2f}s{available:7.1f}s{share:8.1%}{tail:7.1f}s{more}")


def _round(place: Workplace, number: int) -> Round:
    file = place.write(
        f"idle-{number}",
        {"trainer.val_check_interval": min(STEPS)},
        n_trials=len(STEPS),
        pruner=NO_PRUNER,
        resources={"workers": WORKERS, "threads": 1},
        space={SETTING: {"choices": list(STEPS)}},
        enqueue=[{SETTING: steps} for steps in STEPS],
    )
    swept = place.run(file)
    spans = swept.spans
    return Round(idle_time(spans, WORKERS), idle_time(swept.runs, WORKERS), _share_in_pairs(spans))


def _share_in_pairs(spans: list[Span]) -> float:
    seconds = [span.seconds for span in spans]
    pairs = [seconds[first : first + WORKERS] for first in range(0, len(seconds), WORKERS)]
    available = sum(WORKERS * max(pair) for pair in pairs)
    return 1 - sum(map(sum, pairs)) / available
