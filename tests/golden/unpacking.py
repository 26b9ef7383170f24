"""The archive of what was stored at an earlier commit, and how it is put into another folder than it was made in."""

import sqlite3
import tarfile
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

ARCHIVE = Path(__file__).parent / "stored.tar.xz"
MADE_IN = "/tmp/lightrail-golden"
"""The folder that the addresses of artifacts in the databases begin with."""
DATABASES = ("mlflow.db", "sweeps.db")


def unpack(folder: Path) -> None:
    """Unpack the archive into a folder, and have the databases name that folder."""
    more: dict[str, Any] = (
        {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    )  # not in Python 3.11.0 to 3.11.3
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, **more)
    for name in DATABASES:
        replace_texts(folder / name, {MADE_IN: str(folder)})


def replace_texts(file: Path, replacements: Mapping[str, str]) -> None:
    """Replace parts of every text that a SQLite database holds."""
    with closing(sqlite3.connect(file)) as database, database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            columns = [row[1] for row in database.execute(f'PRAGMA table_info("{table}")')]
            for column in columns:
                for old, new in replacements.items():
                    database.execute(
                        f'UPDATE "{table}" SET "{column}" = replace("{column}", ?, ?) '
                        f'WHERE typeof("{column}") = \'text\' AND instr("{column}", ?)',
                        (old, new, old),
                    )
