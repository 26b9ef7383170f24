"""Writing files whole or not at all, whatever ends the process or the machine on the way."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

UNFINISHED = ".unfinished"
"""Behind the name of a file or folder that is being written. One that is found later belongs to a dead process."""


@contextmanager
def replacing(target: Path, *, is_synced: bool = True) -> Iterator[IO[bytes]]:
    """Give a stream whose content becomes `target` when the block is left normally; else `target` stays as it was.

    One process at a time may write a target. Its folder must exist.

    Args:
        is_synced: have the disk keep it. Without, a kill spoils nothing, but a power cut may leave an empty file: for
            notes that are written often and may be lost.
    """
    unfinished = target.with_name(target.name + UNFINISHED)
    try:
        with unfinished.open("wb") as stream:
            yield stream
            stream.flush()
            if is_synced:
                os.fsync(stream.fileno())
        put_in_place(unfinished, target, is_synced=is_synced)
    finally:
        unfinished.unlink(missing_ok=True)


def write_whole(target: Path, text: str, *, is_synced: bool = True) -> None:
    """Put a text, as UTF-8, in the place of a file's content; see `replacing`."""
    with replacing(target, is_synced=is_synced) as stream:
        stream.write(text.encode())


def put_in_place(written: Path, target: Path, *, is_synced: bool = True) -> None:
    """Give a file or a folder that is written and synced the name `target`, in one step that a power cut keeps."""
    written.replace(target)
    if is_synced:
        sync(target.parent)


def sync(path: Path) -> None:
    """Have the disk keep the content of a file, or what was made and renamed in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_unfinished(folder: Path) -> None:
    """Remove the files that a process left which died while it wrote them."""
    for file in folder.glob(f"*{UNFINISHED}"):
        file.unlink(missing_ok=True)
