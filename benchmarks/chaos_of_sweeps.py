"""Kills a sweep repeatedly at random moments, restarts it each time, and checks the result.

It is killed by SIGKILL: the driver, the processes of its trials, or all of them. Checked are: exactly the requested
number of finished trials, each with one run of its own under the study's run, no step lost or repeated in any of them,
no process left.

Run: python -m benchmarks.chaos_of_sweeps --kills 3 -- --config pinyin --resources.workers 2 (half an hour)
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import optuna
import psutil
from mlflow import MlflowClient
from mlflow.entities import Run

from lightrail.project.tracking.processes import owner_of
from lightrail.project.tracking.store import open_store, store_uri
from lightrail.sweeps.search.confirming import CONFIRM_TAG
from lightrail.sweeps.search.definition import Sweep, load
from lightrail.sweeps.search.outcomes import Outcome, outcomes_of
from lightrail.sweeps.search.study import PROCESS, RUN, open_storage

VICTIMS = ("driver", "trials", "driver and trials")
SECONDS_TO_END = 30
STATUSES = {"complete": "FINISHED", "pruned": "KILLED", "fail": "FAILED"}
"""MLflow's status of the run of a trial by the trial's state."""


@dataclass(frozen=True)
class Kill:
    """One kill: its victim and its time."""

    victim: str
    seconds: float
    """Seconds since the kill before it, or the start."""
    num_finished: int
    """Number of trials that had finished."""


def train_disturbed(sweep: Sweep, arguments: list[str], num_kills: int, most_seconds: float, seed: int) -> list[Kill]:
    """Run the command until it ends by itself, with kills; fewer are returned when it ends before.

    Args:
        most_seconds: maximum time from one kill to the next.
    """
    chance, kills, process = random.Random(seed), list[Kill](), _start(arguments)
    while len(kills) < num_kills:
        seconds, victim = chance.uniform(0.1, 1.0) * most_seconds, chance.choice(VICTIMS)
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            break
        kills.append(Kill(victim, seconds, sum(own.state in STATUSES for own in _outcomes(sweep))))
        print(f"{victim} killed after {seconds:.0f} s, with {kills[-1].num_finished} trials finished", flush=True)
        if victim != "driver":
            _kill_trials(_outcomes(sweep))
        if victim != "trials":
            process.kill()
            process.wait()
            process = _start(arguments)
    if process.wait():
        raise RuntimeError(f"the sweep ended with status {process.returncode}")
    return kills


def faults(sweep: Sweep) -> list[str]:
    """List the faults of a sweep that has ended."""
    study = _study(sweep)
    outcomes = _outcomes(sweep)
    client = open_store(store_uri(sweep.configuration({}).tracking()), create=False)
    parent = client.get_run(study.user_attrs[RUN])
    runs = client.search_runs([parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    by_id = {run.info.run_id: run for run in runs if CONFIRM_TAG not in run.data.tags}
    found = [f"{len(outcomes)} trials"] if len(outcomes) != sweep.config.n_trials else []
    found += [] if parent.info.status == "FINISHED" else [f"the study's run is {parent.info.status}"]
    found += [f"process {process} is left" for process in _processes(outcomes)]
    owned = Counter(run_id for own in outcomes for run_id in own.runs.values())
    found += [f"run {run_id} belongs to no trial or to several" for run_id in by_id if owned[run_id] != 1]
    return found + [fault for own in outcomes for fault in _faults_of(own, by_id, client)]


def _faults_of(outcome: Outcome, runs: Mapping[str, Run], client: MlflowClient) -> list[str]:
    name = f"trial {outcome.number}"
    if outcome.state not in STATUSES:
        return [f"{name} is {outcome.state}"]
    if not outcome.runs or not runs.keys() >= set(outcome.runs.values()):
        return [f"{name} has no run under the study's"]
    found = []
    for run_id in outcome.runs.values():
        run = runs[run_id]
        if run.info.status != STATUSES[outcome.state]:
            found.append(f"{name} is {outcome.state} and its run {run.info.status}")
        steps = [point.step for point in client.get_metric_history(run_id, "train/loss")]
        if steps != list(range(steps[0], steps[-1] + 1, steps[0])):
            found.append(f"the steps of {name} are {steps}")
    return found


def _start(arguments: Sequence[str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-m", "lightrail", "sweep", *arguments])


def _study(sweep: Sweep) -> optuna.Study:
    return optuna.load_study(study_name=sweep.name, storage=open_storage(sweep))


def _outcomes(sweep: Sweep) -> list[Outcome]:
    """The trials of the study; [] before it exists."""
    is_begun = sweep.name in optuna.get_all_study_names(open_storage(sweep))
    return outcomes_of(_study(sweep), sweep) if is_begun else []


def _kill_trials(outcomes: Sequence[Outcome]) -> None:
    for outcome in outcomes:
        process = owner_of(outcome.trial.user_attrs.get(PROCESS, ""))
        if outcome.state == "running" and process is not None and process.lives:
            os.kill(process.number, signal.SIGKILL)


def _processes(outcomes: Sequence[Outcome]) -> list[int]:
    """Processes of trials that still exist some time after the end."""
    owners = [owner_of(own.trial.user_attrs.get(PROCESS, "")) for own in outcomes]
    deadline = time.monotonic() + SECONDS_TO_END
    while (left := [own.number for own in owners if own is not None and own.lives]) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left + [child.pid for child in psutil.Process().children(recursive=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=240, help="maximum time from one kill to the next")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("sweep", nargs="+", help="the arguments of the sweep, after --")
    arguments = parser.parse_args()
    sweep = load(arguments.sweep)
    kills = train_disturbed(sweep, arguments.sweep, arguments.kills, arguments.seconds, arguments.seed)
    found = faults(sweep)
    print(f"\n{'killed':20} {'after':>8} {'trials finished by then':>25}")
    for kill in kills:
        print(f"{kill.victim:20} {kill.seconds:6.0f} s {kill.num_finished:25}")
    states = Counter(own.state for own in _outcomes(sweep))
    print(f"\n{len(kills)} kills; {', '.join(f'{number} {state}' for state, number in sorted(states.items()))}")
    print(f"wrong: {'; '.join(found) or 'nothing'}")


if __name__ == "__main__":
    main()
