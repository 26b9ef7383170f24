"""Files of data: found, told apart by their first bytes, opened and decompressed."""

import gzip
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from lightrail.datamodules.reading.split_folders import refuse_splits
from lightrail.project.basics.did_you_mean import nearest
from lightrail.project.basics.errors import DataError
from lightrail.project.basics.reading import quoted_path, reading, regular_file

STANDARD_INPUT = "-"
GZIP_MAGIC = b"\x1f\x8b"
PARQUET_MAGIC = b"PAR1\x15"
_UNPACK = "Unpack it and name the file inside"
_EXPORT = "Save it as CSV UTF-8 and name that file"
_CONVERT = "Convert it to Parquet or JSON lines and name that file"
_OTHER_KINDS = (
    (b"PK\x03\x04", "a zip archive", _UNPACK),
    (b"PK\x05\x06", "an empty zip archive", "Name another file"),
    (b"\xfd7zXZ\0", "compressed by xz", f"{_UNPACK} (unxz --keep)"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", f"{_UNPACK} (unzstd)"),
    *(
        (b"BZh%d%s" % (level, mark), "compressed by bzip2", f"{_UNPACK} (bunzip2 --keep)")
        for level in range(1, 10)
        for mark in (b"1AY&SY", b"\x17rE8P\x90")
    ),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"Rar!\x1a\x07", "a rar archive", _UNPACK),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Office document such as an old Excel workbook", _EXPORT),
    (b"SQLite format 3\0", "an SQLite database", _CONVERT),
    (b"ARROW1\0\0", "an Arrow (Feather) file", _CONVERT),
    (b"\xff\xff\xff\xff", "an Arrow stream", "Name its folder as hub:FOLDER@SPLIT, or convert it to Parquet"),
    (b"\x93NUMPY", "a NumPy array", _CONVERT),
    (b"%PDF-", "a PDF document", "Extract its text and name that file"),
    (b"version https://git-lfs.github.com/spec/", "a pointer of Git LFS, not the data", "Run git lfs pull"),
)
"""First bytes, name, and advice of kinds of files that no reader reads."""


def existing_file(source: str) -> Path:
    """Return the path of a file.

    Raises: DataError when it is a folder, missing (names similar files), a pipe or a device, unreadable, or something
    that no reader reads, such as an archive.
    """
    if not source.strip():
        raise DataError("data: the name of a file is blank. Name a file.")
    name = quoted_path(Path(source))
    with reading(name, "Check the path.", refusal=DataError):  # such as a name of 5,000 characters
        path = Path(source).expanduser()
        if path.is_dir():
            names = sorted(entry.name for entry in path.iterdir())
            refuse_splits(name, names)
            names = names[:8]
            raise DataError(
                f"{name} is a folder; name one file in it ({', '.join(names) or 'it is empty'}), "
                f"or write hub:{name}@SPLIT if it is a saved Hugging Face data set."
            )
        if not path.exists():
            what = "a link to a file that does not exist" if path.is_symlink() else "no such file"
            raise DataError(f"{name}: {what}. {_nearby(path)}")
        regular_file(path, "data", refusal=DataError)
        with path.open("rb") as stream:
            _refuse_other_kinds(source, stream.read(4096))
    return path


def _refuse_other_kinds(source: str, start: bytes) -> None:
    if start.startswith(b"PK\x03\x04") and b"[Content_Types].xml" in start:
        raise DataError(f"{source} is an Office document such as an Excel workbook. {_EXPORT}.")
    for magic, name, advice in _OTHER_KINDS:
        if start.startswith(magic):
            raise DataError(f"{source} is {name}. {advice}.")


def _nearby(path: Path) -> str:
    if not path.parent.is_dir():
        return f"Its folder {path.parent} does not exist either (the working folder is {Path.cwd()})."
    names = [entry.name for entry in path.parent.iterdir()]
    shown = nearest(path.name, names, most=3, least_alike=0.5) or sorted(names)[:5]
    return f"The folder {path.parent} holds: {', '.join(shown) or 'nothing'}."


@contextmanager
def open_bytes(source: str) -> Iterator[IO[bytes]]:
    """Open a file, or standard input, decompressed if its content is gzip. Raises: DataError when it cannot."""
    if source == STANDARD_INPUT:
        if sys.stdin is None:  # Python sets this if it was closed
            raise DataError("standard input is closed. Pipe texts into it, one per line, or name a file.")
        yield sys.stdin.buffer
        return
    with existing_file(source).open("rb") as stream:
        start = stream.peek(8)
        if start.startswith(PARQUET_MAGIC):
            raise DataError(f"{source} is a Parquet file. Name it .parquet, or set data.reading.file_format=parquet.")
        if start.startswith(GZIP_MAGIC):
            with gzip.open(stream) as plain:
                yield io.BufferedReader(plain)
        elif source.endswith(".gz") and start:
            raise DataError(f"{source} is not compressed, but is named .gz. Remove .gz from its name.")
        else:
            yield stream


def refuse_web_page(source: str) -> None:
    """Refuse a table that begins like HTML or XML, such as a server's error that was saved instead of the data."""
    with existing_file(source).open("rb") as stream:
        start = stream.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise DataError(f"{source} is a web page or XML, not the data. Download the file itself.")
