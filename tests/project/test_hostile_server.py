"""A tracking server, and what it says of a run, are a stranger's: paths, sizes, pages, texts and classes."""

import _thread
import gc
import gzip
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from lightrail.project.basics.errors import ConfigError
from lightrail.project.commands.list import runs_listing
from lightrail.project.models.predictions import read_predictions, scores_from_json
from lightrail.project.tracking import limits, lookup
from lightrail.project.tracking.journal import Journal
from lightrail.project.tracking.lookup import last_runs, metric_history, run_artifact, stored_configuration
from lightrail.project.tracking.naming import find_run
from lightrail.project.tracking.processes import this_machine
from lightrail.project.tracking.recovery import synchronize
from lightrail.project.tracking.run import start_run
from lightrail.project.tracking.settings import TrackingConfig
from lightrail.project.tracking.store import open_store
from tests.support.hostile import RUN_ID, Handler, HostileServer, hostile_server
from tests.support.running import lightrail


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HostileServer]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with hostile_server() as server:
        yield server


@pytest.fixture
def client(server: HostileServer) -> MlflowClient:
    return open_store(server.uri, create=False)


@pytest.fixture
def run(client: MlflowClient) -> Run:
    return find_run(client, RUN_ID)


def fails(handler: Handler) -> None:
    handler.send(b'{"error_code": "INTERNAL_ERROR", "message": "no"}', 500)


class TestPaths:
    @pytest.mark.parametrize("end", ["victim", "victim/artifacts", f"victim/{RUN_ID}/artifacts"])
    def test_nothing_but_what_the_run_made_is_deleted_when_a_run_cannot_be_started(
        self, server: HostileServer, tmp_path: Path, end: str
    ) -> None:
        (tmp_path / end).mkdir(parents=True)
        kept = [tmp_path / "victim" / "mine.txt", tmp_path / end / "also.txt"]
        for file in kept:
            file.write_text("precious")
        server.info["artifact_uri"] = f"file://{tmp_path}/{end}"
        server.answers["runs/log-batch"] = fails
        with pytest.raises(ConfigError):
            start_run(TrackingConfig(uri=server.uri), {"a": 1}, {})
        assert [file.read_text() for file in kept] == ["precious"] * 2
        assert "POST /api/2.0/mlflow/runs/delete" in server.requests

    @pytest.mark.parametrize("own", ["../../victim", "/victim", "a/b", "..", "", "a\0b", "-rf", "a\nb"])
    def test_an_id_is_no_path(self, server: HostileServer, client: MlflowClient, tmp_path: Path, own: str) -> None:
        server.info |= {"run_id": own, "run_uuid": own}
        with pytest.raises(ConfigError, match=r"no id of a run|no run|cannot be read"):
            run_artifact(client, find_run(client, RUN_ID), "config.yaml")
        with pytest.raises(ConfigError):
            start_run(TrackingConfig(uri=server.uri), {"a": 1}, {})
        assert not [file for file in tmp_path.rglob("*") if file.is_file()]

    @pytest.mark.parametrize("name", ["../../../victim", "/{}/victim", "checkpoints/../../../victim", "a\0b", ""])
    def test_a_file_of_a_run_is_inside_of_it(
        self, server: HostileServer, client: MlflowClient, run: Run, tmp_path: Path, name: str
    ) -> None:
        name = name.format(tmp_path)
        server.answers["mlflow-artifacts/artifacts"] = {"files": [{"path": name, "is_dir": False, "file_size": 4}]}
        with pytest.raises(ConfigError, match="no name of a file of a run"):
            run_artifact(client, run, name)
        assert not list(tmp_path.rglob("victim"))

    def test_a_listing_with_paths_outside_is_refused(self, server: HostileServer, client: MlflowClient) -> None:
        server.info["status"] = "FAILED"
        listed = {"files": [{"path": "../../../x.ckpt", "is_dir": False, "file_size": 4}]}
        server.answers["mlflow-artifacts/artifacts"] = listed
        outcome = lightrail("resume", RUN_ID, f"--tracking.uri={server.uri}")
        assert outcome.status == 2
        assert outcome.err.count("\n") == 1

    def test_records_of_other_stores_are_not_sent(self, server: HostileServer, tmp_path: Path) -> None:
        """A server can name the folder of another store's experiment as that of its own."""
        artifacts = tmp_path / "mlruns" / RUN_ID / "artifacts"
        (artifacts / "checkpoints").mkdir(parents=True)
        (artifacts / "checkpoints" / "run.json").write_text('{"store": "sqlite:///mine.db"}')
        journal = Journal(artifacts.parent / "metrics.jsonl")
        journal.append_metrics({"secret": 1.0}, 1, 1)
        server.experiment["artifact_location"] = f"file://{tmp_path}/mlruns"
        server.info["artifact_uri"] = f"file://{artifacts}"
        assert synchronize(open_store(server.uri, create=False), server.uri) == []
        assert not journal.is_sent
        assert "POST /api/2.0/mlflow/runs/log-batch" not in server.requests


def drip(handler: Handler) -> None:
    handler.send_for_ever(b" ", pause_seconds=0.05)


def drip_headers(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    while not handler.server.is_over.wait(0.05):
        handler.wfile.write(b"x")


def bomb(handler: Handler) -> None:
    handler.send(gzip.compress(b" " * 5_000_000), Content_Encoding="gzip")


def redirect_without_end(handler: Handler) -> None:
    handler.send_response(302)
    handler.send_header("Location", "/elsewhere")
    handler.end_headers()
    while not handler.server.is_over.is_set():
        handler.wfile.write(b" " * 10_000)


def redirect_to(location: str) -> Callable[[Handler], None]:
    return lambda handler: handler.send(b"", 302, Location=location)


class TestLimits:
    @pytest.mark.parametrize(
        "answer",
        [
            lambda handler: handler.send_for_ever(b" " * 10_000),
            bomb,
            drip,
            redirect_without_end,
            redirect_to("file:///etc/passwd"),
            redirect_to("/api/2.0/mlflow/runs/get"),
            b"[" * 100_000,
            b"\xff\xfe",
            b"[1, 2]",
            {"run": 3, "runs": 3},
        ],
        ids=["endless", "bomb", "drip", "redirect", "file", "circle", "deep", "binary", "list", "number"],
    )
    def test_an_answer_that_is_none_is_one_message(
        self, server: HostileServer, client: MlflowClient, monkeypatch: pytest.MonkeyPatch, answer: Any
    ) -> None:
        monkeypatch.setattr(limits, "MAX_ANSWER_BYTES", 1_000_000)
        monkeypatch.setattr(limits, "MAX_ANSWER_SECONDS", 1.0)
        server.answers["runs/get"] = server.answers["runs/search"] = answer
        with pytest.raises(ConfigError, match="cannot be read") as refused:
            find_run(client, RUN_ID)
        assert len(str(refused.value)) < 400
        with pytest.raises(ConfigError, match="the request to the MLflow store"):
            last_runs(client, 3)

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    def test_headers_without_end_are_left(
        self, server: HostileServer, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(limits, "MAX_ANSWER_SECONDS", 0.5)
        server.answers["runs/get"] = drip_headers
        num_threads = _thread._count()
        with pytest.raises(ConfigError, match="no answer within"):
            find_run(client, RUN_ID)
        server.is_over.set()
        while _thread._count() > num_threads:  # the one that was left behind, with its connection
            time.sleep(0.01)
        gc.collect()

    def test_pages_without_end_are_left(
        self, server: HostileServer, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert [point.step for point in metric_history(client, RUN_ID, "loss")] == [1]
        point = {"key": "loss", "value": 1.0, "timestamp": 1, "step": 1}
        server.answers["metrics/get-history"] = {"metrics": [point], "next_page_token": "again"}
        monkeypatch.setattr(lookup, "MAX_POINTS", 5)
        with pytest.raises(ConfigError, match="does not end"):
            metric_history(client, RUN_ID, "loss")
        server.answers["metrics/get-history"] = {"metrics": [], "next_page_token": "again"}
        monkeypatch.setattr(lookup, "MAX_HISTORY_SECONDS", 0.5)
        with pytest.raises(ConfigError, match="does not end"):
            metric_history(client, RUN_ID, "loss")

    def test_a_file_larger_than_the_disk_or_than_its_kind_is_not_fetched(
        self, server: HostileServer, client: MlflowClient, run: Run
    ) -> None:
        for name, size in {"checkpoints/best.ckpt": 10**18, "config.yaml": 10**10}.items():
            server.artifacts[name], server.sizes[name] = b"a: 1", size
            with pytest.raises(ConfigError, match=f"its file '{name}' has {size:,} bytes"):
                run_artifact(client, run, name)

    @pytest.mark.parametrize("is_slow", [False, True], ids=["endless", "slow"])
    def test_a_file_without_end_is_left_and_nothing_of_it_stays(
        self,
        server: HostileServer,
        client: MlflowClient,
        run: Run,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        is_slow: bool,
    ) -> None:
        monkeypatch.setattr(limits, "MARGIN_BYTES", 1_000_000)
        monkeypatch.setattr(limits, "FIRST_SECONDS", 0.5)
        monkeypatch.setattr(limits, "MAX_ANSWER_SECONDS", 1.0)
        server.artifacts["checkpoints/best.ckpt"] = b"abc"
        assert run_artifact(client, run, "checkpoints/best.ckpt", is_fresh=True)
        server.artifacts["checkpoints/last.ckpt"] = b"abc"
        server.answers["checkpoints/last.ckpt"] = drip if is_slow else lambda own: own.send_for_ever(b" " * 100_000)
        with pytest.raises(ConfigError, match=r"larger than|not complete after"):
            run_artifact(client, run, "checkpoints/last.ckpt")
        assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["best.ckpt"]

    def test_folders_without_end_are_not_followed(
        self, server: HostileServer, client: MlflowClient, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        inner = {"files": [{"path": "config.yaml", "is_dir": True}, {"path": "more", "is_dir": True}]}
        server.answers["mlflow-artifacts/artifacts"] = inner
        assert run_artifact(client, run, "config.yaml") is None
        assert len(server.requests) < 10


def nested(depth: int) -> str:
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, depth))]
    return "\n".join(lines)


@dataclass
class Harmful:
    """Imported, and does something when it is built."""

    command: str

    def __post_init__(self) -> None:
        raise AssertionError("built")


class TestFiles:
    @pytest.mark.parametrize(
        "text",
        [
            nested(64),
            "a: &a [*a]",
            "[" * 5_000,
            "- 1",
            "text",
            "!!python/object/apply:os.system ['touch x']",
            "a: \x07",
            "1: " * 3,
        ],
        ids=["bomb", "circle", "deep", "list", "text", "object", "control", "broken"],
    )
    def test_a_stored_configuration_that_is_none_is_one_message(
        self, server: HostileServer, client: MlflowClient, run: Run, text: str
    ) -> None:
        server.artifacts["config.yaml"] = text.encode()
        with pytest.raises(ConfigError, match=f"run {RUN_ID}: its file config.yaml: "):
            stored_configuration(client, run, "config.yaml")

    def test_a_table_names_no_class_but_a_score(self) -> None:
        stored = {"class_path": f"{__name__}.Harmful", "init_args": {"command": "rm"}}
        with pytest.raises(ConfigError, match="no StoredScore"):
            scores_from_json(json.dumps({"f1": stored}))
        inner = {"class_path": "lightrail.lightning_modules.metrics.scores.MacroF1", "init_args": {"labels": stored}}
        with pytest.raises(ConfigError, match="no StoredScore"):
            scores_from_json(json.dumps({"f1": inner}))

    def test_a_small_table_of_endless_rows_is_not_read(self, tmp_path: Path) -> None:
        file = tmp_path / "test.parquet"
        numbers = pa.array([0] * 500_000, pa.int8())
        rows = pa.RecordBatch.from_pydict(dict.fromkeys(("id", "score", "loss"), numbers))
        with pa.parquet.ParquetWriter(file, rows.schema, compression="zstd") as writer:
            for _ in range(3):
                writer.write_batch(rows)
        assert len(read_predictions(file)) == 1_500_000
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("lightrail.project.models.predictions.MAX_VALUES", 4_000_000)
            with pytest.raises(ConfigError, match="it has 4,500,000 values, more than fit into memory"):
                read_predictions(file)


def test_texts_of_a_store_do_not_change_the_terminal(server: HostileServer) -> None:
    server.info["run_name"] = "\x1b[2J\x1b]0;title\x07 \u202egnp.exe\r"
    server.tags["lightrail.task"] = "\x9b31m"
    listed = runs_listing(TrackingConfig(uri=server.uri))
    outcome = lightrail("compare", "0123", "4567", f"--tracking.uri={server.uri}")
    assert outcome.status == 2
    for text in (listed, outcome.err):
        assert RUN_ID[:8] in text
        assert not set(text) & set("\x1b\x07\x9b\u202e\r")


OWNERS = [
    "nonsense",
    "HERE 9 9",
    f"HERE {'9' * 5000} {'9' * 5000}",
    f"HERE {2**70} 1",
    f"HERE {10**9} 0",
    "a 1 ²",
    "  ",
]


@pytest.mark.parametrize("tag", OWNERS)
def test_an_owner_that_is_none_is_unknown(server: HostileServer, tag: str) -> None:
    server.info["status"], server.tags["lightrail.process"] = "RUNNING", tag.replace("HERE", this_machine())
    outcome = lightrail("resume", RUN_ID, f"--tracking.uri={server.uri}")
    assert outcome.status == 2
    assert outcome.err.count("\n") == 1
    assert RUN_ID[:8] in runs_listing(TrackingConfig(uri=server.uri))
