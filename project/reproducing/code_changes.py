"""Which files of the code are not what they were, and in which lines."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightrail.project.provenance.code import digest_of_content
from lightrail.project.reproducing.original import Original
from lightrail.project.reproducing.stored_repository import StoredRepository, present_files, stored_repositories

MAX_FILES, MAX_PLACES = 30, 5
"""Named in the report; the others are counted."""


@dataclass(frozen=True)
class ChangedFile:
    """A file whose content is not the one that the run recorded."""

    name: str
    """Relative to the folder that it is imported from."""
    repository: int | None
    path: str
    """In the repository."""
    digest: str
    """Of its content then."""
    now: Path | None
    """None: there is no such file any more."""


@dataclass(frozen=True)
class CodeChanges:
    """What differs in code."""

    lines: list[str]
    notes: list[str]
    """What differs in the repositories besides."""
    repositories: list[StoredRepository]
    """Those in which code of the run differs."""


def code_changes(original: Original) -> CodeChanges:
    """Compare each file that the run recorded with the one that would be imported now."""
    record = original.code
    if not record:
        return CodeChanges(["the run does not tell what its code was: it has no environment/code.json"], [], [])
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
    """Return the number, in the present text, of the first line of each place that differs."""
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
        return f"{file.name}: changed (in which lines is not known here)"
    places = changed_places(then, file.now.read_bytes())
    more = f" and {len(places) - MAX_PLACES} more places" if len(places) > MAX_PLACES else ""
    return f"{file.name}: line{'s' if len(places) > 1 else ''} {', '.join(map(str, places[:MAX_PLACES]))}{more}"
