"""Checksums of a cache's files, which its lock file holds, and the detection of damage."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from lightrail.datamodules.cache.splits import TokenisedSplit, split_names
from lightrail.project.basics.errors import ConfigError, Refusal
from lightrail.project.basics.reading import reading, regular_file

_BYTES_ALWAYS_READ = 2**20
"""Larger files are read only if their size or time of change is not that of their writing: they take seconds."""
_Checksum = tuple[int, int, str]
"""Size in bytes, time of change in nanoseconds, and digest of the content of a file."""


def file_digest(path: Path | str) -> str:
    """Digest the content of a file, independent of its name."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def write_checksums(written: Path, folder: Path) -> None:
    """Write the checksums of the files in `written`, which becomes the cache `folder`, into its locked lock file."""
    files = (path for path in written.rglob("*") if path.is_file())
    checksums = {str(path.relative_to(written)): _checksum(path) for path in files}
    lock_file(folder).write_text(json.dumps(checksums), encoding="utf-8")  # not replaced: others wait for this file


def damage_of(folder: Path, check: Callable[[Path], object]) -> str:
    """Return what is wrong with the files of a finished cache; "" if nothing is.

    A cache without checksums, of an earlier version, is only checked to have files of the right form.

    Args:
        check: reads further files of the folder; raises if it cannot.
    """
    try:
        with reading(folder, ""):
            lock = lock_file(folder)
            checksums = json.loads((lock.read_text(encoding="utf-8") if lock.is_file() else "") or "{}")
            for name, (size, changed, digest) in checksums.items():
                _check(folder / name, (size, changed, digest))
            for split in split_names(folder):
                TokenisedSplit(folder, split)
            check(folder)
    except Refusal as error:
        return str(error).strip()
    return ""


def _check(path: Path, expected: _Checksum) -> None:
    status = regular_file(path, "cache").stat()
    is_trusted = status.st_size > _BYTES_ALWAYS_READ and (status.st_size, status.st_mtime_ns) == expected[:2]
    if not is_trusted and _checksum(path)[::2] != expected[::2]:
        raise ConfigError(f"{path} is not as it was written")


def _checksum(path: Path) -> _Checksum:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, file_digest(path)


def lock_file(folder: Path) -> Path:
    """Return the file that is locked by the process that builds the cache `folder`."""
    return folder.with_name(folder.name + ".lock")
