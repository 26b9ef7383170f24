"""The boundary for everything that is read: what a library raises about a file becomes one refusal naming the file."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightrail.project.basics.errors import ConfigError, Refusal, first_line

_KINDS = {
    stat.S_ISDIR: "a folder",
    stat.S_ISFIFO: "a pipe",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
    stat.S_ISSOCK: "a socket",
}


@contextmanager
def reading(what: object, fix: str, *, refusal: type[Refusal] = ConfigError) -> Iterator[None]:
    """Turn any exception of the block into a refusal `WHAT: MESSAGE. FIX`; refusals pass unchanged.

    Libraries raise hundreds of types about damaged files, and further ones with each version: listing types misses
    some. Keep everything but the reading out of the block: a mistake of this package in it would be blamed on the file.

    Args:
        what: the file, or the setting and the file, that is read.
        fix: a sentence on what to do.
        refusal: type of the refusal: `DataError` for data, `ConfigError` for everything else.
    """
    try:
        yield
    except Refusal:
        raise
    except (Exception, RecursionError) as error:
        raise refusal(f"{what}: {first_line(error).rstrip('.')}. {fix}") from error


def regular_file(path: Path, what: str, *, most_bytes: int | None = None, refusal: type[Refusal] = ConfigError) -> Path:
    """Return the path of a regular file (or of a link to one).

    Opening a pipe waits for a writer, and a device may never end: both are refused before they are opened.

    Args:
        what: the setting or kind of file, for the message.
        most_bytes: refuse a larger file before it is read into memory.

    Raises:
        Refusal: of the given type; it does not exist, may not be read, is no regular file, or is too large.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        reason = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
        raise refusal(f"{what}: {quoted_path(path)} cannot be read ({reason}). Check the path.") from error
    for is_kind, name in _KINDS.items():
        if is_kind(status.st_mode):
            raise refusal(f"{what}: {quoted_path(path)} is {name}; a file is needed. Name a file.")
    if not os.access(path, os.R_OK):
        raise refusal(f"{what}: {quoted_path(path)} may not be read. Change its permissions (chmod u+r).")
    if most_bytes is not None and status.st_size > most_bytes:
        sizes = f"{status.st_size:,} bytes; at most {most_bytes:,} make sense"
        raise refusal(f"{what}: {quoted_path(path)} has {sizes}. Name another file.")
    return path


def quoted_path(path: Path) -> str:
    """Return a path for a message, printable and at most 200 characters long; the end is what tells files apart."""
    text = "".join(char if char.isprintable() else "?" for char in str(path))
    return text if len(text) <= 200 else f"...{text[-197:]}"
