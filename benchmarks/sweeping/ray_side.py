"""Ray Tune's part of the comparison: a sweep's definition, run by Ray with its own search by Optuna.

Run: python -m benchmarks.sweeping.ray_side DEFINITION.yaml [--reuse], where `enqueue` holds a point for each trial.
With --reuse a process trains one trial after another, which is not Ray's default.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import optuna
import ray
from lightning.pytorch import Callback
from optuna.trial import FixedTrial
from ray import tune
from ray.tune.search.optuna import OptunaSearch

from benchmarks.sweeping.swept import STUDY_TAG
from lightrail.project.running.fitting import fit
from lightrail.sweeps.search.definition import Sweep, load


class ReportToRay(Callback):
    """Reports each validation to Ray."""

    def __init__(self, metric: str) -> None:
        self.metric = metric

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == "fit":
            tune.report({"value": float(trainer.callback_metrics[self.metric])})


def main(file: str, *flags: str) -> None:
    sweep = load(["--config", file])
    config = sweep.config
    ray.init(num_cpus=config.resources.workers, include_dashboard=False, log_to_driver=False)

    search = OptunaSearch(partial(_suggest, sweep), metric="value", mode="min", points_to_evaluate=config.enqueue)
    tuner = tune.Tuner(
        tune.with_resources(partial(_train, sweep), {"cpu": 1}),
        tune_config=tune.TuneConfig(search_alg=search, num_samples=config.n_trials, reuse_actors="--reuse" in flags),
        run_config=tune.RunConfig(name=sweep.name, storage_path=str(Path(file).parent / "ray"), verbose=0),
    )
    failed = tuner.fit().errors
    ray.shutdown()
    if failed:
        raise failed[0]


def _suggest(sweep: Sweep, trial: optuna.Trial) -> None:
    sweep.space.suggest(trial)


def _train(sweep: Sweep, chosen: dict[str, Any]) -> None:
    settings = sweep.space.suggest(FixedTrial(chosen))
    configuration = sweep.configuration(settings, sweep.seeds[0])
    fit(configuration, tags={STUDY_TAG: sweep.name}, callbacks=[ReportToRay(sweep.config.metrics[0])])


if __name__ == "__main__":
    main(*sys.argv[1:])
