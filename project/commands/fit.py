"""`lightrail fit`: trains, tests the best checkpoint and closes the run; with `--seeds N` once per seed.

`lightrail check`: reports on the data, and measures time and memory of a fit in a dry run; with `--find` also looks for
a learning rate and a batch size.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lightrail.datamodules.checking import DataReport
from lightrail.project.basics.errors import ConfigError, shown
from lightrail.project.basics.tables import as_json
from lightrail.project.configuration import Configuration, parse
from lightrail.project.configuration.adapting import advice as tokenizer_advice
from lightrail.project.configuration.sources import JSON, take_flag, take_option, written_out
from lightrail.project.findings.rules import stored_findings
from lightrail.project.plain_modules.rehearsing import NUM_STEPS, PlainRehearsal, rehearse_plain
from lightrail.project.running.build import Experiment, build, build_any
from lightrail.project.running.dry_run import rehearse
from lightrail.project.running.fitting import FinishedRun, fit
from lightrail.project.running.resuming import find_interrupted, go_on, requeued_run
from lightrail.project.running.seeds import FinishedSeeds, fit_seeds, go_on_with_seeds
from lightrail.project.running.training_length import advice
from lightrail.project.running.tuning.finders import check_finders, find
from lightrail.project.tracking.logger import is_process_zero
from lightrail.project.tracking.lookup import test_metrics
from lightrail.project.tracking.store import run_folders, store_uri


def run(arguments: list[str]) -> int:
    """Train and test, or resume the run of a requeued SLURM job. Raises: ConfigError, DataError before a run exists."""
    is_json, given = take_flag(arguments, JSON)
    seeds, rest = take_option(written_out(given, "--config"), "--seeds")
    if seeds is not None and not seeds.isdecimal():
        raise ConfigError(f"--seeds {shown(seeds)}: give the number of seeds, such as --seeds 5.")
    finished = train(parse(rest), None if seeds is None else int(seeds))
    if is_process_zero():
        result = (
            as_json(finished.as_plain()) if is_json else "\n".join([*map(str, finished.findings), finished.last_line])
        )
        print(result)
    return 0


def train(configuration: Configuration, num_seeds: int | None) -> FinishedRun | FinishedSeeds:
    """Train and test, once or with `num_seeds` seeds, or finish the run of a requeued SLURM job.

    Raises: ConfigError, DataError before a run exists.
    """
    finished = _resumed_after_requeue(configuration, "fit" if num_seeds is None else "seeds")
    if finished is not None:
        return finished
    return fit(configuration) if num_seeds is None else fit_seeds(configuration, num_seeds)


def _resumed_after_requeue(configuration: Configuration, kind: str) -> FinishedRun | FinishedSeeds | None:
    """Finish the run that this SLURM job started before it was requeued. Returns: None without one."""
    found = requeued_run(configuration, kind)
    if found is None:
        return None
    client, earlier = found
    if earlier.info.status == "FINISHED":  # a requeued script runs all of its commands again
        folder = run_folders(earlier.info.run_id, earlier.info.artifact_uri).artifacts
        return FinishedRun(earlier.info.run_id, folder, test_metrics(earlier), None, stored_findings(client, earlier))
    if kind == "seeds":
        return go_on_with_seeds(client, earlier, configuration, force=True)
    return go_on(find_interrupted(client, earlier), configuration, force=True)


@dataclass(frozen=True)
class Checked:
    """A configuration that could be trained, and what was found in its data."""

    experiment: Experiment
    report: DataReport
    chosen: Sequence[str]
    """Settings chosen by the data, in words."""
    advice: Sequence[str]

    def as_plain(self) -> dict[str, Any]:
        """Return the report, choices and advice as plain values."""
        ancestor = self.experiment.ancestor
        init = None if ancestor is None else str(ancestor)
        return {"data": self.report.as_plain(), "chosen": [*self.chosen], "init": init, "advice": [*self.advice]}

    def render(self) -> str:
        """Format the report, and a line for each choice and advice."""
        lines = [f"chosen       {line}" for line in self.chosen]
        if self.experiment.ancestor is not None:
            lines.append(f"init         {self.experiment.ancestor}")
        lines += [f"advice       {line}" for line in self.advice]
        return "\n".join([self.report.render(), *lines])


def checked(configuration: Configuration) -> Checked:
    """Read the data and build the run, without training. Raises: ConfigError, DataError."""
    store_uri(configuration.tracking())  # refuses what is no store
    experiment = build(configuration, "fit")
    texts = (tokenizer_advice(configuration.values, experiment.data), advice(configuration, experiment.data))
    return Checked(experiment, experiment.data.report(), experiment.configuration.chosen, [*filter(None, texts)])


def check(arguments: list[str]) -> int:
    """Print the report on the data, the measurements of a dry run, and what finders find.

    Raises: ConfigError, DataError.
    """
    is_json, given = take_flag(arguments, JSON)
    wanted, rest = take_option(written_out(given, "--config"), "--find")
    finders = [] if wanted is None else wanted.split(",")
    configuration = parse(rest)
    check_finders(finders, configuration)
    if not configuration.is_of_task:
        steps = checked_plain(configuration)
        print(as_json({"measured": asdict(steps)}) if is_json else steps.render())
        return 0
    if not is_process_zero():
        return 0  # started by torchrun or srun: the first process checks for all
    found = checked(configuration)
    if not is_json:
        print(found.render())
    measured = rehearse(found.experiment)
    if not is_json:
        print(measured.render(), flush=True)
    plain = {**found.as_plain(), "measured": asdict(measured)}
    del found  # the memory that its model takes is not to count
    results = find(finders, configuration)
    if is_json:
        print(as_json({**plain, "found": {name: asdict(result) for name, result in results.items()}}))
        return 0
    for result in results.values():
        print(result.render())
    return 0


def checked_plain(configuration: Configuration) -> PlainRehearsal:
    """Measure a few steps of a plain module, of whose data nothing is known. Raises: ConfigError."""
    store_uri(configuration.tracking())  # refuses what is no store
    experiment = build_any(configuration.of_few_steps(NUM_STEPS), "fit")
    return rehearse_plain(experiment.module, experiment.datamodule, experiment.trainer)
