"""Opening a store: a database is there whole or not at all."""

import os
import signal
import sqlite3
import time
from pathlib import Path

import pytest

from lightrail.project.basics.errors import ConfigError
from lightrail.project.tracking.run import start_run
from lightrail.project.tracking.settings import TrackingConfig
from lightrail.project.tracking.store import open_store


def test_a_process_killed_while_it_makes_the_database_spoils_nothing(tmp_path: Path) -> None:
    file, unfinished = tmp_path / "mlflow.db", tmp_path / "mlflow.db.unfinished"
    process = os.fork()
    if process == 0:
        open_store(f"sqlite:///{file}", create=True)
        os._exit(0)
    while not (unfinished.exists() and _tables(unfinished)):
        time.sleep(0.01)
    os.kill(process, signal.SIGKILL)
    assert os.waitpid(process, 0)[1] == signal.SIGKILL, "the database was there before it could be killed"
    assert not file.exists()
    run = start_run(TrackingConfig(uri=f"sqlite:///{file}"), {}, {})
    with run.status():
        pass
    assert open_store(f"sqlite:///{file}", create=False).get_run(run.run_id).info.status == "FINISHED"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlflow.db", "mlruns"]


def _tables(file: Path) -> list[str]:
    try:
        with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as connection:
            found = [name for (name,) in connection.execute("SELECT name FROM sqlite_master")]
        connection.close()
    except sqlite3.OperationalError:  # not yet
        return []
    return found


def test_an_empty_file_becomes_a_database(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").touch()
    open_store(f"sqlite:///{tmp_path}/mlflow.db", create=True)
    assert "runs" in _tables(tmp_path / "mlflow.db")


def test_a_damaged_database_is_refused_in_a_line(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    connection = sqlite3.connect(file)
    connection.execute("CREATE TABLE mcp_servers (name TEXT)")
    connection.close()
    with pytest.raises(ConfigError, match=r"mlflow\.db is no whole database of MLflow: it has 'mcp_servers'"):
        open_store(f"sqlite:///{file}", create=True)
