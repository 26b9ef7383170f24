"""Reads encoded rows out of a finished cache, mapped into memory."""

import json
import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lightrail.project.basics.errors import ConfigError

FORMAT_VERSION = 1
META = "meta.json"
OFFSET_DTYPE = np.dtype("<i8")

Kind = Literal["integer", "integers", "text"]


def values_file(folder: Path, split: str, column: str) -> Path:
    return folder / split / f"{column}.bin"


def offsets_file(folder: Path, split: str, column: str) -> Path:
    return folder / split / f"{column}.offsets"


class TokenisedSplit:
    """The rows of one split. Pickled as its path: workers map the same pages and copy nothing."""

    def __init__(self, folder: Path | str, name: str) -> None:
        self.folder = Path(folder)
        self.name = name
        splits = json.loads((self.folder / META).read_text(encoding="utf-8"))["splits"]
        if name not in splits:
            raise ValueError(f"the cache {self.folder} has no split {name!r}, only {', '.join(splits)}")
        self.digest: str = splits[name]["digest"]
        """Of the content and the order of all rows, whatever files they came from."""
        self._num_rows: int = splits[name]["num_rows"]
        self._columns = {
            column: _MappedColumn(self.folder, name, column, self._num_rows, **facts)
            for column, facts in splits[name]["columns"].items()
        }
        self._readers = [(column, mapped.cell) for column, mapped in self._columns.items()]

    def __len__(self) -> int:
        return self._num_rows

    def __reduce__(self) -> tuple[type["TokenisedSplit"], tuple[Path, str]]:
        return TokenisedSplit, (self.folder, self.name)

    @property
    def columns(self) -> list[str]:
        """Their names, in the order in which they were written."""
        return list(self._columns)

    def row(self, index: int) -> dict[str, NDArray[Any] | int | str]:
        """Give row `index`, from 0. Arrays are read-only views in the type they are stored in: copy before writing."""
        if not 0 <= index < self._num_rows:
            raise IndexError(f"row {index} of {self._num_rows}")
        return {column: cell(index) for column, cell in self._readers}

    def cell(self, column: str, index: int) -> NDArray[Any] | int | str:
        """Give one column of row `index`, which must be in range: of a long row the rest need not be read."""
        return self._columns[column].cell(index)

    def lengths(self, column: str) -> NDArray[np.int64]:
        """Give how many integers each row has in a column; for texts, how many bytes of UTF-8."""  # [N]
        return self._columns[column].lengths()

    def values(self, column: str) -> NDArray[Any]:
        """Give the values of all rows in one read-only array, without copying: all labels, or one stream of tokens."""
        return self._columns[column].values


def split_names(folder: Path) -> list[str]:
    """Give the splits of a finished cache."""
    return list(json.loads((folder / META).read_text(encoding="utf-8"))["splits"])


class _MappedColumn:
    # Plain arrays and memory views over one map: slicing a numpy.memmap costs ten times as much.
    def __init__(
        self, folder: Path, split: str, column: str, num_rows: int, *, kind: Kind, dtype: str, num_values: int
    ) -> None:
        self.values = _mapped(values_file(folder, split, column), np.dtype(dtype), num_values)
        self._num_rows = num_rows
        self._cells = self.values.data
        self.cell: Callable[[int], NDArray[Any] | int | str] = self._integer
        self.kind = kind
        if kind == "integer":
            return
        self._offsets = _mapped(offsets_file(folder, split, column), OFFSET_DTYPE, num_rows + 1)
        self._bounds = self._offsets.data  # indexing it gives Python integers, far faster than numpy's
        self.cell = self._text if kind == "text" else self._integers

    def lengths(self) -> NDArray[np.int64]:
        return np.ones(self._num_rows, np.int64) if self.kind == "integer" else np.diff(self._offsets)

    def _integer(self, index: int) -> int:
        value: int = self._cells[index]
        return value

    def _integers(self, index: int) -> NDArray[Any]:
        return self.values[self._bounds[index] : self._bounds[index + 1]]

    def _text(self, index: int) -> str:
        return str(self._cells[self._bounds[index] : self._bounds[index + 1]], "utf-8", "surrogatepass")


def _mapped(path: Path, dtype: np.dtype[Any], num_values: int) -> NDArray[Any]:
    size = path.stat().st_size if path.is_file() else -1
    if size != num_values * dtype.itemsize:
        raise ConfigError(
            f"the cache {path.parent.parent} is damaged: {path.name} has {size} bytes instead of "
            f"{num_values * dtype.itemsize}. Delete that folder; it is made again."
        )
    if size == 0:
        return np.empty(0, dtype)  # an empty file cannot be mapped
    with path.open("rb") as stream:
        return np.frombuffer(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ), dtype)
