"""`lightrail resume`: resumes an interrupted run, in the same MLflow run."""

from collections.abc import Mapping, Sequence

from lightrail.project.basics.errors import ConfigError
from lightrail.project.configuration import parse
from lightrail.project.configuration.configuration import NONE_GIVEN
from lightrail.project.configuration.sources import SHORT_NAMES, options
from lightrail.project.configuration.yaml_file import Value
from lightrail.project.running.fitting import FinishedRun
from lightrail.project.running.resuming import configuration_in_force, find_interrupted, go_on
from lightrail.project.running.seeds import FinishedSeeds, go_on_with_seeds
from lightrail.project.tracking.logger import is_process_zero
from lightrail.project.tracking.naming import find_run
from lightrail.project.tracking.recovery import close_dead_runs
from lightrail.project.tracking.settings import TrackingConfig
from lightrail.project.tracking.store import open_store, store_uri

OF_THIS_CALL = ("--tracking.", "--allow_modules")


def run(arguments: list[str]) -> int:
    """Resume a run and print its metrics. Raises: ConfigError, DataError; the run is then unchanged."""
    if not arguments or arguments[0].startswith("-"):
        raise ConfigError("which run? Write `lightrail resume RUN`.")
    settings = [argument for argument in arguments[1:] if argument != "--force"]
    finished = resume(arguments[0], settings, force="--force" in arguments)
    if is_process_zero():
        print(*finished.findings, finished.last_line, sep="\n")
    return 0


def resume(
    named: str, arguments: Sequence[str], settings: Mapping[str, Value] = NONE_GIVEN, *, force: bool
) -> FinishedRun | FinishedSeeds:
    """Resume a run, named as for `find_run`, with the changed settings of arguments and of a mapping.

    Raises: ConfigError, DataError; the run is then unchanged.
    """
    given = {**dict(options(arguments)), **{f"--{SHORT_NAMES.get(name, name)}": own for name, own in settings.items()}}
    tracking = TrackingConfig(uri=given.get("--tracking.uri"))
    client = open_store(store_uri(tracking), create=False)
    if is_process_zero():
        close_dead_runs(client)
    run = find_run(client, named)
    if run.data.tags.get("lightrail.kind") != "seeds":
        before = find_interrupted(client, run)
        return go_on(before, parse(arguments, saved=before.configuration, settings=settings), force=force)
    if any(not name.startswith(OF_THIS_CALL) for name in given):
        raise ConfigError(f"run {run.info.run_id} holds several seeds, which share their settings: give none here.")
    configuration = parse(arguments, saved=configuration_in_force(client, run), settings=settings)
    return go_on_with_seeds(client, run, configuration, force=force)
