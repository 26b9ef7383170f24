"""The same trials by lightrail and by Ray Tune with Optuna: two workers each, the same configurations, none pruned.

Ray's trainable is what a user of it would write: `fit` with a callback that reports each validation. Both are commands
of their own; MLflow, in which both record, has the times of each run. So start-up is the time from the command's start
to the first run, between two runs is the time of a worker to end one and start the next, and conclusion the time after
the last one: for lightrail the study's tables and figures. Ray starts a process for each trial, and imports everything
there; with `reuse_actors` a process trains one trial after another. Ray's processes run with the priority of ours, not
with a lower one (nice 15), its default.
"""

import importlib
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import optuna

from benchmarks.sweeping.swept import NO_PRUNER, Span, Workplace, idle_time
from lightrail.project.basics.catalogue import ROOT

WORKERS = 2
OURS = "lightrail"
MODULE = "benchmarks.sweeping.ray_side"


class Parts(NamedTuple):
    """Times of a sweep, in seconds."""

    whole: float
    start: float
    run: float
    """Median of a run."""
    between: float
    conclusion: float


ROWS = ("whole command", "start-up", "a trial's run", "between two runs of a worker", "conclusion")


def measure_against_ray(place: Workplace, num_trials: int, rounds: int) -> None:
    """Print seconds of all, medians over the rounds."""
    try:
        importlib.import_module("ray.tune")
    except ImportError as error:
        print(f"\nAgainst Ray Tune: skipped, since it is not installed ({error}): pip install 'ray[tune]'")
        return
    programs: dict[str, Callable[[str], Parts]] = {
        OURS: lambda name: _by_lightrail(place, name, points),
        "Ray Tune": lambda name: _by_ray(place, name, points),
        "Ray, reuse": lambda name: _by_ray(place, name, points, "--reuse"),
    }
    points = _points(place, num_trials)
    measured = [
        {program: run(f"{program.replace(', ', '-').replace(' ', '-')}-{number}") for program, run in programs.items()}
        for number in range(rounds)
    ]
    print(f"\nAgainst Ray Tune and Optuna: digits, {num_trials} trials, {WORKERS} workers, medians of {rounds} rounds")
    print(f"{'':32}" + "".join(f"{program:>12}{'' if program == OURS else ' ours/':8}" for program in programs))
    for row, name in enumerate(ROWS):
        seconds = {program: statistics.median(each[program][row] for each in measured) for program in programs}
        others = (f"{own:12.2f}{seconds[OURS] / own:6.2f}  " for program, own in seconds.items() if program != OURS)
        print(f"{name:32}{seconds[OURS]:12.2f}        " + "".join(others))


def _points(place: Workplace, num_trials: int) -> list[dict[str, Any]]:
    """Configurations of the shipped space, as Optuna's parameters."""
    space = place.read(place.write("space")).space
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trials = [study.ask() for _ in range(num_trials)]
    for trial in trials:
        space.suggest(trial)
    return [dict(trial.params) for trial in trials]


def _by_lightrail(place: Workplace, name: str, points: list[dict[str, Any]]) -> Parts:
    swept = place.run(_definition(place, name, points))
    return _parts(swept.command, swept.runs)


def _by_ray(place: Workplace, name: str, points: list[dict[str, Any]], *flags: str) -> Parts:
    command = place.call(["-m", MODULE, str(_definition(place, name, points)), *flags], ROOT)
    return _parts(command, place.runs(name))


def _definition(place: Workplace, name: str, points: list[dict[str, Any]]) -> Path:
    resources = {"workers": WORKERS, "threads": 1}
    return place.write(name, n_trials=len(points), pruner=NO_PRUNER, resources=resources, enqueue=points)


def _parts(command: Span, runs: Sequence[Span]) -> Parts:
    return Parts(
        whole=command.seconds,
        start=min(run.began for run in runs) - command.began,
        run=statistics.median(run.seconds for run in runs),
        between=idle_time(runs, WORKERS).waiting / (len(runs) - WORKERS),
        conclusion=command.ended - max(run.ended for run in runs),
    )
