"""The files of a source of texts."""

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Interval

from lightrail.datamodules.cache import digest_of
from lightrail.datamodules.reading import FileFormat
from lightrail.datamodules.reading.files import STANDARD_INPUT, existing_file
from lightrail.datamodules.reading.hub import PREFIX
from lightrail.datamodules.reading.sources import EMBEDDED_PREFIX, FORMATS, format_of, source_digest
from lightrail.datamodules.reading.split_folders import refuse_splits
from lightrail.project.basics.annotations import Ranged
from lightrail.project.basics.errors import DataError
from lightrail.project.basics.reading import user_path


@dataclass(frozen=True, kw_only=True)
class SourceConfig(Ranged):
    """One of several sources of training texts."""

    path: str
    """A file, a folder, a pattern such as books/*.txt, embedded:NAME or hub:OWNER/NAME@SPLIT."""
    weight: Annotated[float, Interval(gt=0, le=1000)] = 1.0
    """Number of times that an epoch takes the texts of this source, above 0, at most 1,000: 0.5 takes half of them,
    others in the next epoch; 2 takes all of them twice."""


def is_file(source: str) -> bool:
    """Whether a source is a file or folder, not a data set or standard input."""
    return source != STANDARD_INPUT and not source.startswith((EMBEDDED_PREFIX, PREFIX))


def source_files(source: str) -> list[str]:
    """List the files of a folder, at any depth, or of a pattern, sorted by name; else the source itself.

    Raises: DataError when there is none.
    """
    if not is_file(source):
        return [source]
    path = user_path(source)
    if path.is_dir() and source.strip():  # a blank name is that of the working folder
        inside = sorted(entry for entry in path.rglob("*") if entry.is_file() and not entry.name.startswith("."))
        found = [str(entry) for entry in inside if _suffix(entry) in FORMATS]
        _refuse_splits(path, [entry.relative_to(path) for entry in inside if _suffix(entry) in FORMATS])
        listing = ", ".join(entry.name for entry in inside[:5]) or "nothing"
        wanted = f"Expected files that end in one of {', '.join(FORMATS)}; found: {listing}."
    elif glob.has_magic(source) and not path.exists():
        found = sorted(name for name in glob.glob(str(path), recursive=True) if Path(name).is_file())
        wanted = "No file matches the pattern. Quote it, and check the working folder."
    else:
        return [str(existing_file(source))]
    if not found:
        raise DataError(f"{source} holds no texts. {wanted}")
    return found


def _refuse_splits(folder: Path, files: Sequence[Path]) -> None:
    """Refuse a folder that holds files or folders of splits, at any depth: the model would learn its test texts."""
    entries: dict[Path, set[str]] = {}
    for file in files:
        for depth, name in enumerate(file.parts):
            entries.setdefault(Path(folder, *file.parts[:depth]), set()).add(name)
    for inside, names in entries.items():
        refuse_splits(str(inside), names)


def sources_digest(sources: Sequence[str], file_format: FileFormat) -> str:
    """Digest the content of sources, in their order, independent of file names."""
    return digest_of([[source_digest(file, file_format) for file in source_files(source)] for source in sources])


def file_format_of(file: str, file_format: FileFormat) -> FileFormat:
    """Return the format of a file. Raises: DataError when it is auto and the file's name has no known ending."""
    return format_of(file) if file_format == "auto" else file_format


def _suffix(path: Path) -> str:
    return (path.with_suffix("") if path.suffix == ".gz" else path).suffix.lower()
