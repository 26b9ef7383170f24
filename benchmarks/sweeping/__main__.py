"""Costs and savings of a sweep, on the shipped definition of the digits.

overhead: seconds of a trial in addition to its training. idle: waiting time of two workers with trials of uneven
lengths. search: time until TPE with pruning is as good as random search. ray: the same trials by Ray Tune and Optuna,
if Ray is installed. Each module describes its measurement. Trials have one thread each.
Run: python -m benchmarks.sweeping [--only overhead idle search ray] (about 20 minutes on two cores without other load)
"""

import argparse
import logging
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import optuna
import torch
import yaml

from benchmarks.sweeping.idle import measure_idle_time
from benchmarks.sweeping.overhead import measure_overhead
from benchmarks.sweeping.ray_tune import measure_against_ray
from benchmarks.sweeping.search import measure_search
from benchmarks.sweeping.swept import Workplace


def main() -> None:
    arguments = _arguments()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    measurements: dict[str, Callable[[Workplace], None]] = {
        "overhead": lambda place: measure_overhead(place, arguments.trials or 4, arguments.rounds),
        "idle": lambda place: measure_idle_time(place, arguments.rounds),
        "search": lambda place: measure_search(place, arguments.trials or 20, arguments.seeds, arguments.pruner),
        "ray": lambda place: measure_against_ray(place, arguments.trials or 8, arguments.rounds),
    }
    for name in arguments.only:
        with tempfile.TemporaryDirectory(prefix="lightrail-sweeping-") as folder:
            measurements[name](Workplace(Path(folder)))


def _arguments() -> argparse.Namespace:
    names = ["overhead", "idle", "search", "ray"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--rounds", type=int, default=3, help="of overhead, idle and ray")
    parser.add_argument("--seeds", type=int, default=3, help="of search")
    parser.add_argument("--trials", type=int, help="of a sweep, at least 3. Default: 4, of search 20, of ray 8")
    parser.add_argument("--pruner", type=yaml.safe_load, help="of search, as in a definition, for the shipped one")
    arguments = parser.parse_args()
    if arguments.trials is not None and arguments.trials < 3:
        parser.error("--trials: at least 3 are needed for a measurement")
    return arguments


if __name__ == "__main__":
    main()
