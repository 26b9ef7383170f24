"""A disk that is full while a run logs. The kernel refuses the bytes: the process is allowed files of so many bytes."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lightrail.project.tracking.journal import Journal
from tests.support.children import Child
from tests.support.tracking import StubServer

FILLS_UP = """
import logging, resource, sys
from pathlib import Path
from lightrail.project.tracking.journal import Ending, Journal

logging.basicConfig(level=logging.INFO, format="%(message)s")
journal = Journal(Path(sys.argv[1]))
unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (990, unlimited[1]))
for step in range(50):
    journal.append_metrics({"loss": step / 2}, step, time=step)
journal.append_tags({"note": "full"}, time=50)
batches = list(journal.batches(max_points=20))
print([point.step for batch in batches for point in batch.points] == list(range(50)), batches[-1].tags)
print(journal.path.stat().st_size, journal.num_bytes_in_memory > 0, journal.last_steps())
journal.mark_sent(batches[1].end)  # in the middle of what is in memory
print([point.step for batch in journal.batches(20) for point in batch.points] == list(range(40, 50)))
resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
journal.sync()
journal.append_ending(Ending("FINISHED", None, time=51))
print(journal.num_bytes_in_memory, journal.is_sent, journal.count_unsent())
"""

LOGS_ON_A_FULL_DISK = """
import resource, sys
from pathlib import Path
from lightrail.project.tracking.store import RunFolders
from lightrail.project.tracking.logger import MlflowLogger

folder = Path(sys.argv[2])
logger = MlflowLogger(sys.argv[1], "a" * 32, RunFolders(folder / "artifacts", folder / "metrics.jsonl", True), {})
resource.setrlimit(resource.RLIMIT_FSIZE, (700, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
for step in range(300):
    logger.log_metrics({"train/loss": float(step)}, step)
print(logger.sender.flush(timeout_seconds=600), logger.journal.is_sent, logger.journal.num_bytes_in_memory > 0)
"""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[StubServer]:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with StubServer(num_refusals=0) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


def run_python(source: str, *arguments: object) -> tuple[str, str]:
    child = Child(arguments, program=source)
    shown, errors = child.communicate()
    assert child.returncode == 0, errors
    return shown, errors


def test_nothing_is_lost_and_the_file_is_whole_when_there_is_room_again(tmp_path: Path) -> None:
    shown, errors = run_python(FILLS_UP, tmp_path / "metrics.jsonl")
    assert shown.splitlines() == [
        "True {'note': 'full'}",
        "990 True {'loss': 49}",
        "True",
        "0 False 10",
    ]
    assert errors.count("cannot be written (File too large); metrics are kept in memory") == 1
    assert errors.count("can be written again, nothing was lost") == 1
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line).get("step") for line in lines] == [*range(50), None, None]
    assert json.loads(lines[-1])["status"] == "FINISHED"
    assert Journal(tmp_path / "metrics.jsonl").series()["loss"] == [(step, step / 2) for step in range(50)]


def test_the_store_gets_from_memory_what_the_disk_does_not_take(server: StubServer, tmp_path: Path) -> None:
    shown, _ = run_python(LOGS_ON_A_FULL_DISK, f"http://127.0.0.1:{server.server_port}", tmp_path)
    assert shown.split() == ["True", "True", "True"]
    assert sorted(server.metrics) == [("train/loss", step, float(step)) for step in range(300)]


def test_a_process_that_dies_on_a_full_disk_leaves_a_journal_that_can_be_continued(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_python(FILLS_UP.split("print")[0], tmp_path / "metrics.jsonl")
    on_disk = (tmp_path / "metrics.jsonl").read_bytes()
    assert len(on_disk) == 990
    assert not on_disk.endswith(b"\n")
    journal = Journal(tmp_path / "metrics.jsonl")
    journal.append_metrics({"loss": 0.5}, step=99, time=99)
    steps = [step for step, _ in journal.series()["loss"]]
    assert steps == [*range(len(steps) - 1), 99]
    assert caplog.text.count("skipped an invalid record") == 1
