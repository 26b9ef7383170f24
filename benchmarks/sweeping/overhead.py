"""Overhead of a trial in addition to its training.

Bare trainings run in one process that has imported everything and has trained before: `fit`, which is all that a
trial's process does (build, track, train with validations, write checkpoints, test, draw), and Lightning's
`trainer.fit` alone on a built experiment, without tracking, checkpoints and test. Sweep and bare trainings of the same
configuration alternate. The machine must have no other load: Linux divides cores by session, each trial is a session of
its own, so that under load trials would be faster than bare trainings, and the overhead negative.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

from benchmarks.sweeping.swept import NO_PRUNER, RANDOM, Swept, Workplace
from lightrail.project.configuration import Configuration
from lightrail.project.running.build import build
from lightrail.project.running.fitting import fit

SETTING, VALUE = "model.optim.lr", 3e-3
TARGET = 0.5
"""Target in seconds."""
TRIAL, PERIOD, FIT, LIGHTNING = "trial", "period", "fit", "lightning"
ROWS = {
    TRIAL: "a trial, as Optuna sees it",
    PERIOD: "from a trial's end to the next one's",
    FIT: "bare: fit",
    LIGHTNING: "bare: trainer.fit alone",
    "begin": "once a sweep: until the first trial",
    "conclude": "once a sweep: after the last trial",
}


def measure_overhead(place: Workplace, num_trials: int, rounds: int) -> None:
    """Print the overhead in seconds, medians over the rounds.

    Args:
        num_trials: number of trials of each sweep; the first one does not count.
    """
    configuration = place.read(_definition(place, "bare", 1)).configuration({SETTING: VALUE}, 0)
    fit(configuration)  # warm-up
    measured = [_round(place, configuration, number, num_trials) for number in range(rounds)]
    print(
        f"\nOverhead of a trial: digits, 240 steps, one worker, {rounds} rounds of {num_trials} trials, first left out"
    )
    print(f"{'':40}{'seconds':>9}{'least':>8}{'most':>8}")
    for row, name in ROWS.items():
        _print_row(name, [each[row] for each in measured])
    for row, name in ((TRIAL, "overhead: trial - fit"), (PERIOD, "overhead: end to end - fit")):
        _print_row(name, [each[row] - each[FIT] for each in measured], f"  (target {TARGET})")
    _print_row("overhead: trial - trainer.fit", [each[TRIAL] - each[LIGHTNING] for each in measured])


def _round(place: Workplace, configuration: Configuration, number: int, num_trials: int) -> dict[str, float]:
    swept = place.run(_definition(place, f"overhead-{number}", num_trials))
    again = range(num_trials - 1)
    return {
        **_of_sweep(swept),
        FIT: statistics.median(_timed(lambda: fit(configuration)) for _ in again),
        LIGHTNING: statistics.median(_lightning(configuration) for _ in again),
    }


def _definition(place: Workplace, name: str, num_trials: int) -> Any:
    space = {SETTING: {"choices": [VALUE]}}
    return place.write(name, n_trials=num_trials, sampler=RANDOM, pruner=NO_PRUNER, space=space)


def _of_sweep(swept: Swept) -> dict[str, float]:
    spans = swept.spans
    return {
        TRIAL: statistics.median(span.seconds for span in spans[1:]),
        PERIOD: (spans[-1].ended - spans[0].ended) / (len(spans) - 1),
        "begin": spans[0].began - swept.command.began,
        "conclude": swept.command.ended - spans[-1].ended,
    }


def _lightning(configuration: Configuration) -> float:
    experiment = build(configuration, "fit")
    trainer: Any = experiment.trainer
    trainer.callbacks = [own for own in trainer.callbacks if "Checkpoint" not in type(own).__name__]
    return _timed(lambda: trainer.fit(experiment.model, datamodule=experiment.data))


def _timed(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _print_row(name: str, seconds: list[float], more: str = "") -> None:
    print(f"{name:40}{statistics.median(seconds):9.2f}{min(seconds):8.2f}{max(seconds):8.2f}{more}")
