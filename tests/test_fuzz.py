"""The fuzzer: inputs are the same for a seed, each way to end is recognised, and a few dozen inputs end as they should.

`python -m benchmarks.fuzz` does the same for hours.
"""

import copy
import random
import re
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks.fuzz.damage import damage_bytes
from benchmarks.fuzz.outcomes import Outcome, judge
from benchmarks.fuzz.sandbox import LOG, Ended
from benchmarks.fuzz.table import Result, Tally
from benchmarks.fuzz.values import mutated
from lightrail.project.tracking.journal import Journal
from tests.support.children import Child

NUM_INPUTS = 30
FUZZ = "import runpy; runpy.run_module('benchmarks.fuzz', run_name='__main__')"


def test_changes_are_the_same_for_a_seed_and_differ_between_seeds(tmp_path: Path) -> None:
    values = {"model": {"width": 16, "names": ["a", "b"]}, "lr": 0.1}
    found = [repr(mutated(copy.deepcopy(values), random.Random(seed))) for seed in [*range(50)] * 2]
    assert found[:50] == found[50:]
    assert len({*found, repr(values)}) > 30
    file = tmp_path / "x"
    damaged = []
    for seed in [*range(50)] * 2:
        file.write_bytes(bytes(range(200)))
        damage_bytes(file, random.Random(seed))
        damaged.append(file.read_bytes())
    assert damaged[:50] == damaged[50:]
    assert len(set(damaged)) > 20


@pytest.mark.parametrize(
    ("text", "ended", "outcome"),
    [
        ("lightrail: error: a.csv:3: no label\n", Ended(2, False), Outcome("refused")),
        ("done", Ended(0, False), Outcome("worked")),
        ("changed", Ended(1, False), Outcome("worked")),
        (
            "lightrail: error: `lightrail fit` failed with KeyError: 'x'. This is a bug in lightrail (at "
            "project/cli.py:3): please report it; the traceback is in /x\n",
            Ended(1, False),
            Outcome("traceback", "KeyError at project/cli.py:3"),
        ),
        (
            "Traceback (most recent call last):\nKeyError: 1\n",
            Ended(0, False),
            Outcome("traceback", "shown: KeyError: 1"),
        ),
        ("", Ended(-signal.SIGSEGV, False), Outcome("traceback", "SIGSEGV")),
        (
            "`lightrail fit` failed with MemoryError: no message. There is not enough memory: use less",
            Ended(1, False),
            Outcome("memory", "MemoryError"),
        ),
        ("", Ended(-signal.SIGKILL, True), Outcome("hang", "no end in time")),
        ("lightrail: error: " + "x" * 1001, Ended(2, False), Outcome("long message", "lightrail: error: " + "x" * 42)),
    ],
    ids=lambda own: own.kind if isinstance(own, Outcome) else "",
)
def test_each_end_is_recognised(tmp_path: Path, text: str, ended: Ended, outcome: Outcome) -> None:
    (tmp_path / LOG).write_text(text)
    assert judge(tmp_path, ended, set()) == outcome


def test_a_training_that_still_makes_steps_does_not_hang(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "mlruns" / "lightrail" / "a" / "metrics.jsonl")
    journal.append_metrics({"train/loss": 0.5}, step=1, time=1_000_000)
    journal.append_metrics({"system/memory": 1.0}, step=1, time=2_000_000)
    assert judge(tmp_path, Ended(-signal.SIGXCPU, False, at=1001.0), {"a"}) == Outcome("worked")
    assert judge(tmp_path, Ended(-signal.SIGXCPU, False, at=2001.0), {"a"}).kind == "hang"


def test_a_run_left_running_is_found(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database, database:
        database.execute("CREATE TABLE runs (run_uuid, status)")
        database.execute("INSERT INTO runs VALUES ('a', 'RUNNING'), ('b', 'RUNNING'), ('c', 'FINISHED')")
    assert judge(tmp_path, Ended(2, False), {"a"}) == Outcome("left RUNNING", "1 after status 2")
    (tmp_path / LOG).write_text("WARNING run b ended as FINISHED, but its store is incomplete: 2 metrics are pending")
    assert judge(tmp_path, Ended(0, False), {"a"}) == Outcome("worked")  # it is told, and `lightrail sync` mends it


def test_the_table_counts_each_kind_and_names_each_cause_once() -> None:
    tally = Tally()
    for number, outcome in enumerate([Outcome("worked"), Outcome("hang", "x"), Outcome("hang", "x")]):
        tally.add(Result(f"data-1-{number}", outcome, 2.0, Path()))
    assert [line.split() for line in tally.table().splitlines()][1] == ["data", *"0100200", "3", "2.00"]
    assert tally.findings() == "1 distinct findings\n    2  hang: x  (data-1-1)"


SANDBOXES = """
import sys
from pathlib import Path
from benchmarks.fuzz.sandbox import LOG, Limits, Sandbox

def endless():
    while True:
        pass

for number, prepare in enumerate([lambda: ["list"], lambda: ["lst"], endless, lambda: 1 / 0]):
    folder = Path(str(number))
    folder.mkdir()
    ended = Sandbox(folder, prepare, Limits(waiting=0.5 if prepare is endless else 300)).wait()
    print(ended.status, ended.is_late, ((folder / LOG).read_text().splitlines() or [""])[0][:30])
"""


def test_an_input_has_a_process_and_a_folder_of_its_own(tmp_path: Path) -> None:
    out, err = Child([], program=SANDBOXES, folder=tmp_path).communicate()  # forked from a process without threads
    assert out.splitlines() == [
        "0 False experiments (lightrail fit --c",
        "2 False lightrail: error: there is no ",
        "-9 True ",
        "77 False Traceback (most recent call la",
    ], err


def test_some_inputs_end_as_they_should(tmp_path: Path) -> None:
    kinds = ["configuration", "settings", "data"]
    arguments = ["--inputs", NUM_INPUTS, "--seed", 5, "--timeout", 300, "--folder", tmp_path, "--kinds", *kinds]
    child = Child(arguments, program=FUZZ)
    out, err = child.communicate()
    assert child.returncode == 0, out + err
    whole = re.search(r"^all +(\d+) +(\d+) .* (\d+) +[\d.]+$", out, re.MULTILINE)
    assert whole is not None, out
    assert int(whole[1]) + int(whole[2]) == int(whole[3]) == NUM_INPUTS
    assert out.rstrip().endswith("0 distinct findings")
