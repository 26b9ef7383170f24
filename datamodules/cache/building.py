"""Building of a cache, once among several processes, named by a digest of its sources; and its metadata."""

import errno
import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

from lightrail.datamodules.cache.checksums import damage_of, lock_file, write_checksums
from lightrail.datamodules.cache.splits import FORMAT_VERSION, META, CacheWriter, split_names, writing_to
from lightrail.project.basics.durable import UNFINISHED, put_in_place
from lightrail.project.basics.errors import ConfigError
from lightrail.project.basics.reading import reading, regular_file, user_path

log = logging.getLogger(__name__)

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
"""Errors of a disk that is written to; any other may be of a source that is read."""
Facts = dict[str, Any]
"""Facts of the data that a module needs (vocabulary, labels): plain values, passed to it when the run is built."""
ABOUT = "about.json"


def cache_folder() -> Path:
    """Return the folder of caches: LIGHTRAIL_CACHE, else ~/.cache/lightrail."""
    return user_path(os.environ.get("LIGHTRAIL_CACHE") or "~/.cache/lightrail")


def temporary_folder() -> Path:
    """Create an empty folder for texts that are read once. Raises: ConfigError where none can be created."""
    with reading("the temporary folder for texts to predict", "Set TMPDIR to a writable folder."):
        return Path(tempfile.mkdtemp(prefix="lightrail-"))


def digest_of(parts: Any) -> str:
    """Digest everything that determines a cache's content: digests of files, vocabulary, settings, as JSON values."""
    text = json.dumps([FORMAT_VERSION, parts], sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def build_once(
    folder: Path, build: Callable[[CacheWriter], None], check: Callable[[Path], object] = split_names
) -> Path:
    """Build the cache `folder` unless it exists undamaged, and return it.

    Safe for several processes of one machine: one builds, the others wait. The folder appears complete, in one step;
    the next builder deletes the leftovers of a killed one and restarts.

    Args:
        folder: folder named by a digest of everything that determines the content.
        build: adds all rows. If it raises, no cache is left.
        check: reads what `build` wrote besides rows; if it raises, the cache is damaged, set aside and built again.
    """
    if is_finished(folder) and not damage_of(folder, check):
        with suppress(OSError):  # a cache that only others may write
            os.utime(lock_file(folder))  # the time of its last use, for `lightrail clean`
        return folder
    with writing_to(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with _lock(lock_file(folder)):
        damage = damage_of(folder, check) if is_finished(folder) else ""
        if damage:
            _set_aside(folder, damage)
        if damage or not is_finished(folder):
            _build(folder, build)
    return folder


def is_finished(folder: Path) -> bool:
    """Whether the cache `folder` exists and is complete."""
    with writing_to(folder):  # such as a folder that this user may not enter
        return (folder / META).is_file()


def _set_aside(folder: Path, damage: str) -> None:
    aside = folder.with_name(folder.name + ".damaged")
    with writing_to(folder):
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
    log.warning("set a damaged cache aside as %s, and make it again: %s", aside, damage)


def _build(folder: Path, build: Callable[[CacheWriter], None]) -> None:
    unfinished = folder.with_name(folder.name + UNFINISHED)
    with writing_to(folder):
        for leftover in (unfinished, folder):  # no other process uses them: this one holds the lock
            if leftover.exists():
                shutil.rmtree(leftover)
        unfinished.mkdir()
    try:
        with writing_to(folder, only=_NO_SPACE):
            writer = CacheWriter(unfinished)
            build(writer)
            writer.close()
        with writing_to(folder):
            write_checksums(unfinished, folder)
            put_in_place(unfinished, folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold a lock that the kernel releases when this process ends for any reason."""
    if path.exists():
        regular_file(path, "cache")  # opening a pipe waits for its reader
    with writing_to(path.parent):
        stream = path.open("a")
    with stream:
        if not _try_lock(stream):
            log.info("waiting for another process that is building %s", path.with_suffix(""))
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@contextmanager
def locked_now(folder: Path) -> Iterator[bool]:
    """Hold the lock of the cache `folder`, if no process that builds it has it; tell whether it is held."""
    with lock_file(folder).open("a") as stream:
        yield _try_lock(stream)


def _try_lock(stream: IO[str]) -> bool:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class About(NamedTuple):
    """Metadata of a cache, as plain values."""

    facts: Facts
    digests: Mapping[str, str]
    """Digest of the content of each split, before encoding."""
    files: Sequence[str]
    """Names of files, by the index in the rows' column `file`."""
    notes: Mapping[str, Mapping[str, Any]]
    """The `ReadingNotes` of each split's source."""


_ABOUT_TYPES = (dict, dict, list, dict)


def is_encoded_with(facts: Facts, folder: Path) -> bool:
    """Whether a finished cache was encoded with these facts of a module, which may be some of the cache's."""
    if not is_finished(folder) or damage_of(folder, read_about):
        return False
    return not different_facts(facts, read_about(folder)["facts"])


def different_facts(facts: Facts, others: Facts) -> list[str]:
    """Return the names of those facts that others lack, or have with another value."""
    # compared as JSON, since the order inside a fact matters
    return [name for name, fact in facts.items() if json.dumps(others.get(name)) != json.dumps(fact)]


def read_about(folder: Path) -> dict[str, Any]:
    """Read the `About` of a finished cache. Raises: ConfigError when it is damaged."""
    with reading(folder / ABOUT, "Delete that folder; it is rebuilt."):
        about: dict[str, Any] = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        if not all(isinstance(about[name], kind) for name, kind in zip(About._fields, _ABOUT_TYPES, strict=True)):
            raise ConfigError(f"{folder / ABOUT} holds values of other types. Delete that folder; it is rebuilt.")
    return about


def empty_split(name: str, path: str, own: str | None, counts: Mapping[str, int], reason: str = "") -> str:
    """Return the message that a split has no examples, with the reason if it is known, or else with advice."""
    found = ", ".join(f"{count} {split}" for split, count in counts.items())
    if reason:
        lacking = "no examples to train on" if name == "train" else f"no {name} examples"
        return f"{path}: {lacking} ({found}). {reason}"
    if name == "train":
        return f"{path}: no examples to train on ({found}). Give more rows, or smaller validation and test fractions."
    if own and name == "test":
        return f"{own}: no test examples ({found}): it holds nothing but white space. Give a source with texts."
    if own:
        return (
            f"{own}: no {name} examples ({found}): it contains none, or all repeat those of the test split. "
            f"Give other rows, or set data.split.drop_repeats=false."
        )
    return (
        f"{path}: no {name} examples ({found}). "
        f"Give more rows, a larger data.split.{name}_fraction, or data.{name}_path."
    )


Split = Literal["train", "validation", "test"]


def split_position(text: str, seed: int) -> float:
    """Return a number in [0, 1), evenly distributed over texts, by which `split_of` assigns a text: test, train,
    validation in this order."""
    salt = (seed % 2**128).to_bytes(16, "little")
    return int.from_bytes(_digest(text, salt), "little") / 2**64


def split_of(text: str, seed: int, validation_fraction: float, test_fraction: float) -> Split:
    """Assign a text to a split by a hash of the text and of the split's seed.

    Equal texts are in the same split, a row keeps its split when others are added or removed, and neither the training
    seed nor the validation fraction moves a row into or out of the test set.

    Args:
        seed: seed of the split, not of the training.
        validation_fraction: expected fraction of distinct texts, in [0, 1).
        test_fraction: expected fraction of distinct texts, in [0, 1); their sum is below 1.

    Raises: ConfigError when the fractions are out of range.
    """
    if min(validation_fraction, test_fraction) < 0 or validation_fraction + test_fraction >= 1:
        raise ConfigError(
            f"data.split.validation_fraction={validation_fraction} and data.split.test_fraction={test_fraction}: "
            f"each must be at least 0 and their sum below 1, so that rows are left to train on."
        )
    position = split_position(text, seed)
    if position < test_fraction:
        return "test"
    if position >= 1 - validation_fraction:
        return "validation"
    return "train"


def text_digest(text: str) -> int:
    """Compute an 8-byte digest of a text that ignores white space and the width of characters.

    Two of a hundred million different texts share a digest with a probability of 0.03 %.

    >>> text_digest("ＧＤＰ  grows ") == text_digest("GDP grows")
    True
    """
    return int.from_bytes(_digest(text, b""), "little")


def _digest(text: str, salt: bytes) -> bytes:
    return hashlib.blake2b(_plain(text), digest_size=8, salt=salt).digest()


@lru_cache(maxsize=1)  # a text is digested for its split, and immediately afterwards for comparison
def _plain(text: str) -> bytes:
    return " ".join(unicodedata.normalize("NFKC", text).split()).encode("utf-8", "surrogatepass")


class Deduplicator:
    """Detects repeated texts and counts them, in about 100 bytes for each different text."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self.num_dropped = 0

    def is_new(self, text: str) -> bool:
        """Whether no equal text was passed before."""
        digest = text_digest(text)
        if digest in self._seen:
            self.num_dropped += 1
            return False
        self._seen.add(digest)
        return True
