"""Reads rows out of files, Hugging Face data sets, embedded corpora and standard input."""

from datamodules.reading.rows import Columns, Empty, FileFormat, Quoting, ReadingNotes, Row
from datamodules.reading.sources import read_rows

__all__ = ["Columns", "Empty", "FileFormat", "Quoting", "ReadingNotes", "Row", "read_rows"]
