"""Sweeps over the shipped definition of the digits, run as a command, and read back from Optuna and MLflow."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import optuna
import yaml
from mlflow import MlflowClient
from optuna.trial import FrozenTrial, TrialState

from lightrail.project.basics.catalogue import sweep_files
from lightrail.sweeps.search.definition import Sweep, load

STUDY_TAG = "lightrail.parent_study"
DIGITS: dict[str, Any] = yaml.safe_load(sweep_files()["digits"].read_text(encoding="utf-8"))
"""The shipped definition."""
NO_PRUNER = "optuna.pruners.NopPruner"
RANDOM = "optuna.samplers.RandomSampler"


class Span(NamedTuple):
    """A period of time, in seconds since 1970."""

    began: float
    ended: float

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return self.ended - self.began


@dataclass(frozen=True)
class Idle:
    """Time of workers without a trial, in seconds summed over the workers."""

    waiting: float
    """Time without a trial before the last trial started."""
    available: float
    """Time of the workers until the last trial started."""
    tail: float
    """Time without a trial after the last trial started, which cannot be used."""

    @property
    def share(self) -> float:
        """Fraction of the available time without a trial."""
        return self.waiting / self.available


@dataclass(frozen=True)
class Swept:
    """A sweep that has ended."""

    command: Span
    """Period from the process's start to its end."""
    trials: Sequence[FrozenTrial]
    """Trials by number."""
    runs: Sequence[Span]
    """Period of each trial's run in MLflow: from its start, when data and network are built, to its end."""

    @property
    def spans(self) -> list[Span]:
        """Period of each trial in Optuna, from `ask` to `tell`."""
        return [Span(_seconds(trial.datetime_start), _seconds(trial.datetime_complete)) for trial in self.trials]


class Workplace:
    """A folder with a study storage and an MLflow store that all sweeps of a measurement share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = f"sqlite:///{folder}/mlflow.db"
        self.storage = f"sqlite:///{folder}/sweeps.db"
        MlflowClient(self.store).search_experiments()  # the first use creates the tables, which takes seconds

    def write(self, name: str, overrides: dict[str, Any] | None = None, **values: Any) -> Path:
        """Write the definition of a sweep whose trials have one thread each.

        Args:
            overrides: settings of every trial over the shipped ones; null leaves a shipped one to the space.
            values: settings of the definition, over the shipped ones.
        """
        own = {"trainer.enable_progress_bar": False, "tracking.uri": self.store, **(overrides or {})}
        settings = {**DIGITS, "storage": self.storage, "resources": {"workers": 1, "threads": 1}, **values}
        settings["overrides"] = {**DIGITS["overrides"], **own}
        file = self.folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        return file

    def read(self, file: Path) -> Sweep:
        """Read a definition."""
        return load(["--config", str(file)])

    def run(self, file: Path) -> Swept:
        """Run a sweep to its end.

        Raises: RuntimeError when it or one of its trials fails.
        """
        command = self.call(["-m", "lightrail", "sweep", "--config", str(file)], self.folder)
        trials = optuna.load_study(study_name=file.stem, storage=self.storage).get_trials(deepcopy=False)
        failed = [trial.number for trial in trials if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED)]
        if failed:
            raise RuntimeError(f"{file}: trials {failed} failed")
        return Swept(command, trials, self.runs(file.stem))

    def call(self, arguments: Sequence[str], folder: Path) -> Span:
        """Run Python in a process of its own; return its period."""
        began = time.time()
        done = subprocess.run([sys.executable, *arguments], cwd=folder, env=_environment(), capture_output=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stderr.decode()[-3000:]}")
        return Span(began, time.time())

    def runs(self, study: str) -> list[Span]:
        """Return the periods of the runs of a study's trials, in order of their starts."""
        client = MlflowClient(self.store)
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        found = client.search_runs(experiments, f"tags.`{STUDY_TAG}` = '{study}'")
        return sorted(Span(run.info.start_time / 1e3, run.info.end_time / 1e3) for run in found)


def idle_time(spans: Sequence[Span], workers: int) -> Idle:
    """Compute the idle time of workers.

    Args:
        spans: periods in which a worker had a trial; more than there are workers.
    """
    last = max(span.began for span in spans)
    before = sum(min(span.ended, last) - span.began for span in spans)
    after = sum(span.ended - max(span.began, last) for span in spans if span.ended > last)
    available = workers * (last - min(span.began for span in spans))
    return Idle(available - before, available, workers * (max(span.ended for span in spans) - last) - after)


def _seconds(moment: datetime | None) -> float:
    """Seconds since 1970 of a time by Optuna, which is UTC without a time zone."""
    assert moment is not None, "it has ended"
    return moment.replace(tzinfo=UTC).timestamp()


def _environment() -> dict[str, str]:
    own = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    of_ray = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}  # Ray lowers priorities by default
    return {**os.environ, **own, **of_ray}
