"""Parallel texts: a file of lines for each column, as corpora of translations are published."""

from collections.abc import Iterator, Mapping
from itertools import zip_longest
from pathlib import Path

from lightrail.datamodules.reading.files import STANDARD_INPUT
from lightrail.datamodules.reading.lines import read_lines
from lightrail.datamodules.reading.rows import Columns, Row
from lightrail.project.basics.errors import DataError


def parallel_files(source: str, columns: Columns) -> Mapping[str, str]:
    """Return the file of each column, SOURCE.COLUMN or SOURCE.COLUMN.gz; {} where SOURCE is a file, or one is missing.

    `train` with the columns `en` and `de` names the files `train.en` and `train.de`.
    """
    if source == STANDARD_INPUT or ":" in source or not columns.names:
        return {}
    try:
        if Path(source).expanduser().exists():
            return {}
        found = {name: _file_of(source, name) for name in columns.names}
    except OSError:  # such as a name of 5,000 characters, which is refused where it is opened
        return {}
    return {name: file for name, file in found.items() if file} if all(found.values()) else {}


def _file_of(source: str, column: str) -> str:
    names = (f"{source}.{column}", f"{source}.{column}.gz")
    return next((name for name in names if Path(name).expanduser().is_file()), "")


def read_parallel(files: Mapping[str, str], encoding: str) -> Iterator[Row]:
    """Yield the rows of files of lines, the n-th line of each: the columns by name.

    Raises: DataError naming the shorter file when they differ in length.
    """
    first = next(iter(files.values()))
    readers = [read_lines(file, encoding) for file in files.values()]
    for number, values in enumerate(zip_longest(*readers), 1):
        if None in values:
            short = list(files.values())[values.index(None)]
            other = next(file for file, value in zip(files.values(), values, strict=True) if value is not None)
            raise DataError(
                f"{short} ends after {number - 1} lines, and {other} has more. Line n of each must belong together: "
                "complete the shorter file."
            )
        yield Row(dict(zip(files, values, strict=True)), first, number)
