"""Output files of `lightrail predict`: JSON lines, CSV, Parquet, or the vectors alone as an array of numpy."""

import io
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from lightrail.project.basics.durable import replacing
from lightrail.project.basics.errors import ConfigError
from lightrail.project.basics.reading import user_path
from lightrail.project.tracking.store import check_folder

ENDINGS = (".jsonl", ".csv", ".parquet", ".npy")


def check_output(output: Path, source: str) -> None:
    """Refuse, before any computation, an output file that cannot be written or is the input. Raises: ConfigError."""
    if output.suffix not in ENDINGS:
        raise ConfigError(f"--output {output}: unknown format. End the name in {', '.join(ENDINGS)}.")
    if output.is_dir():
        raise ConfigError(f"--output {output} is a folder. Name a file in it.")
    if output.exists() and user_path(source).exists() and output.samefile(user_path(source)):
        raise ConfigError(f"--output {output} is data.path, which it would replace. Name another file.")
    check_folder(output.absolute().parent, "--output")


def with_named_lists(table: pa.Table, labels: Mapping[str, Sequence[str]]) -> pa.Table:
    """Replace lists of numbers by records with a field for each label.

    Args:
        labels: names of the items of a list, by column; columns that the table lacks are skipped.
    """
    for column, names in labels.items():
        if column in table.column_names:
            lists = table[column].combine_chunks()
            fields = [pa.compute.list_element(lists, number) for number in range(len(names))]
            records = pa.StructArray.from_arrays(fields, names=list(names))
            table = table.set_column(table.column_names.index(column), column, records)
    return table


def show_answers(table: pa.Table) -> None:
    """Write JSON lines to standard output. Raises: BrokenPipeError when the reader has closed the pipe."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")  # as for JSON, whatever the locale
    sys.stdout.writelines(_json_lines(table))
    sys.stdout.flush()


def write_answers(table: pa.Table, output: Path) -> None:
    """Write a file in the format of its ending, whole or not at all.

    Raises: ConfigError when it cannot be written, or for .npy when there is not one column of vectors.
    """
    vectors = vectors_of(table, output) if output.suffix == ".npy" else None
    target = Path(os.path.realpath(output))  # a link stays, and leads to the new file
    try:
        with replacing(target) as stream:
            if vectors is not None:
                np.save(stream, vectors)
            elif output.suffix == ".parquet":
                pyarrow.parquet.write_table(table, stream)
            elif output.suffix == ".csv":
                pyarrow.csv.write_csv(flat(table), stream)
            else:
                stream.writelines(line.encode() for line in _json_lines(table))
    except OSError as error:
        raise ConfigError(
            f"--output {output}: {error.strerror or error}. Name a file in a folder that may be written."
        ) from error


def vectors_of(table: pa.Table, output: Path) -> NDArray[np.float32]:
    """Return the one column of equally long lists of numbers, a row for each prediction. Raises: ConfigError."""
    numbers = [
        own.name for own in table.schema if pa.types.is_list(own.type) and pa.types.is_floating(own.type.value_type)
    ]
    lists = [table[name].combine_chunks() for name in numbers]
    widths = [set(pa.compute.list_value_length(own).to_pylist()) for own in lists]
    if len(lists) != 1 or len(widths[0]) > 1:
        raise ConfigError(
            f"--output {output}: .npy is for predictions that are a vector for each row, and these have the columns "
            f"{', '.join(table.column_names)}. Name a .jsonl, .csv or .parquet file."
        )
    values: NDArray[np.float32] = lists[0].flatten().to_numpy(zero_copy_only=False).reshape(len(table), -1)
    return values


def flat(table: pa.Table) -> pa.Table:
    """Flatten a table for CSV: a column such as `probability_LABEL` for each field of a record, and lists as JSON."""
    columns: dict[str, pa.Array | pa.ChunkedArray] = {}
    for field in table.schema:
        if pa.types.is_struct(field.type):
            name, parts = _singular(field.name), table[field.name].combine_chunks().flatten()
            columns |= {f"{name}_{own.name}": part for own, part in zip(field.type, parts, strict=True)}
        elif pa.types.is_nested(field.type):
            columns[field.name] = pa.array([_json(value) for value in table[field.name].to_pylist()], pa.string())
        else:
            columns[field.name] = table[field.name]
    return pa.table(columns)


def _singular(name: str) -> str:
    """Return the singular of a column name: `probability` for `probabilities`."""
    return f"{name.removesuffix('ies')}y" if name.endswith("ies") else name.removesuffix("s")


def _json_lines(table: pa.Table) -> Iterator[str]:
    for batch in table.to_batches(max_chunksize=1024):
        yield from (f"{_json(row)}\n" for row in batch.to_pylist())


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
