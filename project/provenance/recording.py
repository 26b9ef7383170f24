"""Records code, packages and hardware of a run. Nothing here may fail a run: the unknown is left out."""

import getpass
import json
import logging
import os
import platform
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch

from lightrail.project.basics.errors import first_line
from lightrail.project.basics.hardware import usable_cores
from lightrail.project.provenance.code import Repository, SourceFolder, repositories_of, repository_of, source_folders

COMMAND_SECONDS = 10
UNITS = ("amx_bf16", "avx512_bf16")
"""CPU features that affect the choice of precision or the order of sums."""


log = logging.getLogger(__name__)

Found = TypeVar("Found")


def hardware() -> dict[str, Any]:
    """Return machine, threads and arithmetic libraries, as plain values."""
    return {
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "physical_cores": psutil.cpu_count(logical=False),
        "usable_cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        "instructions": _instructions(),
        "arithmetic": _arithmetic(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": _gpus(),
        "visible_gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
    }


def _instructions() -> str:
    """Return the instruction set of PyTorch's own loops, and the CPU's features among `UNITS`."""
    there = torch.cpu.get_capabilities()
    return " ".join([torch.backends.cpu.get_cpu_capability(), *(unit for unit in UNITS if there.get(unit))])


def _arithmetic() -> str:
    """Return the libraries for matrix products, with their versions."""
    built = torch.__config__.show()
    patterns = {
        "BLAS": r"BLAS_INFO=(\w+)",
        "MKL": r"Math Kernel Library Version ([\d.]+)",
        "oneDNN": r"MKL-DNN v([\d.]+)",
    }
    found = {name: re.search(pattern, built) for name, pattern in patterns.items()}
    return " ".join(f"{name} {match[1]}" for name, match in found.items() if match)


def _gpus() -> list[str]:
    # not torch.cuda: it would start CUDA in this process, and forked processes could then no longer use it
    listing = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    try:
        done = subprocess.run(listing, capture_output=True, timeout=COMMAND_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.decode(errors="replace").splitlines()


def _cpu_model() -> str:
    try:
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), flags=re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor()


def code_tags() -> dict[str, str]:
    """Return the tags that identify the code.

    `lightrail.git_sha` is the commit of the working folder's repository, or without one that of lightrail's own source.
    When these are two repositories, the commit of the latter is `lightrail.source_git_sha`.
    """
    tags = {"lightrail.version": _version()}
    sources = _sources()
    repositories = _repositories(sources)
    if repositories:
        tags["lightrail.git_sha"] = repositories[0].commit
        tags["lightrail.git_dirty"] = str(any(repository.is_changed for repository in repositories)).lower()
        tags["mlflow.source.git.commit"] = repositories[0].commit
    own = repository_of(sources[0].folder) if repositories and sources else None
    if own is not None and own.folder != repositories[0].folder:
        tags["lightrail.source_git_sha"] = own.commit
    return tags


def user_tags() -> dict[str, str]:
    """Return the tags that MLflow shows as user and source of the run."""
    tags = {"mlflow.source.name": "lightrail", "mlflow.source.type": "LOCAL"}
    with suppress(OSError, KeyError):  # a container may have no name for its user
        tags["mlflow.user"] = getpass.getuser()
    return tags


def write_environment(folder: Path) -> None:
    """Write packages, hardware and code of the run into `folder`.

    The files are `packages.txt`, `hardware.json`, `code.json` (each source file with its digest, see `_code`) and, for
    each repository that differs from its commit, a patch: `git.diff`, then `git.2.diff` and so on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "packages.txt").write_text(_known("the packages", packages, ""))
    _write_json(folder / "hardware.json", _known("the hardware", hardware, {}))
    sources = _sources()
    repositories = _repositories(sources)
    patches: dict[Path, str] = {}
    for repository in repositories:
        if patch := _known("uncommitted changes", repository.patch, b""):
            name = patches[repository.folder] = f"git.{len(patches) + 1}.diff" if patches else "git.diff"
            (folder / name).write_bytes(patch)
    _write_json(folder / "code.json", _known("the code's files", lambda: _code(sources, repositories, patches), {}))


def packages() -> str:
    """Return the Python version, and a line `name==version` per installed package."""
    described = [item.metadata for item in metadata.distributions()]  # `name` and `version` would each parse it again
    found = {f"{item['Name']}=={item['Version']}" for item in described if item["Name"]}
    lines = [f"# Python {platform.python_version()}", *sorted(found, key=str.lower)]
    return "\n".join(lines) + "\n"


def _sources() -> list[SourceFolder]:
    nothing: list[SourceFolder] = []
    return _known("the code's files", source_folders, nothing)


def _repositories(sources: Sequence[SourceFolder]) -> list[Repository]:
    """Return the working folder's repository first, then those of the code, each once."""
    nothing: list[Repository] = []
    return _known("git", lambda: repositories_of([Path.cwd(), *(source.folder for source in sources)]), nothing)


def _code(
    sources: Sequence[SourceFolder], repositories: Sequence[Repository], patches: Mapping[Path, str]
) -> dict[str, Any]:
    """Return the content of `code.json`: repositories with commit and patch, and the source folders with their files.

    `repository` is the index of a folder's repository, None without one, and `inside` its path in there.
    """
    known = [repository.folder for repository in repositories]
    folders = []
    for source in sources:
        number = next((number for number, folder in enumerate(known) if source.folder.is_relative_to(folder)), None)
        inside = "." if number is None else str(source.folder.relative_to(known[number]))
        place = {"folder": str(source.folder), "repository": number, "inside": inside}
        folders.append({**place, "files": source.digests()})
    return {
        "working_folder": str(Path.cwd()),
        "repositories": [
            {"folder": str(item.folder), "commit": item.commit, "patch": patches.get(item.folder)}
            for item in repositories
        ],
        "sources": folders,
    }


def _write_json(file: Path, values: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8", errors="replace")


def _known(what: str, find: Callable[[], Found], nothing: Found) -> Found:
    """Return the result of `find`, or with a warning `nothing` when it raises: the run must not fail for it."""
    try:
        return find()
    except Exception as error:
        log.warning("%s cannot be recorded: %s", what, first_line(error))
        return nothing


def _version() -> str:
    try:
        return metadata.version("lightrail")
    except metadata.PackageNotFoundError:
        return "unknown"
