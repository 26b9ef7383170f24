"""Settings that all datamodules share, and the summary of a split."""

from dataclasses import dataclass, field

from lightrail.datamodules.reading import Empty, FileFormat, Quoting
from lightrail.project.basics.annotations import Ranged, ShareBelowOne


@dataclass(frozen=True, kw_only=True)
class SplitConfig(Ranged):
    """Settings for dividing the rows of `path` among splits that have no source of their own."""

    validation_fraction: ShareBelowOne = 0.1
    """Fraction of the texts for the validation split, in [0, 1)."""
    test_fraction: ShareBelowOne = 0.1
    """Fraction of the texts for the test split, in [0, 1)."""
    seed: int = 0
    """Seed of the split, so that every training seed has the same test set."""
    drop_repeats: bool = False
    """Keep one example of each text, and in train none that occurs in another split. Dropped examples are counted."""


@dataclass(frozen=True, kw_only=True)
class ReadingConfig:
    """Settings for reading files."""

    encoding: str = "utf-8"
    """Encoding by its name in Python, for example gb18030 or latin-1."""
    file_format: FileFormat = "auto"
    """Format of files. auto: by the ending. labelled: lines of LABEL TEXT, or of __label__A __label__B TEXT, as
    columns `label` and `text`."""
    quoting: Quoting = "auto"
    """Quotes around fields of a table. auto: in .csv, not in .tsv."""
    column_names: list[str] = field(default_factory=list)
    """Names of the columns of a table without a header line."""
    empty: Empty = "refuse"
    """Treatment of an empty cell or line. skip: omit and count it."""


@dataclass(frozen=True)
class SplitSummary:
    """Summary of a split for the tracker."""

    name: str
    num_rows: int
    digest: str
    """Digest of the encoded content, independent of file names."""
    source: str
