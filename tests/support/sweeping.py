"""A sweep of a tiny network: written, run as a person does, and read back from Optuna and MLflow."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import psutil
import yaml
from mlflow.entities import Run
from optuna.trial import FrozenTrial, TrialState

from lightrail.project.configuration import parse
from tests.support.callbacks import ALLOW
from tests.support.children import Child
from tests.support.running import QUIET, Outcome, RecordedRun, found_in, lightrail
from tests.support.tasks.pinyin import TINY, write_sentences

STEPS = [
    "--trainer.max_steps=12",
    "--trainer.val_check_interval=3",
    "--trainer.check_val_every_n_epoch=null",
    "--trainer.log_every_n_steps=1",
    "--data.batch.max_tokens=null",
    "--data.batch.size=4",
]
LR = {"low": 1e-3, "high": 1e-1, "log": True}


@dataclass
class TinySweep:
    """A sweep over `folder/tiny.yaml`."""

    folder: Path
    store: str
    values: dict[str, Any] = field(default_factory=dict)
    """Of the definition."""

    def write(self, *settings: str, **values: Any) -> None:
        """Write the definition and its base.

        Args:
            settings: of the base, as for `lightrail fit`.
            values: of the definition, over those of a sweep of four trials with two workers.
        """
        base = [*TINY, *write_sentences(self.folder), *QUIET, *STEPS, f"--tracking.uri={self.store}"]
        callback = ["--trainer.callbacks=Going", ALLOW]
        (self.folder / "base.yaml").write_text(parse([*base, *callback, *settings]).dump(), encoding="utf-8")
        given = {"base": "base.yaml", "metric": "val/character_accuracy", "direction": "maximize", "n_trials": 4}
        machine = {"storage": self.storage, "resources": {"workers": 2, "threads": 1}, "heartbeat_seconds": 5}
        self.values = {**given, **machine, "space": {"model.optim.lr": LR}, **values}
        (self.folder / "tiny.yaml").write_text(yaml.safe_dump(self.values, sort_keys=False), encoding="utf-8")

    @property
    def storage(self) -> str:
        return f"sqlite:///{self.folder}/sweeps.db"

    @property
    def command(self) -> list[str]:
        return ["sweep", f"--config={self.folder}/tiny.yaml", ALLOW]

    def run(self, *settings: str) -> Outcome:
        return lightrail(*self.command, *settings)

    def start(self, *settings: str) -> Child:
        return Child([*self.command, *settings], folder=self.folder)

    @property
    def study(self) -> optuna.Study:
        return optuna.load_study(study_name="tiny", storage=self.storage)

    @property
    def trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def numbers(self, *states: TrialState) -> list[int]:
        return [trial.number for trial in self.trials if trial.state in states]

    @property
    def parent(self) -> RecordedRun:
        (found,) = [run for run in found_in(self.store) if run.data.tags["lightrail.kind"] == "sweep"]
        return RecordedRun(self.store, found.info.run_id)

    @property
    def children(self) -> list[RecordedRun]:
        return [RecordedRun(self.store, run.info.run_id) for run in self.found_children]

    @property
    def found_children(self) -> list[Run]:
        """The runs of trials at this moment, by one search of the store: a test waits for them again and again."""
        runs = found_in(self.store)
        (parent,) = [run.info.run_id for run in runs if run.data.tags["lightrail.kind"] == "sweep"]
        return [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent]


def processes_of(folder: Path) -> list[psutil.Process]:
    """Every process that works in a folder: drivers, trials, and what they start."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.cwd() == str(folder):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found
