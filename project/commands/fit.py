"""`lightrail fit`: trains, tests the best checkpoint and closes the run; with `--seeds N` once per seed.

`lightrail check`: reports on the data, and measures time and memory of a fit in a dry run.
"""

from lightrail.project.basics.errors import ConfigError, shown
from lightrail.project.configuration import Configuration, parse
from lightrail.project.configuration.adapting import advice as tokenizer_advice
from lightrail.project.configuration.sources import take_option, written_out
from lightrail.project.plain_modules.rehearsing import NUM_STEPS, rehearse_plain
from lightrail.project.running.build import build, build_any
from lightrail.project.running.dry_run import rehearse
from lightrail.project.running.fitting import FinishedRun, fit, last_line
from lightrail.project.running.resuming import find_interrupted, go_on, requeued_run
from lightrail.project.running.seeds import FinishedSeeds, fit_seeds, go_on_with_seeds
from lightrail.project.running.training_length import advice
from lightrail.project.tracking.logger import is_process_zero
from lightrail.project.tracking.lookup import test_metrics
from lightrail.project.tracking.store import store_uri


def run(arguments: list[str]) -> int:
    """Train and test, or resume the run of a requeued SLURM job. Raises: ConfigError, DataError before a run exists."""
    seeds, rest = take_option(written_out(arguments, "--config"), "--seeds")
    if seeds is not None and not seeds.isdecimal():
        raise ConfigError(f"--seeds {shown(seeds)}: give the number of seeds, such as --seeds 5.")
    configuration = parse(rest)
    line = _resumed_after_requeue(configuration, "fit" if seeds is None else "seeds")
    if line is None:
        finished = fit(configuration) if seeds is None else fit_seeds(configuration, int(seeds))
        line = finished.last_line
    if is_process_zero():
        print(line)
    return 0


def _resumed_after_requeue(configuration: Configuration, kind: str) -> str | None:
    """Finish the run that this SLURM job started before it was requeued. Returns: its last line; None without one."""
    found = requeued_run(configuration, kind)
    if found is None:
        return None
    client, earlier = found
    if earlier.info.status == "FINISHED":  # a requeued script runs all of its commands again
        return last_line(earlier.info.run_id, test_metrics(earlier))
    finished: FinishedRun | FinishedSeeds
    if kind == "seeds":
        finished = go_on_with_seeds(client, earlier, configuration, force=True)
    else:
        finished = go_on(find_interrupted(client, earlier), configuration, force=True)
    return finished.last_line


def check(arguments: list[str]) -> int:
    """Print the report on the data and the measurements of a dry run. Raises: ConfigError, DataError."""
    configuration = parse(written_out(arguments, "--config"))
    store_uri(configuration.tracking())  # refuses what is no store
    if not configuration.is_of_task:
        return _check_plain(configuration)
    experiment = build(configuration, "fit")
    print(experiment.data.report().render())
    for line in experiment.configuration.chosen:
        print(f"chosen       {line}")
    for line in filter(
        None, (tokenizer_advice(configuration.values, experiment.data), advice(configuration, experiment.data))
    ):
        print(f"advice       {line}")
    print(rehearse(experiment).render())
    return 0


def _check_plain(configuration: Configuration) -> int:
    experiment = build_any(configuration.of_few_steps(NUM_STEPS), "fit")
    print(rehearse_plain(experiment.module, experiment.datamodule, experiment.trainer).render())
    return 0
