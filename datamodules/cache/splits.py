"""A split of encoded rows on disk: writing its files, and mapping them into memory."""

import hashlib
import json
import mmap
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from lightrail.project.basics.durable import sync, write_whole
from lightrail.project.basics.errors import ConfigError

FORMAT_VERSION = 1
META = "meta.json"
OFFSET_DTYPE = np.dtype("<i8")

Kind = Literal["integer", "integers", "float", "floats", "text"]
SCALARS = ("integer", "float")


def values_file(folder: Path, split: str, column: str) -> Path:
    """Return the file of a column's values."""
    return folder / split / f"{column}.bin"


def offsets_file(folder: Path, split: str, column: str) -> Path:
    """Return the file of the positions at which the rows of a column begin and end."""
    return folder / split / f"{column}.offsets"


class TokenisedSplit:
    """The encoded rows of one split. Pickled as its path: workers map the same pages without a copy."""

    def __init__(self, folder: Path | str, name: str) -> None:
        self.folder = Path(folder)
        self.name = name
        splits = json.loads((self.folder / META).read_text(encoding="utf-8"))["splits"]
        if name not in splits:
            raise ValueError(f"the cache {self.folder} has no split {name!r}, only {', '.join(splits)}")
        self.digest: str = splits[name]["digest"]
        """Digest of the content and the order of all rows, independent of file names."""
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
        """Names of the columns, in the order in which they were written."""
        return list(self._columns)

    def row(self, index: int) -> dict[str, NDArray[Any] | int | float | str]:
        """Return row `index`, from 0. Arrays are read-only views in their stored type: copy before writing."""
        if not 0 <= index < self._num_rows:
            raise IndexError(f"row {index} of {self._num_rows}")
        return {column: cell(index) for column, cell in self._readers}

    def cell(self, column: str, index: int) -> NDArray[Any] | int | float | str:
        """Return one column of row `index`, which must be in range, without reading the others."""
        return self._columns[column].cell(index)

    def lengths(self, column: str) -> NDArray[np.int64]:
        """Return the number of values of each row in a column, for texts the bytes of UTF-8, [N]."""
        return self._columns[column].lengths()

    def values(self, column: str) -> NDArray[Any]:
        """Return a column's values of all rows concatenated in one read-only array, without a copy."""
        return self._columns[column].values


def split_names(folder: Path) -> list[str]:
    """Return the names of the splits of a finished cache."""
    return list(json.loads((folder / META).read_text(encoding="utf-8"))["splits"])


class _MappedColumn:
    # Plain arrays and memory views over one map: slicing a numpy.memmap costs ten times as much.
    def __init__(
        self, folder: Path, split: str, column: str, num_rows: int, *, kind: Kind, dtype: str, num_values: int
    ) -> None:
        is_counted = all(type(count) is int and count >= 0 for count in (num_rows, num_values))
        is_typed = kind in get_args(Kind) and dtype in ("<f8", *(own.str for own in _DTYPES))
        if not (is_counted and is_typed) or (kind in SCALARS and num_values != num_rows):
            raise _damaged(folder, f"{META} holds impossible values for the column {column!r}")
        self.values = _mapped(values_file(folder, split, column), np.dtype(dtype), num_values)
        self._num_rows = num_rows
        self._cells = self.values.data
        self.cell: Callable[[int], NDArray[Any] | int | float | str] = self._scalar
        self.kind = kind
        if kind in SCALARS:
            return
        self._offsets = _mapped(offsets_file(folder, split, column), OFFSET_DTYPE, num_rows + 1)
        if self._offsets[0] != 0 or self._offsets[-1] != num_values:
            raise _damaged(folder, f"the offsets of the column {column!r} do not fit its values")
        self._bounds = self._offsets.data  # indexing it gives Python integers, far faster than numpy's
        self.cell = self._text if kind == "text" else self._array

    def lengths(self) -> NDArray[np.int64]:
        return np.ones(self._num_rows, np.int64) if self.kind in SCALARS else np.diff(self._offsets)

    def _scalar(self, index: int) -> int | float:
        value: int | float = self._cells[index]
        return value

    def _array(self, index: int) -> NDArray[Any]:
        return self.values[self._bounds[index] : self._bounds[index + 1]]

    def _text(self, index: int) -> str:
        return str(self._cells[self._bounds[index] : self._bounds[index + 1]], "utf-8", "surrogatepass")


def _damaged(folder: Path, what: str) -> ConfigError:
    return ConfigError(f"the cache {folder} is damaged: {what}. Delete that folder; it is rebuilt.")


def _mapped(path: Path, dtype: np.dtype[Any], num_values: int) -> NDArray[Any]:
    size = path.stat().st_size if path.is_file() else -1
    if size != num_values * dtype.itemsize:
        raise _damaged(path.parent.parent, f"{path.name} has {size} bytes instead of {num_values * dtype.itemsize}")
    if size == 0:
        return np.empty(0, dtype)  # an empty file cannot be mapped
    with path.open("rb") as stream:
        return np.frombuffer(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ), dtype)


Cell = NDArray[Any] | int | float | str
Rows = tuple[NDArray[Any], NDArray[np.integer[Any]] | None]
"""Concatenated values of many rows, and the number of each row's values; None: one value per row."""

_VALUES_PER_FLUSH = 2**18
# A column is stored in the narrowest type that holds it; signed types are for marks such as -100.
_DTYPES = [np.dtype(name) for name in ("<u1", "<i1", "<u2", "<i2", "<i4", "<i8")]


class CacheWriter:
    """Writes rows of any number of splits; every row of a split has the same columns.

    A column holds a number per row, or an array of numbers, or a text. Integers are stored in the narrowest type that
    holds them all, which is widened when needed; floating-point numbers in 64 bits, and their columns take integers
    too.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._splits: dict[str, _SplitWriter] = {}

    def add(self, split: str, row: Mapping[str, Cell]) -> None:
        """Append a row to a split."""
        self._writer(split, row).add(row)

    def extend(self, split: str, rows: Mapping[str, Rows]) -> None:
        """Append many rows to a split, column by column; equivalent to adding each."""
        writer = self._writer(split, {name: _first(values, lengths) for name, (values, lengths) in rows.items()})
        writer.extend(rows)

    def close(self) -> None:
        """Write all buffers to the disk, and `meta.json` last."""
        splits = {name: writer.close() for name, writer in self._splits.items()}
        with writing_to(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self.folder / META, json.dumps({"format_version": FORMAT_VERSION, "splits": splits}, indent=1))

    def _writer(self, split: str, first: Mapping[str, Cell]) -> "_SplitWriter":
        if split not in self._splits:
            with writing_to(self.folder):
                (self.folder / split).mkdir(parents=True)
            self._splits[split] = _SplitWriter(self.folder, split, first)
        return self._splits[split]


@contextmanager
def writing_to(folder: Path, *, only: Collection[int] = ()) -> Iterator[None]:
    """Convert an OSError of a full, read-only or forbidden disk into a ConfigError with advice.

    Args:
        only: convert errors of these numbers alone; empty: all.
    """
    try:
        yield
    except OSError as error:
        if only and error.errno not in only:
            raise
        raise ConfigError(
            f"cannot write the cache {folder}: {error.strerror}. "
            f"Set LIGHTRAIL_CACHE to a writable folder with enough space."
        ) from error


class _SplitWriter:
    def __init__(self, folder: Path, split: str, first: Mapping[str, Cell]) -> None:
        self.split = split
        self.num_rows = 0
        self.columns = {name: _ColumnWriter(folder, split, name, _kind(cell)) for name, cell in first.items()}

    def add(self, row: Mapping[str, Cell]) -> None:
        self._check(row)
        for name, cell in row.items():
            self.columns[name].add(cell)
        self.num_rows += 1

    def extend(self, rows: Mapping[str, Rows]) -> None:
        self._check(rows)
        counts = {len(values if lengths is None else lengths) for values, lengths in rows.values()}
        if len(counts) > 1:
            raise ValueError(f"columns of {self.split} have {sorted(counts)} rows: give the same number")
        for name, (values, lengths) in rows.items():
            self.columns[name].extend(values, lengths)
        self.num_rows += counts.pop()

    def _check(self, names: Mapping[str, object]) -> None:
        if names.keys() != self.columns.keys():
            given, first = list(names), list(self.columns)
            raise ValueError(f"row {self.num_rows} of {self.split} has {given}, the first had {first}")

    def close(self) -> dict[str, Any]:
        columns = {name: column.close() for name, column in self.columns.items()}
        content = hashlib.blake2b(str(self.num_rows).encode(), digest_size=16)
        for name in sorted(columns):
            content.update(f"{name}:{columns[name].pop('digest')}".encode())
        return {"num_rows": self.num_rows, "digest": content.hexdigest(), "columns": columns}


def _first(values: NDArray[Any], lengths: NDArray[np.integer[Any]] | None) -> Cell:
    """A cell of the type of such rows."""
    return (0.0 if values.dtype.kind == "f" else 0) if lengths is None else values[:1]


def _kind(cell: Cell) -> Kind:
    if isinstance(cell, str):
        return "text"
    if isinstance(cell, np.ndarray) and cell.ndim == 1:
        return "floats" if cell.dtype.kind == "f" and cell.size else "integers"
    return "float" if isinstance(cell, float | np.floating) else "integer"


class _ColumnWriter:
    """Appends one column to its files, and computes the digest of its content, which does not depend on the dtype."""

    def __init__(self, folder: Path, split: str, name: str, kind: Kind) -> None:
        self.where = f"column {name!r} of {split}"
        self._become(kind)
        self.num_values = 0
        self._low = self._high = 0
        self._folder = folder
        self._path = values_file(folder, split, name)
        self._offsets_path = offsets_file(folder, split, name)
        self._cells: list[NDArray[np.int64]] = []
        self._offsets = [0]
        self._num_buffered = 0
        self._lengths = hashlib.blake2b(digest_size=16)

    def _become(self, kind: Kind) -> None:
        self.kind = kind
        self.is_float = kind in ("float", "floats")
        self.dtype = np.dtype("<f8") if self.is_float else _DTYPES[0]
        self._content = hashlib.blake2b(kind.encode(), digest_size=16)

    def add(self, cell: Cell) -> None:
        if isinstance(cell, str):
            values = np.frombuffer(cell.encode("utf-8", "surrogatepass"), np.uint8)
        else:
            values = np.asarray(cell)
        kind = _kind(cell)
        if (self.kind, kind) == ("integers", "floats") and not self.num_values:
            self._become(kind)  # empty arrays do not determine the type
        is_fitting = kind == self.kind or (self.kind, kind) in (("float", "integer"), ("floats", "integers"))
        if not is_fitting or values.ndim > 1 or (values.size and values.dtype.kind not in "iubf"):
            raise TypeError(f"{self.where} takes {self.kind}, not {cell!r:.60}")
        if values.dtype == np.uint64 and values.size and values.max() > np.iinfo(np.int64).max:
            raise OverflowError(f"{self.where} holds {values.max()}, too large for signed 64 bits")
        self._cells.append(self._stored(values.reshape(-1)))
        self.num_values += values.size
        self._offsets.append(self.num_values)
        self._num_buffered += values.size + 1
        if self._num_buffered >= _VALUES_PER_FLUSH:
            self._flush()

    def _stored(self, values: NDArray[Any]) -> NDArray[np.int64]:
        """A copy, since the caller may reuse its buffer; floating-point numbers as their bits."""
        return values.astype("<f8").view(OFFSET_DTYPE) if self.is_float else values.astype(OFFSET_DTYPE)

    def extend(self, values: NDArray[Any], lengths: NDArray[np.integer[Any]] | None) -> None:
        if (lengths is None) != (self.kind in SCALARS) or (values.dtype.kind == "f" and not self.is_float):
            raise TypeError(f"{self.where} takes {self.kind}")
        self._flush()
        for start in range(0, len(values), _VALUES_PER_FLUSH):
            self._write_values(self._stored(values[start : start + _VALUES_PER_FLUSH]))
        sizes = np.ones(len(values), OFFSET_DTYPE) if lengths is None else lengths.astype(OFFSET_DTYPE)
        self._write_offsets(np.concatenate([[self.num_values], self.num_values + np.cumsum(sizes)]))
        self.num_values += len(values)
        self._offsets = [self.num_values]

    def close(self) -> dict[str, Any]:
        self._flush()
        with writing_to(self._folder):
            for path in (self._path, self._offsets_path) if self.kind not in SCALARS else (self._path,):
                sync(path)
        digest = self._content.hexdigest() + self._lengths.hexdigest()
        return {"kind": self.kind, "dtype": self.dtype.str, "num_values": self.num_values, "digest": digest}

    def _flush(self) -> None:
        self._write_values(np.concatenate([np.empty(0, OFFSET_DTYPE), *self._cells]))
        self._write_offsets(np.array(self._offsets, OFFSET_DTYPE))
        self._cells, self._offsets, self._num_buffered = [], [self.num_values], 0

    def _write_values(self, values: NDArray[np.int64]) -> None:
        self._content.update(values.tobytes())
        with writing_to(self._folder):
            if self.is_float:
                _append(self._path, values)
            else:
                self._widen_for(values)
                _append(self._path, values.astype(self.dtype))

    def _write_offsets(self, offsets: NDArray[np.int64]) -> None:
        """Write the ends of rows; the first offset is the start of the first row."""
        self._lengths.update(np.diff(offsets).tobytes())
        if self.kind not in SCALARS:
            is_first = not self._offsets_path.exists()
            with writing_to(self._folder):
                _append(self._offsets_path, offsets if is_first else offsets[1:])

    def _widen_for(self, values: NDArray[np.int64]) -> None:
        if values.size:
            self._low = min(self._low, int(values.min()))
            self._high = max(self._high, int(values.max()))
        fits = [dtype for dtype in _DTYPES if np.iinfo(dtype).min <= self._low and self._high <= np.iinfo(dtype).max]
        if self.dtype not in fits:
            self._rewrite(fits[0])

    def _rewrite(self, dtype: np.dtype[Any]) -> None:
        """Convert the file to a wider type, a piece at a time."""
        if self._path.exists():
            narrow = self._path.rename(self._path.with_suffix(".narrow"))
            with narrow.open("rb") as stream:
                while (piece := np.fromfile(stream, self.dtype, _VALUES_PER_FLUSH)).size:
                    _append(self._path, piece.astype(dtype))
            narrow.unlink()
        self.dtype = dtype


def _append(path: Path, values: NDArray[Any]) -> None:
    with path.open("ab", buffering=0) as stream:
        remaining = values.view(np.uint8).data
        while remaining:
            remaining = remaining[stream.write(remaining) :]
