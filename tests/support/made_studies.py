"""Studies as a sweep leaves them, made in a moment: real trials of Optuna and real runs of MLflow, without training."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import yaml
from mlflow import MlflowClient
from optuna.trial import TrialState

from lightrail.project.configuration import parse
from lightrail.project.tracking.run import TrackedRun, start_run
from lightrail.project.tracking.settings import TrackingConfig
from lightrail.sweeps.search.definition import Sweep, load
from lightrail.sweeps.search.study import FAILURE, REPORTS, RUNS, requeue
from lightrail.sweeps.search.worker import TrialFailed
from tests.support.tasks.pinyin import TINY, write_sentences

ACCURACY, LOSS = "val/character_accuracy", "val/loss"
SPACE = {
    "model.optim.lr": {"low": 1e-4, "high": 1e-1, "log": True},
    "data.batch.size": {"choices": [2, 4]},
    "network": {
        "branches": {
            "lstm": {"model.encoder": "LstmConfig", "model.encoder.width": {"low": 8, "high": 32, "step": 8}},
            "transformer": {"model.encoder": "TransformerConfig", "model.encoder.depth": {"low": 1, "high": 2}},
        }
    },
}
STEPS = (2, 4, 6)


def make_sweep(folder: Path, store: str = "sqlite:///none.db", **more: Any) -> Sweep:
    """A sweep over `SPACE` of the tiny pinyin task; `more` replaces settings of the definition."""
    base = folder / "base.yaml"
    base.write_text(parse([*TINY, *write_sentences(folder), f"--tracking.uri={store}"]).dump(), encoding="utf-8")
    settings = {"base": "base.yaml", "metric": ACCURACY, "direction": "maximize", "n_trials": 8, "space": SPACE, **more}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return load(["--config", str(folder / "tiny.yaml")])


def make_parent(store: str) -> TrackedRun:
    """The study's run."""
    return start_run(TrackingConfig(uri=store), {"n_trials": 8}, {"lightrail.kind": "sweep"})


@dataclass
class Story:
    """What happens to the trials of a study, by their numbers.

    Without a parent run the trials have made-up run ids, and MLflow knows nothing of them.
    """

    sweep: Sweep
    values: Sequence[Sequence[float]]
    """The metrics of each trial at its best validation."""
    pruned: Sequence[int] = ()
    failed: Sequence[int] = ()
    interrupted: Sequence[int] = ()
    parent: TrackedRun | None = None
    study: optuna.Study = field(init=False)

    def tell(self, study: optuna.Study | None = None) -> optuna.Study:
        """Have it happen, in a study in memory or the one given."""
        sampler = optuna.samplers.RandomSampler(seed=0)
        directions = list(self.sweep.config.directions)
        self.study = study or optuna.create_study(study_name=self.sweep.name, sampler=sampler, directions=directions)
        catch, ended = (TrialFailed, InterruptedError), [self._ended]
        self.study.optimize(self._objective, len(self.values) + len(self.interrupted), catch=catch, callbacks=ended)
        return self.study

    def _objective(self, trial: optuna.Trial) -> list[float]:
        stored = self.study.get_trials(deepcopy=False)
        begun = [own for own in stored if own.state != TrialState.WAITING and not self._is_copy(own)]
        is_copy = self._is_copy(stored[trial.number])
        number = self._origin(stored[trial.number]) if is_copy else len(begun) - 1
        self.sweep.space.suggest(trial)
        for seed in self.sweep.seeds:
            self._train(trial, number, seed, is_ended_early=number in self.pruned)
        if number in self.failed:
            trial.set_user_attr(FAILURE, {"reason": "RuntimeError: it <crashed>", "log": "the last\nlines"})
            raise TrialFailed
        if number in self.interrupted and not is_copy:
            raise InterruptedError
        if number in self.pruned:
            raise optuna.TrialPruned
        return list(self.values[number])

    def _train(self, trial: optuna.Trial, number: int, seed: int, *, is_ended_early: bool) -> None:
        runs = trial.user_attrs.get(RUNS, {})
        run_id = runs.get(str(seed)) or (f"run-{number}-{seed}" if self.parent is None else self._run())
        trial.set_user_attr(RUNS, {**runs, str(seed): run_id})
        reports: dict[str, dict[str, float]] = {}
        for place, step in enumerate(STEPS[:2] if is_ended_early else STEPS):
            reached = [value * (0.8 + 0.1 * place) for value in self.values[number]]
            reports[str(step)] = dict(zip(self.sweep.config.metrics, reached, strict=True))
        trial.set_user_attr(REPORTS, {**trial.user_attrs.get(REPORTS, {}), str(seed): reports})

    def _run(self) -> str:
        assert self.parent is not None
        client = MlflowClient(self.parent.logger.uri)
        run = client.create_run(self.parent.experiment_id, tags={"mlflow.parentRunId": self.parent.run_id})
        file = Path(run.info.artifact_uri.removeprefix("file://")) / "checkpoints" / "best.ckpt"
        file.parent.mkdir(parents=True)
        file.write_bytes(b"weights")
        return str(run.info.run_id)

    def _ended(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        if trial.state == TrialState.FAIL and FAILURE not in trial.user_attrs:
            requeue(study, trial)

    @staticmethod
    def _is_copy(trial: optuna.trial.FrozenTrial) -> bool:
        return bool(optuna.storages.RetryHeartbeatStaleTrialCallback.retry_history(trial))

    @staticmethod
    def _origin(trial: optuna.trial.FrozenTrial) -> int:
        return int(optuna.storages.RetryHeartbeatStaleTrialCallback.retry_history(trial)[0])
