"""The names of a source's columns, without reading its rows."""

import json
from collections.abc import Iterable

from lightrail.datamodules.reading import hub
from lightrail.datamodules.reading.embedded import embedded_set
from lightrail.datamodules.reading.lines import existing_file, read_lines
from lightrail.datamodules.reading.rows import FileFormat
from lightrail.datamodules.reading.sources import EMBEDDED_PREFIX


def column_names(source: str, file_format: FileFormat, encoding: str = "utf-8") -> list[str]:
    """Give the names that a source states itself; none where it does not, or not in a way that can be read.

    Args:
        file_format: of a file, not `auto`.
    """
    if source.startswith(EMBEDDED_PREFIX):
        return list(embedded_set(source).columns)
    if source.startswith(hub.PREFIX):
        return list(hub.load_hub(source).column_names)
    if file_format == "parquet":
        return _of_parquet(source)
    return _of_first_record(read_lines(source, encoding)) if file_format == "jsonl" else []


def _of_parquet(source: str) -> list[str]:
    from pyarrow import ArrowException, parquet

    try:
        return list(parquet.read_schema(existing_file(source)).names)
    except ArrowException:
        return []  # reading its rows says what is wrong


def _of_first_record(lines: Iterable[str]) -> list[str]:
    first = next((line for line in lines if line.strip()), "")
    try:
        record = json.loads(first or "{}")
    except json.JSONDecodeError:
        return []  # reading its rows says what is wrong
    return list(record) if isinstance(record, dict) else []
