"""How to get back to what a run was made with, as commands to copy."""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from lightrail.project.reproducing.original import Original
from lightrail.project.reproducing.stored_repository import OWN_FILE, StoredRepository, holds
from lightrail.project.reproducing.survey import Survey, without_changes


def advice(original: Original, found: Survey, settings: Sequence[str]) -> str:
    """Return how to go on.

    Args:
        settings: of this call of `lightrail reproduce`.
    """
    steps = [step for repository in found.code.repositories for step in _code_steps(original, repository)]
    steps += _package_steps(found)
    if "data" in found.differences.kinds:
        steps.append("restore the data, or name a copy of it with --data.path FILE")
    if found.settings.given:
        steps.append("leave out the settings that differ")
        settings = without_changes(settings)
    again = shlex.join([*_program(original, found), "reproduce", original.run_id, *settings])
    lines = ["To get back what differs:", *(f"  {step}" for step in steps), f"  {again}"]
    as_now = "To make the run with what there is now, add --if_different continue."
    return "\n".join([*lines, as_now] if steps or _variables(original, found) else [as_now])


def _code_steps(original: Original, repository: StoredRepository) -> list[str]:
    if repository.here is None:
        return [f"get a clone of {repository.folder} that has the commit {repository.commit}, and work in it"]
    target = _worktree(original, repository)
    steps = [["git", "-C", str(repository.here.folder), "worktree", "add", "--detach", target, repository.commit]]
    if repository.patch is not None and b"\ndiff --git " in repository.patch.read_bytes():
        steps.append(["git", "-C", target, "apply", str(repository.patch.absolute())])
    return [shlex.join(step) for step in steps]


def _worktree(original: Original, repository: StoredRepository) -> str:
    """A folder beside the repository, named by the run."""
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
    """`lightrail` with as many threads as then, and with the code of then in front of what is in this folder."""
    variables = _variables(original, found)
    program = [sys.executable, "-m", _package(found)] if "PYTHONPATH" in variables else ["lightrail"]
    return [*(["env"] if variables else []), *(f"{name}={value}" for name, value in variables.items()), *program]


def _package(found: Survey) -> str:
    """What has the command line in the code of then: up to version 0.1.0 `project` was a package of its own."""
    here = [(one.here.folder, one.commit) for one in found.code.repositories if one.here is not None]
    of_then = [(folder, commit) for folder, commit in here if holds(folder, commit, OWN_FILE)]
    return "project" if any(not holds(*own, "lightrail/__init__.py") for own in of_then) else "lightrail"


def _variables(original: Original, found: Survey) -> dict[str, str]:
    variables = {}
    threads = original.hardware.get("threads")
    if threads not in (None, found.machine["threads"]):
        variables["OMP_NUM_THREADS"] = str(threads)
    there = [repository for repository in found.code.repositories if repository.here is not None]
    folders = [str(Path(_worktree(original, one), inside)) for one in there for inside in one.folders]
    if folders:
        before = os.environ.get("PYTHONPATH")
        variables |= {"PYTHONSAFEPATH": "1", "PYTHONPATH": ":".join([*folders, *([before] if before else [])])}
    return variables
