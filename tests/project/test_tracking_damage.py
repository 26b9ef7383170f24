"""Stores and files of runs that are damaged: one line that names the file, and nothing else of the store is lost."""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from lightrail.project import cli
from lightrail.project.basics.errors import ConfigError
from lightrail.project.models.predictions import read_predictions
from lightrail.project.tracking.journal import Journal
from lightrail.project.tracking.lookup import run_configuration
from lightrail.project.tracking.naming import find_run
from lightrail.project.tracking.run import start_run
from lightrail.project.tracking.settings import TrackingConfig
from lightrail.project.tracking.store import open_store, store_uri

Damage = Callable[[Path], Any]


@pytest.mark.parametrize(
    "name", ["per%20cent", "what?now", "a?b=c", "ha#sh", "se;mi", "sp ace", "quo'te\"", "ümläut", "100%", "{a}", "[b]*"]
)
def test_a_folder_of_any_name_holds_its_store_and_no_other_does(
    name: str, tmp_path: Path, store_template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    folder = tmp_path / "work" / name
    folder.mkdir(parents=True)
    (folder / "mlflow.db").write_bytes(store_template.read_bytes())
    monkeypatch.chdir(folder)
    for uri in (None, f"sqlite:///{folder}/mlflow.db", store_uri(TrackingConfig())):
        run = start_run(TrackingConfig(uri=uri), {}, {})
        with run.status():
            pass
        client = open_store(store_uri(TrackingConfig(uri=uri)), create=False)
        assert client.get_run(run.run_id).info.status == "FINISHED"
        assert [item.path for item in client.list_artifacts(run.run_id)] == [
            "checkpoints",
            "config.yaml",
            "environment",
        ]
    assert [path.name for path in (tmp_path / "work").iterdir()] == [name]
    assert sorted(path.name for path in folder.iterdir()) == ["mlflow.db", "mlruns"]


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("sqlite:///x.db?timeout=soon", "has the option timeout='soon'"),
        ("sqlite:///x.db?mode=ro&timeout=3", "has the option mode='ro'"),
        ("sqlite:///x.db?uri=true", "has the option uri='true'"),
        ("sqlite://", "names no file"),
        ("sqlite:///", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("FILE:///x", "is not an MLflow store"),
        ("sqlite:////tmp/\udcff/x.db", "is not UTF-8"),
    ],
)
def test_an_address_that_no_file_can_have_is_refused(uri: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^tracking\.uri.* {message}"):
        store_uri(TrackingConfig(uri=uri))


def test_options_of_an_address_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    uri = store_uri(TrackingConfig(uri="sqlite:///a/../x.db?timeout=60"))
    assert uri == f"sqlite:///{tmp_path}/a/../x.db?timeout=60"
    assert store_uri(TrackingConfig(uri=uri)) == uri


@pytest.mark.parametrize("uri", ["http://[::1", "http://host:99999", "http://a..b", "foo://x", "postgresql+none://x/y"])
def test_an_address_that_no_server_can_have_is_refused(uri: str) -> None:
    with pytest.raises(ConfigError, match="MLflow store"):
        open_store(store_uri(TrackingConfig(uri=uri)), create=True)


def _of_a_later_version(file: Path) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")


def _without_a_table(file: Path) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute("DROP TABLE runs")


def _replaced_by(kind: Callable[[Path], Any]) -> Damage:
    def damage(file: Path) -> None:
        file.unlink()
        kind(file)

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.write_bytes(b"no database" * 999), "cannot be opened: file is not a database"),
        (lambda file: file.write_bytes(file.read_bytes()[:6000]), "cannot be opened: database disk image is malformed"),
        (lambda file: file.write_bytes(b""), "no runs are recorded there"),
        (Path.unlink, "no runs are recorded there"),
        (_replaced_by(Path.mkdir), "is a folder"),
        (_replaced_by(lambda file: file.symlink_to("/dev/zero")), "is a device"),
        (_of_a_later_version, "cannot be opened"),
        (_without_a_table, "is no whole database of MLflow"),
    ],
)
def test_a_damaged_database_is_one_line_of_each_command(
    damage: Damage, message: str, store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(tmp_path / "mlflow.db")
    for command in (["list", "runs"], ["compare", "a", "b"], ["sync"]):
        assert cli.main([*command, f"--tracking.uri={store}"]) == 2
        captured = capsys.readouterr()
        assert message in captured.err
        assert len(captured.err.splitlines()) == 1
        assert str(tmp_path / "mlflow.db") in captured.err


def test_a_database_damaged_in_its_middle_is_one_line(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    open_store(store, create=False).create_run("0")
    with sqlite3.connect(store.removeprefix("sqlite:///")) as connection:
        connection.execute("DROP TABLE tags")
    assert cli.main(["list", "runs", f"--tracking.uri={store}"]) == 2
    captured = capsys.readouterr()
    assert "no such table: tags" in captured.err
    assert len(captured.err.splitlines()) == 1


def test_a_locked_database_is_refused_within_its_timeout(store: str) -> None:
    connection = sqlite3.connect(store.removeprefix("sqlite:///"))
    connection.execute("BEGIN EXCLUSIVE")
    with pytest.raises(ConfigError, match=r"database is locked.*wait for the process"):
        open_store(f"{store}?timeout=0.2", create=True)
    connection.close()


def test_names_and_tags_cannot_change_the_terminal(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    client = open_store(store, create=False)
    client.create_run("0", run_name="\x1b[2Jgone\x07\nnext " + 9000 * "x", tags={"lightrail.kind": "\x1b]0;x\x07"})
    assert cli.main(["list", "runs", f"--tracking.uri={store}"]) == 0
    assert cli.main(["compare", "a\x1b[2J", "b", f"--tracking.uri={store}"]) == 2
    captured = capsys.readouterr()
    assert "\\x1b[2Jgone\\x07 n..." in captured.out
    assert not {"\x1b", "\x07"} & set(captured.out + captured.err)
    assert len(captured.out.splitlines()) == 2
    assert max(map(len, captured.out.splitlines())) < 500


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a: [", "while parsing"),
        (b"\xff\xfe\x00", "codec can't decode"),
        (b"- 1", "lacks sections"),
        (b"", "lacks sec"),
    ],
)
def test_a_damaged_configuration_of_a_run_is_named(text: bytes, message: str, store: str) -> None:
    config = TrackingConfig(uri=store)
    run = start_run(config, {}, {})
    with run.status():
        (run.directory / "config.yaml").write_bytes(text)
    client = open_store(store, create=False)
    found = find_run(client, run.run_id)
    assert found.info.status == "FINISHED"
    with pytest.raises(ConfigError, match=rf"(?s)config\.yaml: .*{message}.* Restore the file from a copy"):
        run_configuration(client, found)


GOOD: dict[str, Any] = {
    "id": [1, 0],
    "prediction": ["a", "b"],
    "target": ["a", "a"],
    "score": pa.array([0.5, 0.9], pa.float32()),
    "loss": pa.array([0.1, float("nan")], pa.float32()),
}


def test_predictions_are_read_in_order(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pa.table(GOOD), tmp_path / "x.parquet")
    assert read_predictions(tmp_path / "x.parquet")["id"].to_pylist() == [0, 1]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"id": ["x", "y"]}, "column id of type string"),
        ({"id": [1, None]}, "column id of type int64 has 1 missing"),
        ({"loss": [[1.0], [2.0]]}, "column loss of type list"),
        ({"score": None}, "no column score"),
        ({"target": None}, "no column target"),
    ],
    ids=str,
)
def test_predictions_with_other_columns_are_refused(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    columns = {name: own for name, own in {**GOOD, **changed}.items() if own is not None}
    pyarrow.parquet.write_table(pa.table(columns), tmp_path / "x.parquet")
    with pytest.raises(ConfigError, match=rf"x\.parquet cannot be read as predictions: {message}.*Test the run again"):
        read_predictions(tmp_path / "x.parquet")
    (tmp_path / "x.parquet").write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(ConfigError, match=r"x\.parquet cannot be read as predictions"):
        read_predictions(tmp_path / "x.parquet")


INVALID: list[Any] = [
    b"\xff\xfe",
    b"{",
    b"[" * 100_000,
    [1],
    3,
    {},
    {"time": 1, "metrics": {"loss": 1.0}},
    {"time": 1, "step": "x", "metrics": {"loss": 1.0}},
    {"time": 1, "step": 2**70, "metrics": {"loss": 1.0}},
    {"time": 1, "step": 1, "metrics": {"loss": "x"}},
    {"time": 1, "step": 1, "metrics": {"loss": None}},
    {"time": 1, "step": 1, "metrics": {"?": 1.0}},
    {"time": 1, "step": 1, "metrics": [1]},
    {"time": "x", "tags": {"a": "b"}},
    {"time": 1, "tags": {"a": 1}},
    {"time": 1, "status": "DANCING", "error": None},
    {"time": 1, "status": "FAILED", "error": 3},
]


def test_a_journal_loses_its_damaged_lines_alone(tmp_path: Path) -> None:
    good = {"time": 1, "step": 1, "metrics": {"loss": 1.0, "nan": float("nan"), "whole": 3}}
    lines = [own if isinstance(own, bytes) else json.dumps(own).encode() for own in INVALID]
    last = {"time": 9, "status": "FINISHED", "error": None}
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b"\n".join([json.dumps(good).encode(), *lines, json.dumps(last).encode(), b""]))
    (tmp_path / "metrics.sent").write_text("-7")
    (batch,) = Journal(file).batches(1000)
    assert [point.key for point in batch.points] == ["loss", "nan", "whole"]
    assert (batch.tags, batch.end) == ({}, file.stat().st_size)
    assert batch.ending is not None
    assert batch.ending.status == "FINISHED"
    assert Journal(file).last_steps() == {"loss": 1, "nan": 1, "whole": 1}
