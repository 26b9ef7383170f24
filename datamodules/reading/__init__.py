"""Reading of rows from files, Hugging Face data sets, embedded corpora and standard input."""

from lightrail.datamodules.reading.rows import Columns, Empty, FileFormat, Quoting, ReadingNotes, Row, TaggedLines
from lightrail.datamodules.reading.sources import read_rows

__all__ = ["Columns", "Empty", "FileFormat", "Quoting", "ReadingNotes", "Row", "TaggedLines", "read_rows"]
