"""SQLite databases: their addresses, checks before a library opens one, and artifacts that were moved with them."""

import logging
import re
import sqlite3
import urllib.parse
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from lightrail.project.basics.errors import ConfigError, shown
from lightrail.project.basics.reading import quoted_path, reading, regular_file

log = logging.getLogger(__name__)

SCHEMES = ("sqlite", "sqlite+pysqlite")
PLAIN, QUOTED = (f"{scheme}:///" for scheme in SCHEMES)
"""Beginnings of an address: of a path as it is, and of one with `%25` and `%3F` for the two characters that mean
something else in an address. MLflow creates folders named like the rest of an address of the first kind."""
OPTIONS = ("timeout", "isolation_level", "cached_statements")
"""Options of an address that SQLite's driver takes, and that do not change which file is opened."""
LOCK_SECONDS = 10.0
"""Maximum wait for a locked database, unless its address has a `timeout`."""
_QUERY = re.compile(r"\?(\w+=[^&/]*(?:&\w+=[^&/]*)*)$")


def sqlite_address(address: str, setting: str) -> str:
    """Return an address of SQLite with an absolute path, by which libraries open this file and no other.

    Args:
        address: `sqlite:///FILE`, with options as `?timeout=60`; any other address is returned unchanged.

    Raises: ConfigError naming the setting: no file is named, or an option is unknown or has no such value.
    """
    scheme, _, rest = address.partition("://")
    if scheme.lower() not in SCHEMES:
        return address
    query = _QUERY.search(rest)
    name = rest[: query.start()] if query else rest
    if not name.startswith("/") or name == "/" or name.endswith("/:memory:"):
        raise ConfigError(f"{setting} {shown(address)} names no file. Write sqlite:///FILE.db.")
    for option, value in urllib.parse.parse_qsl(query[1] if query else "", keep_blank_values=True):
        is_number = re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value)
        if option not in OPTIONS or (option == "timeout" and not is_number):
            wrong = f"{setting} {shown(address)} has the option {option}={shown(value)}"
            raise ConfigError(f"{wrong}. Write one of {', '.join(OPTIONS)} (timeout: seconds), or none.")
    path, decoded = Path(name[1:]), Path(urllib.parse.unquote(name[1:]))
    if f"{scheme}:///" == QUOTED or (decoded.parent.is_dir() and not path.parent.is_dir()):
        path = decoded
    with reading(f"{setting}: the working folder", "Change to a folder that exists."):
        path = path.absolute()
    return sqlite_uri(path, setting) + (query[0] if query else "")


def sqlite_uri(file: Path, setting: str) -> str:
    """Return the address of a SQLite file. Raises: ConfigError when SQLAlchemy or MLflow can have none."""
    text = str(file)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{setting}: {quoted_path(file)} is not UTF-8. Rename the folder.") from error
    if "%" not in text and "?" not in text:
        return f"{PLAIN}{text}"
    from sqlalchemy import make_url

    if make_url(f"{PLAIN}%25").database == "%":  # from version 2.1 on
        return QUOTED + text.replace("%", "%25").replace("?", "%3F")
    if "?" in text:
        raise ConfigError(f"{setting}: SQLAlchemy 2.0 cannot open {quoted_path(file)} with its '?'. Rename the folder.")
    return f"{PLAIN}{text}"


def sqlite_file(uri: str) -> Path | None:
    """Return the file of an address from `sqlite_address`, None for every other address."""
    for prefix in (PLAIN, QUOTED):
        if uri.startswith(prefix):
            name = _QUERY.sub("", uri.removeprefix(prefix))
            return Path(urllib.parse.unquote(name) if prefix == QUOTED else name)
    return None


def check_database(uri: str, setting: str) -> set[str]:
    """Return the names of a database's tables; refuse a file that is none within seconds: libraries retry for minutes.

    Args:
        uri: an address from `sqlite_address`.
        setting: for messages, such as `storage`.

    Raises: ConfigError when it is no file, no SQLite database, damaged or locked.
    """
    file = sqlite_file(uri)
    assert file is not None
    regular_file(file, setting)
    with _opened(uri, setting) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


@contextmanager
def _opened(uri: str, setting: str) -> Iterator[sqlite3.Connection]:
    file, query = sqlite_file(uri), _QUERY.search(uri)
    assert file is not None
    options = dict(urllib.parse.parse_qsl(query[1])) if query else {}
    seconds = float(options.get("timeout", LOCK_SECONDS))
    fix = f"Restore a copy of it, wait for the process that has locked it, or choose another {setting}."
    with (
        reading(f"{setting}: {quoted_path(file)} cannot be opened", fix),
        closing(sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True, timeout=seconds)) as connection,
        connection,
    ):
        yield connection


def local_path(uri: str) -> Path | None:
    """Return the folder that `uri` names on this machine, None for a remote one."""
    try:
        parts = urllib.parse.urlsplit(uri)
    except ValueError:  # of a damaged store
        return None
    if not uri or parts.scheme not in ("", "file"):
        return None
    return Path(urllib.parse.unquote(parts.path)) if parts.scheme else Path(uri)


def follow_moved_artifacts(uri: str) -> None:
    """Enter in MLflow's database where artifacts are that were moved, copied or mounted together with it.

    Those of a run are found beside the database by the end of their former path. New runs of their experiment go there
    too; so do those of an experiment whose former `mlruns` folder does not exist.
    """
    file = sqlite_file(uri)
    assert file is not None
    inside = f"{file.parent.as_uri()}/"
    try:
        with _opened(uri, "tracking.uri") as connection:
            places: dict[str, Path] = {}
            for run_id, old in _outside(connection, "runs", "run_uuid", "artifact_uri", inside):
                former = local_path(old)
                new = None if former is None else _beside(former, file.parent)
                if former is not None and new is not None:
                    connection.execute("UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?", (new.as_uri(), run_id))
                    _move_versions(connection, old, new)
                    places[str(former.parent.parent)] = new.parent.parent
            _move_models(connection, file.parent, inside)
            for number, old in _outside(connection, "experiments", "experiment_id", "artifact_location", inside):
                place = _place_of(old, places, file.parent)
                if place is not None:
                    values = (place.as_uri(), number)
                    connection.execute("UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?", values)
            if places:
                log.info("%s: artifacts were moved with it, from %s", file, ", ".join(places))
    except ConfigError as error:
        log.warning("artifacts may have been moved, and their new place cannot be entered: %s", error)


def _move_models(connection: sqlite3.Connection, folder: Path, inside: str) -> None:
    """Enter where the models of runs are that were moved together with a database in `folder`."""
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    if "logged_models" not in tables:  # of MLflow 2
        return
    for model_id, old in _outside(connection, "logged_models", "model_id", "artifact_location", inside):
        former = local_path(old)
        new = None if former is None else _beside(former, folder)
        if new is not None:
            values = (new.as_uri(), model_id)
            connection.execute("UPDATE logged_models SET artifact_location = ? WHERE model_id = ?", values)
            _move_versions(connection, old, new)


def _move_versions(connection: sqlite3.Connection, old: str, new: Path) -> None:
    """Enter the new place of registered models in or below a folder."""
    for column in ("source", "storage_location"):
        connection.execute(
            f"UPDATE model_versions SET {column} = ? || substr({column}, ?) WHERE substr({column} || '/', 1, ?) = ?",
            (new.as_uri(), len(old) + 1, len(old) + 1, f"{old}/"),
        )


def _outside(connection: sqlite3.Connection, table: str, key: str, column: str, inside: str) -> list[tuple[str, str]]:
    """Return keys and locations of the rows whose location is not in the folder of the database."""
    condition = f"{column} IS NOT NULL AND substr({column}, 1, ?) != ?"
    return connection.execute(
        f"SELECT {key}, {column} FROM {table} WHERE {condition}", (len(inside), inside)
    ).fetchall()


def _beside(former: Path, folder: Path) -> Path | None:
    """Return the folder that ends as a run's former one, `RUN_ID/artifacts` at least, None when there is none."""
    ends = (former.parts[start:] for start in range(1, len(former.parts) - 1))
    return next((folder.joinpath(*end) for end in ends if folder.joinpath(*end).is_dir()), None)


def _place_of(old: str, places: dict[str, Path], folder: Path) -> Path | None:
    former = local_path(old)
    if former is None or str(former) in places:
        return None if former is None else places[str(former)]
    if former.exists() or "mlruns" not in former.parts:
        return None
    start = len(former.parts) - 1 - former.parts[::-1].index("mlruns")
    return folder.joinpath(*former.parts[start:])


def where_files_were(artifact_uri: str) -> str:
    """Return a sentence for a message about a run without a file: where its folder was, "" when it exists."""
    folder = local_path(artifact_uri)
    if folder is None or folder.is_dir():
        return ""
    return f" Its files were in {quoted_path(folder)}: move them there, or to the folder mlruns beside the database."
