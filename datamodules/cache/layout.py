"""How a cache lies on disk, which its writer and its reader must agree on.

FOLDER/meta.json               written last: a folder without it is no cache
FOLDER/SPLIT/COLUMN.bin        the values of all rows, one after the other
FOLDER/SPLIT/COLUMN.offsets    where each row begins, and where the last ends; absent where a row has one value
"""

from pathlib import Path
from typing import Literal

import numpy as np

FORMAT_VERSION = 1
META = "meta.json"
OFFSET_DTYPE = np.dtype("<i8")

Kind = Literal["integer", "integers", "text"]


def values_file(folder: Path, split: str, column: str) -> Path:
    return folder / split / f"{column}.bin"


def offsets_file(folder: Path, split: str, column: str) -> Path:
    return folder / split / f"{column}.offsets"
