"""The same configuration with several seeds, under one parent run that records mean and standard deviation."""

import csv
import logging
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightrail.project.basics.errors import ConfigError
from lightrail.project.configuration import Configuration
from lightrail.project.configuration.configuration import LARGEST_SEED
from lightrail.project.figures.run_figures import seed_scores
from lightrail.project.findings.finding import Finding
from lightrail.project.findings.rules import stored_findings
from lightrail.project.running.build import build_any
from lightrail.project.running.fitting import FinishedRun, fit, fit_built, last_line
from lightrail.project.running.resuming import find_interrupted, go_on, has_begun
from lightrail.project.tracking.logger import is_process_zero
from lightrail.project.tracking.lookup import children_of, test_metrics
from lightrail.project.tracking.run import TrackedRun, continue_run, start_run
from lightrail.project.training.stopping import slurm_job

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SeedResult:
    """The result of one seed's run."""

    run_id: str
    metrics: Mapping[str, float]
    """`test/NAME` to value."""
    findings: Sequence[Finding] = ()


@dataclass(frozen=True)
class FinishedSeeds:
    """The results of a finished group of runs, one per seed."""

    run_id: str
    metrics: Mapping[str, float]
    """`test/NAME` to its mean over the seeds, and `test/NAME_sd` to its sample standard deviation."""
    directory: Path
    findings: Sequence[Finding] = ()
    """Those of all seeds, each code once."""

    def as_plain(self) -> dict[str, Any]:
        """Return the results as plain values."""
        findings = [asdict(own) for own in self.findings]
        result = {"run_id": self.run_id, "metrics": dict(self.metrics), "directory": str(self.directory)}
        return {**result, "findings": findings}

    @property
    def last_line(self) -> str:
        """The line that a command prints last."""
        return last_line(self.run_id, self.metrics)


def fit_seeds(configuration: Configuration, number: int) -> FinishedSeeds:
    """Train and test with `number` consecutive seeds, starting with the configuration's, one after the other.

    Raises:
        ConfigError, DataError: raised before anything is trained.
    """
    seeds = range(configuration.seed, configuration.seed + number)
    if number < 2 or seeds[-1] > LARGEST_SEED:
        raise ConfigError(f"--seeds {number}: give a number of at least 2, and seeds up to {LARGEST_SEED}.")
    tags = {"lightrail.kind": "seeds", "lightrail.seeds": " ".join(map(str, seeds))}
    if slurm_job():
        tags["lightrail.slurm_job"] = slurm_job()
    first = build_any(configuration.of_seed(seeds[0]), "fit")  # refuses before the parent exists
    parent = start_run(configuration.tracking(), configuration.values, tags)
    log.info("run %s is the parent of the runs with seeds %s", parent.run_id, tags["lightrail.seeds"])
    with parent.status():
        results = {seeds[0]: _result(fit_built(first, _below(parent)))}
        del first  # its memory is needed
        results |= {seed: _begin(parent, configuration, seed) for seed in seeds[1:]}
        return _conclude(parent, results)


def go_on_with_seeds(client: "MlflowClient", run: "Run", configuration: Configuration, *, force: bool) -> FinishedSeeds:
    """Resume a group: finished runs stay, interrupted runs are resumed, missing runs are started.

    Raises:
        ConfigError: the group or one of its runs is still running, or cannot be resumed.
    """
    children = [child for child in children_of(client, run) if has_begun(client, child)]
    before = {int(child.data.tags["lightrail.seed"]): child for child in children}
    parent = continue_run(run.info.run_id, configuration.tracking(), force=force)
    results = {}
    with parent.status():
        for seed in map(int, run.data.tags["lightrail.seeds"].split()):
            child = before.get(seed)
            if child is None:
                results[seed] = _begin(parent, configuration, seed)
            elif child.info.status == "FINISHED":
                results[seed] = SeedResult(child.info.run_id, test_metrics(child), stored_findings(client, child))
            else:
                results[seed] = _result(
                    go_on(find_interrupted(client, child), configuration.of_seed(seed), force=force)
                )
        return _conclude(parent, results)


def summary(results: Mapping[int, SeedResult]) -> dict[str, float]:
    """Compute mean and sample standard deviation (n - 1) of each metric over the seeds."""
    names = sorted(set.intersection(*(set(result.metrics) for result in results.values())))
    figures: dict[str, float] = {}
    for name in names:
        values = [result.metrics[name] for result in results.values()]
        figures[name], figures[f"{name}_sd"] = statistics.fmean(values), statistics.stdev(values)
    return figures


def _begin(parent: TrackedRun, configuration: Configuration, seed: int) -> SeedResult:
    return _result(fit(configuration.of_seed(seed), tags=_below(parent), has_run=True))


def _below(parent: TrackedRun) -> dict[str, str]:
    return {"mlflow.parentRunId": parent.run_id}


def _result(finished: FinishedRun) -> SeedResult:
    return SeedResult(finished.run_id, finished.metrics, finished.findings)


def _conclude(parent: TrackedRun, results: Mapping[int, SeedResult]) -> FinishedSeeds:
    """Record mean and standard deviation in the parent run, with a table and a figure of the seeds."""
    figures = summary(results)
    if is_process_zero():
        parent.logger.log_metrics(figures, step=0)
        with (parent.directory / "seeds.csv").open("w", encoding="utf-8", newline="") as stream:
            names = [name for name in figures if not name.endswith("_sd")]
            table = csv.writer(stream)
            table.writerow(["seed", "run_id", *names])
            for seed, result in results.items():
                table.writerow([seed, result.run_id, *(result.metrics[name] for name in names)])
        scores = {name: [result.metrics[name] for result in results.values()] for name in names}
        if scores:
            seed_scores(scores, list(results), parent.directory / "figures" / "seeds.png")
    return FinishedSeeds(parent.run_id, figures, parent.directory, findings_of_all(results))


def findings_of_all(results: Mapping[int, SeedResult]) -> list[Finding]:
    """Return each finding once, as the first seed that has it states it, after the seeds that have it."""
    first = {own.code: own for result in reversed([*results.values()]) for own in result.findings}
    found = []
    for code, own in first.items():
        seeds = [str(seed) for seed, result in results.items() if code in (one.code for one in result.findings)]
        found.append(replace(own, message=f"seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}: {own.message}"))
    return found
