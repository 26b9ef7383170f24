"""The code of a process: its source files with digests, and their git repositories."""

import ast
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set
from functools import cached_property, lru_cache
from pathlib import Path, PurePath
from types import ModuleType
from typing import NamedTuple

from lightrail.project.basics.catalogue import FOLDERS, ROOT
from lightrail.project.basics.logs import OWN_PACKAGE


def with_imports(folder: Path, names: Iterable[str], known: Set[str]) -> set[str]:
    """Return files of `folder` with all files there that they import, directly or not, anywhere in their text.

    Args:
        names: `package/module.py`, relative to `folder`.
        known: further files of the result, whose imports are not followed.
    """
    found = set(known)
    waiting = set(names) - found
    there = {entry.name.removesuffix(".py") for entry in folder.iterdir()}
    seen: set[tuple[str, ...]] = set()  # most imports occur in many files, or are not of this folder
    while waiting:
        name = waiting.pop()
        found.add(name)
        modules = {module for module in _modules(folder, name) if module and module[0] in there} - seen
        # The import of a module executes its packages first.
        executed = {module[:length] for module in modules for length in range(1, len(module) + 1)} - seen
        seen |= executed
        waiting |= {file for module in executed for file in _files(folder, "/".join(module))} - found
    return found


def _modules(folder: Path, name: str) -> Iterator[tuple[str, ...]]:
    """Yield the modules that a file may import; the `b` of `from a import b` may be a module or not."""
    try:
        imports = _imports((folder / name).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    package = PurePath(name).parent.parts
    for level, module in imports:
        yield (*package[: len(package) - level + 1], *module) if level else module


@lru_cache(maxsize=1024)  # a run needs each file twice, and so does each trial
def _imports(text: bytes) -> list[tuple[int, tuple[str, ...]]]:
    """Return the imports of a source text, each as its level (0: absolute) and the parts of its name."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [(0, tuple(alias.name.split("."))) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = tuple(node.module.split(".")) if node.module else ()
            found += [(node.level, (*base, *alias.name.split("."))) for alias in node.names]
    return found


def _files(folder: Path, module: str) -> Iterator[str]:
    """Yield the file in the folder that holds a module or a package, named by its path there."""
    for file in (f"{module}.py", f"{module}/__init__.py"):
        if (folder / file).is_file():
            yield file


class SourceFolder(NamedTuple):
    """A folder that packages are imported from."""

    folder: Path
    files: list[str]
    """Relative to the folder, `package/module.py`."""

    def digests(self) -> dict[str, str]:
        """Return the digest of each file's content."""
        return {name: digest_of_content((self.folder / name).read_bytes()) for name in self.files}


def digest_of_content(content: bytes) -> str:
    """Return the BLAKE2b digest of a content, 32 hexadecimal digits."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def source_folders() -> list[SourceFolder]:
    """Return lightrail's own folder first, then those of other imported modules that are not installed packages.

    Call it after the classes of the configuration have been imported.
    """
    own = {file.relative_to(ROOT).as_posix() for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")}
    found = {ROOT: own}
    brought: dict[Path, set[str]] = defaultdict(set)
    for folder, name in _imported_files():
        brought[folder].add(name)
    for folder, names in brought.items():
        found[folder] = with_imports(folder, names, known=found.get(folder, set()))
    return [SourceFolder(folder, sorted(files)) for folder, files in found.items()]


def _imported_files() -> Iterator[tuple[Path, str]]:
    """Yield folder and relative name of each imported module's file, where they follow from the module's name."""
    installed = tuple(f"{sysconfig.get_path(name)}/" for name in ("stdlib", "platstdlib"))
    for name, module in list(sys.modules.items()):
        file = vars(module).get("__file__") if isinstance(module, ModuleType) else None
        if not isinstance(file, str) or name in ("__main__", "__mp_main__") or name.split(".")[0] == OWN_PACKAGE:
            continue
        if file.startswith(installed) or "/site-packages/" in file or "/dist-packages/" in file:
            continue
        relative = Path(*name.split("."))
        for candidate in (relative.with_suffix(".py"), relative / "__init__.py"):
            if Path(file).parts[-len(candidate.parts) :] == candidate.parts and Path(file).is_file():
                yield Path(file).absolute().parents[len(candidate.parts) - 1], candidate.as_posix()


COMMAND_SECONDS = 10
SOURCE_FILES = (
    *(f"*.{ending}" for ending in ("py", "pyi", "yaml", "yml", "toml", "cfg", "ini", "json", "sh", "mk")),
    *(f":(glob)**/{name}" for name in ("Makefile", "Dockerfile")),
)
"""Pathspecs of the untracked files whose content is recorded."""
STORE_FILES = tuple(f":(exclude,glob)**/{made}" for made in ("mlflow.db*", "mlruns/**", "sweeps.db*", "sweep_jobs/**"))
"""Pathspecs that exclude the files created in the working folder by recorded runs and sweeps."""
INSTALLED_FILES = ":(exclude,glob)**/site-packages/**"
MAX_FILE_BYTES, MAX_BYTES = 100_000, 1_000_000
"""Limits of the recorded content of one untracked file, and of all."""


class NewFiles(NamedTuple):
    """Untracked files whose content is recorded, and those over the size limits."""

    kept: list[str]
    too_large: list[str]


class Repository:
    """A git working tree."""

    def __init__(self, folder: Path, commit: str) -> None:
        self.folder, self.commit = folder, commit

    @cached_property
    def untracked(self) -> list[str]:
        """Untracked files and folders that git does not ignore."""
        return [entry[3:] for entry in self._status if entry.startswith("?? ")]

    @property
    def is_changed(self) -> bool:
        """Whether the working tree differs from the commit."""
        return bool(self._status)

    @cached_property
    def _status(self) -> list[str]:
        found = git(self.folder, "status", "--porcelain", "-z", "--no-renames", "--", ".", *STORE_FILES)
        return _names(found)

    def patch(self) -> bytes:
        """Return a patch for `git apply` from the commit to the working tree; b"" when nothing differs.

        It contains new source files. The comment lines at its top name every new file and folder.
        """
        if not self.is_changed:
            return b""
        new = self._new_files()
        with tempfile.TemporaryDirectory() as folder:
            index = {"GIT_INDEX_FILE": str(self._copy_index(Path(folder)))}
            listed = "\0".join(new.kept).encode("utf-8", "surrogateescape")
            into = ("add", "--intent-to-add", "--pathspec-from-file=-", "--pathspec-file-nul")
            if new.kept and git(self.folder, "--literal-pathspecs", *into, given=listed, environment=index) is None:
                new = NewFiles([], new.kept + new.too_large)
            difference = git(self.folder, *_DIFFERENCE, environment=index) or b""
        return self._comments(new) + difference

    def _new_files(self) -> NewFiles:
        listed = git(self.folder, "ls-files", "--others", "--exclude-standard", "-z", "--", *_NEW_SOURCES)
        new, num_bytes = NewFiles([], []), 0
        for name in _names(listed):
            file = self.folder / name
            size = file.lstat().st_size if file.is_file() else MAX_BYTES
            fits = size <= MAX_FILE_BYTES and num_bytes + size <= MAX_BYTES
            (new.kept if fits else new.too_large).append(name)
            num_bytes += size if fits else 0
        return new

    def _copy_index(self, folder: Path) -> Path:
        """Copy git's index, which may then be changed and spares git from reading unchanged files."""
        # The copy keeps the time of the original: git reads every file again that is not older than the index.
        own = (git(self.folder, "rev-parse", "--git-path", "index") or b"").decode(errors="surrogateescape").strip()
        return Path(shutil.copy2(self.folder / own, folder / "index"))

    def _comments(self, new: NewFiles) -> bytes:
        lines = [f"# {self.folder} at {self.commit}"]
        lines += [f"# not tracked: {_printable(name)}" for name in self.untracked]
        lines += [f"# too large to be in here: {_printable(name)}" for name in new.too_large]
        return "".join(f"{line}\n" for line in lines).encode()


_NEW_SOURCES = (*SOURCE_FILES, *STORE_FILES, INSTALLED_FILES)
_DIFFERENCE = (
    *("diff", "HEAD", "--binary", "--full-index", "--no-renames", "--no-ext-diff", "--no-textconv", "--no-color"),
    *("--src-prefix=a/", "--dst-prefix=b/", "--ignore-submodules=dirty"),
    *("--", ".", *STORE_FILES),
)


def repositories_of(folders: Iterable[Path]) -> list[Repository]:
    """Return the repositories of the folders, each once, in this order; folders outside of any are skipped."""
    found: dict[Path, Repository] = {}
    for folder in dict.fromkeys(folders):
        repository = repository_of(folder)
        if repository is not None:
            found.setdefault(repository.folder, repository)
    return list(found.values())


def repository_of(folder: Path) -> Repository | None:
    """Return the repository of a folder; None where there is none, or one without a commit."""
    found = git(folder, "rev-parse", "--show-toplevel", "HEAD")
    if found is None:
        return None
    root, _, commit = found.decode("utf-8", "surrogateescape").strip().rpartition("\n")
    return Repository(Path(root), commit)


def git(
    folder: Path, *arguments: str, given: bytes | None = None, environment: Mapping[str, str] | None = None
) -> bytes | None:
    """Return the output of a git command; None when it fails, takes too long, or git is not installed.

    No hook and no monitor of files of the repository runs, and nothing is fetched. Commands that compare the working
    tree run its filters: use them for repositories of the user alone.
    """
    # In a hook, git sets these variables, which would override the folder.
    own = {
        name: value for name, value in os.environ.items() if not re.fullmatch("GIT_(DIR|WORK_TREE|INDEX_FILE)", name)
    }
    command = ("git", "-C", str(folder), *_GIT_SETTINGS, "--no-optional-locks", *arguments)
    try:
        done = subprocess.run(
            command,
            input=given,
            stdin=subprocess.DEVNULL if given is None else None,
            capture_output=True,
            timeout=COMMAND_SECONDS,
            check=True,
            env=own | _GIT_ENVIRONMENT | dict(environment or {}),
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


_GIT_SETTINGS = tuple(
    part
    for setting in ("core.quotePath=false", "core.hooksPath=/dev/null", "core.fsmonitor=false", "protocol.allow=never")
    for part in ("-c", setting)
)
_GIT_ENVIRONMENT = {
    # A partial clone fetches a missing object, by a command that its configuration names.
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_ALLOW_PROTOCOL": "none",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_PAGER": "cat",
}


def _names(listed: bytes | None) -> list[str]:
    """Split a list of file names that git terminates with zero bytes."""
    return [name for name in (listed or b"").decode("utf-8", "surrogateescape").split("\0") if name]


def _printable(name: str) -> str:
    return name if name.isprintable() else ascii(name)
