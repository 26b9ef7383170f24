"""`lightrail reproduce`: reports what has changed since a run, repeats the run, and compares the two."""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from lightrail.project.basics.errors import ConfigError, printable, shown
from lightrail.project.configuration import Configuration
from lightrail.project.configuration.sources import options, take_option
from lightrail.project.models.predictions import read_predictions
from lightrail.project.reproducing.code import OWN_FILE, StoredRepository, holds
from lightrail.project.reproducing.original import Original, find_original
from lightrail.project.reproducing.outcome import compare, in_few_words, table
from lightrail.project.reproducing.survey import Survey, configuration_of, survey, without_changes
from lightrail.project.running.fitting import fit
from lightrail.project.tracking.logger import is_process_zero
from lightrail.project.tracking.recovery import close_dead_runs
from lightrail.project.tracking.settings import TrackingConfig
from lightrail.project.tracking.store import open_store, store_uri

CHECK_ONLY = "--check_only"
CHOICES = ("refuse", "continue")


def run(arguments: list[str]) -> int:
    """Repeat a run and compare. Returns: 0 equal, 1 not equal. Raises: ConfigError, DataError before a run exists."""
    if not arguments or arguments[0].startswith("-"):
        raise ConfigError("which run? Write `lightrail reproduce RUN`.")
    if_different, settings = take_option([word for word in arguments[1:] if word != CHECK_ONLY], "--if_different")
    if if_different not in (None, *CHOICES):
        raise ConfigError(f"--if_different {shown(if_different)}: choose from {', '.join(CHOICES)}.")
    store = store_uri(TrackingConfig(uri=dict(options(settings)).get("--tracking.uri")))
    if not is_process_zero():
        fit(configuration_of(find_original(arguments[0], store), settings), has_run=True)
        return 0
    close_dead_runs(open_store(store, create=False))
    original = find_original(arguments[0], store)
    found = survey(original, settings)
    print(printable(found.differences.text(original.run_id)), flush=True)
    configuration, is_same = found.to_run(), not found.differences.kinds
    if CHECK_ONLY in arguments:
        return 0 if is_same else 1
    if not is_same and if_different != "continue":
        kinds = ", ".join(found.differences.kinds)
        how = advice(original, found, settings)
        raise ConfigError(f"run {original.run_id} cannot be repeated exactly ({kinds} changed).", advice=f" {how}")
    return _repeat(original, configuration)


def _repeat(original: Original, configuration: Configuration) -> int:
    then = read_predictions(original.predictions) if original.predictions is not None else None  # before the training
    tags = {"lightrail.reproduces": original.run_id, "lightrail.kind": "reproduction"}
    finished = fit(configuration, tags=tags, has_run=True)
    if not is_process_zero():
        return 0
    nothing = pa.table({"id": pa.array([], pa.int64())})
    tables = (nothing if then is None else then, nothing if finished.predictions is None else finished.predictions)
    outcome = compare(original.client, (original.run_id, finished.run_id), tables)
    print(table(outcome))
    verb = "reproduces" if outcome.is_equal else "does not reproduce"
    print(f"run {finished.run_id} {verb} {original.run_id}: {in_few_words(outcome)}")
    return 0 if outcome.is_equal else 1


def advice(original: Original, found: Survey, settings: Sequence[str]) -> str:
    """Return the commands that restore what has changed since the run.

    Args:
        settings: arguments of this call of `lightrail reproduce`.
    """
    steps = [step for repository in found.code.repositories for step in _code_steps(original, repository)]
    steps += _package_steps(found)
    if "data" in found.differences.kinds:
        steps.append("restore the data, or name a copy of it with --data.path FILE")
    if found.settings.given:
        steps.append("leave out the settings that differ")
        settings = without_changes(settings)
    again = shlex.join([*_program(original, found), "reproduce", original.run_id, *settings])
    lines = ["To restore what has changed:", *(f"  {step}" for step in steps), f"  {again}"]
    as_now = "To repeat the run in the current state, add --if_different continue."
    return "\n".join([*lines, as_now] if steps or _variables(original, found) else [as_now])


def _code_steps(original: Original, repository: StoredRepository) -> list[str]:
    if repository.here is None or not repository.is_own:
        return [f"get a clone of {repository.folder} that has the commit {repository.commit}, and work in it"]
    target = _worktree(original, repository)
    steps = [["git", "-C", str(repository.here.folder), "worktree", "add", "--detach", target, repository.commit]]
    if repository.patch is not None and b"\ndiff --git " in repository.patch.read_bytes():
        steps.append(["git", "-C", target, "apply", str(repository.patch.absolute())])
    return [shlex.join(step) for step in steps]


def _worktree(original: Original, repository: StoredRepository) -> str:
    """Return a folder beside the repository, named after the run."""
    assert repository.here is not None
    own = repository.here.folder
    return str(own.with_name(f"{own.name}-{original.run_id[:8]}"))


def _package_steps(found: Survey) -> list[str]:
    changes = [change for change in found.packages.counted if change.name != "Python"]
    wanted = [f"{change.name}=={change.then}" for change in changes if change.then]
    unwanted = [change.name for change in changes if not change.then]
    pip = [sys.executable, "-m", "pip"]
    steps = [[*pip, "install", *wanted]] if wanted else []
    steps += [[*pip, "uninstall", *unwanted]] if unwanted else []
    return [shlex.join(step) for step in steps]


def _program(original: Original, found: Survey) -> list[str]:
    """Return the command for `lightrail` with the run's number of threads, and its code first on the import path."""
    variables = _variables(original, found)
    program = [sys.executable, "-m", _package(found)] if "PYTHONPATH" in variables else ["lightrail"]
    return [*(["env"] if variables else []), *(f"{name}={value}" for name, value in variables.items()), *program]


def _package(found: Survey) -> str:
    """Return the package of the command line in the run's code: up to version 0.1.0 `project` was a package itself."""
    here = [(one.here.folder, one.commit) for one in found.code.repositories if one.here is not None and one.is_own]
    of_then = [(folder, commit) for folder, commit in here if holds(folder, commit, OWN_FILE)]
    return "project" if any(not holds(*own, "lightrail/__init__.py") for own in of_then) else "lightrail"


def _variables(original: Original, found: Survey) -> dict[str, str]:
    variables = {}
    threads = original.hardware.get("threads")
    if threads not in (None, found.machine["threads"]):
        variables["OMP_NUM_THREADS"] = str(threads)
    there = [repository for repository in found.code.repositories if repository.here is not None and repository.is_own]
    folders = [str(Path(_worktree(original, one), inside)) for one in there for inside in one.folders]
    if folders:
        before = os.environ.get("PYTHONPATH")
        variables |= {"PYTHONSAFEPATH": "1", "PYTHONPATH": ":".join([*folders, *([before] if before else [])])}
    return variables
