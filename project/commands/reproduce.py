"""`lightrail reproduce`: says what differs from the time of a run, makes the run again, and compares the two."""

import pyarrow.parquet

from lightrail.project.basics.errors import ConfigError
from lightrail.project.configuration import Configuration
from lightrail.project.configuration.sources import options, take_option
from lightrail.project.reproducing.advice import advice
from lightrail.project.reproducing.original import Original, find_original
from lightrail.project.reproducing.outcome import compare, in_few_words, table
from lightrail.project.reproducing.survey import configuration_of, survey
from lightrail.project.running.fitting import fit
from lightrail.project.tracking.logger import is_process_zero
from lightrail.project.tracking.recovery import close_dead_runs
from lightrail.project.tracking.settings import TrackingConfig
from lightrail.project.tracking.store import open_store, store_uri

CHECK_ONLY = "--check_only"
CHOICES = ("refuse", "continue")


def run(arguments: list[str]) -> int:
    if not arguments or arguments[0].startswith("-"):
        raise ConfigError("which run? Write `lightrail reproduce RUN_ID`.")
    if_different, settings = take_option([word for word in arguments[1:] if word != CHECK_ONLY], "--if_different")
    if if_different not in (None, *CHOICES):
        raise ConfigError(f"--if_different {if_different}: choose from {', '.join(CHOICES)}.")
    store = store_uri(TrackingConfig(uri=dict(options(settings)).get("--tracking.uri")))
    if not is_process_zero():
        fit(configuration_of(find_original(arguments[0], store), settings))
        return 0
    close_dead_runs(open_store(store, create=False))
    original = find_original(arguments[0], store)
    found = survey(original, settings)
    print(found.differences.text(original.run_id), flush=True)
    configuration, is_same = found.to_run(), not found.differences.kinds
    if CHECK_ONLY in arguments:
        return 0 if is_same else 1
    if not is_same and if_different != "continue":
        kinds = ", ".join(found.differences.kinds)
        how = advice(original, found, settings)
        raise ConfigError(f"run {original.run_id} cannot be made as it was ({kinds}). {how}")
    return _again(original, configuration)


def _again(original: Original, configuration: Configuration) -> int:
    tags = {"lightrail.reproduces": original.run_id, "lightrail.kind": "reproduction"}
    finished = fit(configuration, tags=tags)
    if finished.predictions is None:  # not process zero
        return 0
    then = pyarrow.parquet.read_table(original.predictions)
    outcome = compare(original.client, (original.run_id, finished.run_id), (then, finished.predictions))
    print(table(outcome))
    verb = "reproduces" if outcome.is_equal else "does not reproduce"
    print(f"run {finished.run_id} {verb} {original.run_id}: {in_few_words(outcome)}")
    return 0 if outcome.is_equal else 1
