"""Changes in the code of a run: its git repositories, located on this machine, and the files that differ."""

import difflib
import importlib.util
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from lightrail.project.basics.catalogue import ROOT
from lightrail.project.provenance.code import Repository, digest_of_content, git, repository_of
from lightrail.project.reproducing.original import Original

OWN_FILE = "project/cli.py"
"""Identifies lightrail's own source, in which names are relative to the folder of its four packages."""
NUM_SHOWN = 3
WILD = re.compile(r"[*?[\\]")
SECTION = re.compile(rb"^diff --git a/(.*) b/.*$", re.MULTILINE)
UNTRACKED = re.compile(r"^# not tracked: (.*)$", re.MULTILINE)


def present_files(source: Mapping[str, Any]) -> Iterator[tuple[str, Path | None]]:
    """Yield the name of each file of a source, and the file imported for it now; None when there is none."""
    is_ours = OWN_FILE in source["files"]
    for name in source["files"]:
        own = ROOT / name
        yield name, (own if own.is_file() else None) if is_ours else present_file(name)


def present_file(name: str) -> Path | None:
    """Return the file that would be imported for a user's `package/module.py`, without importing it."""
    top, *inner = Path(name).parts
    spec = _spec(top.removesuffix(".py"))
    if spec is None:
        return None
    if inner:
        candidates = [Path(folder, *inner) for folder in spec.submodule_search_locations or ()]
    else:
        candidates = [Path(spec.origin)] if spec.origin else []
    return next((file for file in candidates if file.is_file()), None)


def _spec(package: str) -> ModuleSpec | None:
    """Locate a package, also in the working folder, from which allowed modules are imported."""
    try:
        found = importlib.util.find_spec(package)
    except (ImportError, ValueError):  # ValueError: it is imported already, and has no spec
        found = None
    return found or PathFinder.find_spec(package, [str(Path.cwd())])


@dataclass(frozen=True)
class StoredRepository:
    """A repository of the run, and the one on this machine that has its commit."""

    number: int
    """Index in the run's record."""
    folder: Path
    """Its folder at the time of the run, perhaps on another machine."""
    commit: str
    patch: Path | None
    """Uncommitted changes, for `git apply`."""
    here: Repository | None
    folders: list[str]
    """Its folders from which modules are imported."""
    is_own: bool
    """Whether code is imported from `here`, or the working folder is in it. Only the record, which may be a stranger's,
    names any other: nothing that its configuration names, such as a filter, may run."""

    @property
    def commit_change(self) -> str:
        """The change of the commit, in words; "" when there is none."""
        if self.here is None:
            return f"commit {self.commit[:10]} of {self.folder} is in no repository here"
        if self.here.commit == self.commit:
            return ""
        return f"commit of {self.here.folder}: {self.commit[:10]} -> {self.here.commit[:10]}"

    def contents(self, paths: Sequence[str]) -> dict[str, bytes]:
        """Return the content of files at the time of the run: commit and patch; unknown files are left out."""
        if self.here is None or not paths:
            return {}
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name).resolve()
            for path in paths:
                self._check_out(path, folder / path)
            if self.patch is not None:
                included = ["--include=" + WILD.sub(r"\\\g<0>", path) for path in paths]
                alone = {"GIT_CEILING_DIRECTORIES": str(folder.parent)}  # it may be inside a repository itself
                git(folder, "apply", *included, str(self.patch.absolute()), environment=alone)
            files = {path: folder / path for path in paths}
            # A patch can make a symbolic link, to any file of this machine.
            own = {path: file for path, file in files.items() if file.is_file() and file.resolve() == file}
            return {path: file.read_bytes() for path, file in own.items()}

    def _check_out(self, path: str, target: Path) -> None:
        assert self.here is not None
        content = git(self.here.folder, "cat-file", "blob", f"{self.commit}:{path}")
        if content is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)

    def other_changes(self, code: Set[tuple[int | None, str]], *, with_commit: bool) -> str:
        """Describe changes in the repository other than in the run's code, in one line; "" when there are none."""
        if self.here is None:
            return ""
        if not self.is_own:
            return self.commit_change if with_commit else ""
        then, now = (self.patch.read_bytes() if self.patch else b""), self.here.patch()
        names = [name for name in _differing(then, now) if (self.number, name) not in code]
        found = [self.commit_change] if with_commit and self.commit_change else []
        if names:
            more = f" and {len(names) - NUM_SHOWN} more" if len(names) > NUM_SHOWN else ""
            found.append(f"files that are not the run's code: {', '.join(names[:NUM_SHOWN])}{more}")
        return "; ".join(found)


def stored_repositories(original: Original, record: Mapping[str, Any]) -> list[StoredRepository]:
    """Locate each repository of the run's record: by its code, else in the working folder, else at its old path."""
    found = []
    for number, item in enumerate(record["repositories"]):
        sources = [source for source in record["sources"] if source["repository"] == number]
        inside = [str(source["inside"]) for source in sources]
        folder, commit, patch = Path(item["folder"]), item["commit"], original.patch(item["patch"])
        own = _repository_with(commit, [*_present_folders(sources), Path.cwd()])
        here = own or _repository_with(commit, [folder])
        found.append(StoredRepository(number, folder, commit, patch, here, inside, own is not None))
    return found


def _present_folders(sources: Sequence[Mapping[str, Any]]) -> list[Path]:
    files = (file for source in sources for _, file in present_files(source))
    return [file.parent for file in files if file is not None][:1]


def holds(repository: Path, commit: str, path: str) -> bool:
    """Whether a commit of a repository has a file."""
    return git(repository, "cat-file", "-e", f"{commit}:{path}") is not None


def _repository_with(commit: str, folders: Sequence[Path]) -> Repository | None:
    for folder in folders:
        repository = repository_of(folder) if folder.is_dir() else None
        if repository is not None and git(repository.folder, "cat-file", "-e", f"{commit}^{{commit}}") is not None:
            return repository
    return None


def _differing(then: bytes, now: bytes) -> list[str]:
    """Return the files and new folders in which two patches differ."""
    one, other = _sections(then), _sections(now)
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def _sections(patch: bytes) -> dict[str, bytes]:
    comments, *parts = SECTION.split(patch)
    names = [name.decode(errors="replace") for name in parts[::2]]
    untracked = UNTRACKED.findall(comments.decode(errors="replace"))
    return dict.fromkeys(untracked, b"") | dict(zip(names, parts[1::2], strict=True))


MAX_FILES, MAX_PLACES = 30, 5
"""Numbers of files and of places per file in the report; the others are counted."""


@dataclass(frozen=True)
class ChangedFile:
    """A file whose content differs from the run's record."""

    name: str
    """Path relative to the folder that it is imported from."""
    repository: int | None
    path: str
    """Path in the repository."""
    digest: str
    """Digest of its recorded content."""
    now: Path | None
    """The current file; None when it no longer exists."""


@dataclass(frozen=True)
class CodeChanges:
    """Changes of the code since a run."""

    lines: list[str]
    notes: list[str]
    """Other changes in the repositories."""
    repositories: list[StoredRepository]
    """Repositories in which code of the run has changed."""


def code_changes(original: Original) -> CodeChanges:
    """Compare each recorded file of a run with the one that would be imported now."""
    record = original.code
    if not record:
        return CodeChanges(["the run has no record of its code: environment/code.json is missing"], [], [])
    changed = list(_changed_files(record["sources"]))
    code = {(source["repository"], _path(source, name)) for source in record["sources"] for name in source["files"]}
    lines, notes, own = [], [], []
    then: dict[tuple[int | None, str], bytes] = {}
    for item in stored_repositories(original, record):
        paths = [file.path for file in changed if file.repository == item.number]
        then |= {(item.number, path): content for path, content in item.contents(paths).items()}
        if paths:
            own.append(item)
            lines += [item.commit_change] if item.commit_change else []
        if note := item.other_changes(code, with_commit=not paths):
            notes.append(note)
    lines += [_in_words(file, then.get((file.repository, file.path))) for file in changed[:MAX_FILES]]
    if len(changed) > MAX_FILES:
        lines.append(f"and {len(changed) - MAX_FILES} more files")
    return CodeChanges(lines, notes, own)


def changed_places(then: bytes, now: bytes) -> list[int]:
    """Return the first line number, in the current text, of each place that differs."""
    one, other = then.splitlines(keepends=True), now.splitlines(keepends=True)
    found = difflib.SequenceMatcher(None, one, other, autojunk=False).get_opcodes()
    return [start + 1 for kind, _, _, start, _ in found if kind != "equal"]


def _changed_files(sources: Sequence[Mapping[str, Any]]) -> Iterator[ChangedFile]:
    for source in sources:
        for name, now in present_files(source):
            digest = source["files"][name]
            if now is None or digest_of_content(now.read_bytes()) != digest:
                yield ChangedFile(name, source["repository"], _path(source, name), digest, now)


def _path(source: Mapping[str, Any], name: str) -> str:
    return (Path(source["inside"]) / name).as_posix()


def _in_words(file: ChangedFile, then: bytes | None) -> str:
    if file.now is None:
        return f"{file.name}: is missing now"
    if then is None or digest_of_content(then) != file.digest:
        return f"{file.name}: changed (lines unknown)"
    places = changed_places(then, file.now.read_bytes())
    more = f" and {len(places) - MAX_PLACES} more places" if len(places) > MAX_PLACES else ""
    return f"{file.name}: line{'s' if len(places) > 1 else ''} {', '.join(map(str, places[:MAX_PLACES]))}{more}"
