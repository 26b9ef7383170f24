"""Atomic file writes: whole or not at all, even when the process is killed or the machine loses power."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from lightrail.project.basics.errors import ConfigError

UNFINISHED = ".unfinished"
"""Suffix of a file or folder that is being written. One that is found later was left by a dead process."""


@contextmanager
def replacing(target: Path, *, is_synced: bool = True) -> Iterator[IO[bytes]]:
    """Open a stream whose content replaces `target` when the block succeeds; otherwise `target` is unchanged.

    One process at a time may write a target. Its folder must exist.

    Args:
        is_synced: sync to disk. Without it a kill is harmless, but a power cut may leave an empty file: for notes that
            are written often and may be lost.

    Raises: ConfigError when there is a folder of this name.
    """
    unfinished = _unfinished(target)
    try:
        with unfinished.open("wb") as stream:
            yield stream
            stream.flush()
            if is_synced:
                os.fsync(stream.fileno())
        put_in_place(unfinished, target, is_synced=is_synced)
    finally:
        unfinished.unlink(missing_ok=True)


def _unfinished(target: Path) -> Path:
    unfinished = target.with_name(target.name + UNFINISHED)
    for file in (target, unfinished):
        if file.is_dir():
            raise ConfigError(f"{file} is a folder, and a file is to be written there. Move the folder away.")
    return unfinished


def write_whole(target: Path, text: str, *, is_synced: bool = True) -> None:
    """Replace the content of a file by a text in UTF-8; see `replacing`."""
    with replacing(target, is_synced=is_synced) as stream:
        stream.write(text.encode())


def read_note(file: Path) -> str:
    """Return the text of a file that is no loss; "" where there is none, or a pipe, which nobody may ever write to.

    Raises: OSError, ValueError for one that cannot be read, or is no text.
    """
    return file.read_text("utf-8") if file.is_file() else ""


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, or a copy of it where the file system cannot; whole or not at all."""
    unfinished = _unfinished(target)
    unfinished.unlink(missing_ok=True)
    try:
        unfinished.hardlink_to(source)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, unfinished)
        sync(unfinished)
    put_in_place(unfinished, target)


def put_in_place(written: Path, target: Path, *, is_synced: bool = True) -> None:
    """Rename a written and synced file or folder to `target`, in one step that survives a power cut."""
    written.replace(target)
    if is_synced:
        sync(target.parent)


def sync(path: Path) -> None:
    """Sync a file's content, or the creations and renamings in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


RESERVED_BYTES = 2**20


def reserve(file: Path) -> None:
    """Keep some space of a disk in a file: on a full disk, what must be written can be written once it is removed."""
    with suppress(OSError, AttributeError):  # a full disk, or a system that cannot
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.posix_fallocate(descriptor, 0, RESERVED_BYTES)
        finally:
            os.close(descriptor)


def remove_unfinished(folder: Path) -> None:
    """Remove the files left by a process that died while it wrote them."""
    for file in folder.glob(f"*{UNFINISHED}"):
        if not file.is_dir():
            file.unlink(missing_ok=True)
