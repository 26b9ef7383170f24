"""Makes a cache once, whichever of several processes comes first, named by what it is made from; and what is known of
it beside its rows.
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from lightrail.datamodules.cache.splits import FORMAT_VERSION, META, CacheWriter, writing_to
from lightrail.project.basics.durable import UNFINISHED, put_in_place

log = logging.getLogger(__name__)


Facts = dict[str, Any]
"""What a module must know of its data (vocabulary, labels): plain values, passed to it when the run is built."""
ABOUT = "about.json"


def cache_folder() -> Path:
    """Where caches are kept: LIGHTRAIL_CACHE, else ~/.cache/lightrail."""
    return Path(os.environ.get("LIGHTRAIL_CACHE") or "~/.cache/lightrail").expanduser()


def file_digest(path: Path | str) -> str:
    """Digest the content of a file, whatever its name."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def digest_of(parts: Any) -> str:
    """Digest whatever decides a cache's content: digests of files, vocabulary, settings. Plain JSON values only."""
    text = json.dumps([FORMAT_VERSION, parts], sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def build_once(folder: Path, build: Callable[[CacheWriter], None]) -> Path:
    """Make the cache `folder` unless it is there, and return it.

    Safe for several processes of one machine: one builds, the others wait. The folder appears complete, in one step;
    what a killed builder left is thrown away by the next, which starts over.

    Args:
        folder: named after a digest of everything that decides the content.
        build: adds all rows. What it raises is passed on and leaves no cache.
    """
    if is_finished(folder):
        return folder
    with writing_to(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with _lock(folder.with_name(folder.name + ".lock")):
        if not is_finished(folder):
            _build(folder, build)
    return folder


def is_finished(folder: Path) -> bool:
    return (folder / META).is_file()


def _build(folder: Path, build: Callable[[CacheWriter], None]) -> None:
    unfinished = folder.with_name(folder.name + UNFINISHED)
    with writing_to(folder):
        for leftover in (unfinished, folder):  # nobody else uses them: this process holds the lock
            if leftover.exists():
                shutil.rmtree(leftover)
        unfinished.mkdir()
    try:
        writer = CacheWriter(unfinished)
        build(writer)
        writer.close()
        with writing_to(folder):
            put_in_place(unfinished, folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold a lock that the kernel lets go of when this process ends, however it ends."""
    with writing_to(path.parent):
        stream = path.open("a")
    with stream:
        if not _try_lock(stream):
            log.info("waiting for another process that is making %s", path.with_suffix(""))
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _try_lock(stream: IO[str]) -> bool:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class About(NamedTuple):
    """Plain values."""

    facts: Facts
    digests: Mapping[str, str]
    """Of the content of each split, before it was encoded."""
    files: Sequence[str]
    """By the number that stands in the rows' column `file`."""
    notes: Mapping[str, Mapping[str, Any]]
    """The `ReadingNotes` of each split's source."""


def is_encoded_with(facts: Facts, folder: Path) -> bool:
    """Whether a finished cache was encoded with these facts: those a module takes, which may not be all.

    JSON compares the order inside each, which counts.
    """
    if not is_finished(folder):
        return False
    own = read_about(folder)["facts"]
    return all(name in own and json.dumps(own[name]) == json.dumps(fact) for name, fact in facts.items())


def read_about(folder: Path) -> dict[str, Any]:
    about: dict[str, Any] = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    return about


def empty_split(name: str, path: str, own: str | None, counts: Mapping[str, int]) -> str:
    """Say that a split has no examples, and what to do."""
    found = ", ".join(f"{count} {split}" for split, count in counts.items())
    if name == "train":
        return f"{path}: no examples to train on ({found}). Give more rows, or smaller validation and test fractions."
    if own:
        return (
            f"{own}: no {name} examples ({found}): nothing in it is an example, or all repeat those of the test split. "
            f"Give other rows, or set data.split.drop_repeats=false."
        )
    return (
        f"{path}: no {name} examples ({found}). "
        f"Give more rows, a larger data.split.{name}_fraction, or data.{name}_path."
    )
