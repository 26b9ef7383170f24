"""Reads rows out of files, Hugging Face data sets, embedded corpora and standard input."""

from datamodules.reading.rows import Columns, Empty, FileFormat, Quoting, ReadingNotes, Row, TaggedLines
from datamodules.reading.sources import read_rows

__all__ = ["Columns", "Empty", "FileFormat", "Quoting", "ReadingNotes", "Row", "TaggedLines", "read_rows"]
