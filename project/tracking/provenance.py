"""What a run was made with: code, packages and hardware. Nothing here may fail a run: what is unknown is left out."""

import getpass
import json
import os
import platform
import re
import subprocess
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import psutil

SOURCE_FOLDER = Path(__file__).resolve().parent
COMMAND_SECONDS = 10


class Repository(NamedTuple):
    """A git working tree as it stands."""

    folder: Path
    sha: str
    status: str
    """What `git status --porcelain` prints: empty when nothing differs from the commit."""


def code_tags() -> dict[str, str]:
    """Return the tags that tell which code runs.

    `lightrail.git_sha` is the commit of the working folder's repository, where there is none that of lightrail's own
    source. When they are two, the latter is `lightrail.source_git_sha`.
    """
    tags = {"lightrail.version": _version()}
    repositories = _repositories()
    if repositories:
        tags["lightrail.git_sha"] = repositories[0].sha
        tags["lightrail.git_dirty"] = str(any(repository.status for repository in repositories)).lower()
        tags["mlflow.source.git.commit"] = repositories[0].sha
    for source in repositories[1:]:
        tags["lightrail.source_git_sha"] = source.sha
    return tags


def user_tags() -> dict[str, str]:
    """Return who and what MLflow shows as the origin of the run."""
    tags = {"mlflow.source.name": "lightrail", "mlflow.source.type": "LOCAL"}
    with suppress(OSError, KeyError):  # a container may have no name for its user
        tags["mlflow.user"] = getpass.getuser()
    return tags


def write_environment(folder: Path) -> None:
    """Write `packages.txt`, `hardware.json` and, where something is not committed, `git.diff` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "packages.txt").write_text(packages())
    (folder / "hardware.json").write_text(json.dumps(hardware(), indent=2, ensure_ascii=False) + "\n")
    if difference := git_difference():
        (folder / "git.diff").write_text(difference)


def packages() -> str:
    """Return a line per installed package, `name==version`, under the Python version."""
    found = {f"{item.name}=={item.version}" for item in metadata.distributions() if item.name}
    lines = [f"# Python {platform.python_version()}", *sorted(found, key=str.lower)]
    return "\n".join(lines) + "\n"


def hardware() -> dict[str, Any]:
    return {
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "physical_cores": psutil.cpu_count(logical=False),
        "usable_cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": _gpus(),
        "visible_gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
    }


def git_difference() -> str:
    """Return what differs from the commits, per repository: the patch of tracked files and the names of new ones."""
    parts = []
    for repository in _repositories():
        if not repository.status:
            continue
        new_files = re.findall(r"^\?\? (.*)$", repository.status, flags=re.MULTILINE)
        parts.append(f"# {repository.folder} at {repository.sha}\n")
        parts += [f"# not tracked: {name}\n" for name in new_files]
        parts.append(_git(repository.folder, "diff", "HEAD", "--binary", "--no-ext-diff", "--no-color") or "")
    return "".join(parts)


def _repositories() -> list[Repository]:
    """Return the working folder's repository and lightrail's own, the latter only where it is another."""
    found: dict[str, Repository] = {}
    for folder in (Path.cwd(), SOURCE_FOLDER):
        root = _git(folder, "rev-parse", "--show-toplevel")
        sha = _git(folder, "rev-parse", "HEAD")
        if root and sha and root not in found:
            status = _git(folder, "status", "--porcelain") or ""
            found[root] = Repository(Path(root.strip()), sha.strip(), status)
    return list(found.values())


def _git(folder: Path, *arguments: str) -> str | None:
    return _output_of("git", "-C", str(folder), *arguments)


def _gpus() -> list[str]:
    # not torch.cuda: it would start CUDA in this process, and processes forked from it could not use it any more
    listing = _output_of("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    return listing.splitlines() if listing else []


def _output_of(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, timeout=COMMAND_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace")


def _cpu_model() -> str:
    try:
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), flags=re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor()


def _version() -> str:
    try:
        return metadata.version("lightrail")
    except metadata.PackageNotFoundError:
        return "unknown"
