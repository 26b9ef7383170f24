"""`lightrail fit --seeds N`: a parent that tells mean and standard deviation, and can be gone on with."""

import csv
import re
import statistics
from pathlib import Path

import pytest

from lightrail.project.cli import main
from tests.support.callbacks import ALLOW, EVERY_STEP
from tests.support.running import Fitted, RecordedRun, lightrail, runs_in


@pytest.fixture
def arguments(fitted_classifier: Fitted, store: str) -> list[str]:
    return [*fitted_classifier.arguments, f"--tracking.uri={store}", ALLOW, EVERY_STEP]


def children(store: str, parent: str) -> list[RecordedRun]:
    return [run for run in runs_in(store) if run.tags.get("mlflow.parentRunId") == parent]


@pytest.mark.pictures
def test_the_parent_has_mean_and_deviation_of_its_runs(
    arguments: list[str], store: str, fitted_classifier: Fitted
) -> None:
    outcome = lightrail("fit", *arguments, "--seeds=3")
    parent = RecordedRun(store, outcome.run_id)
    runs = children(store, parent.run_id)
    assert [run.tags["lightrail.seed"] for run in runs] == ["0", "1", "2"]
    assert {run.status for run in (parent, *runs)} == {"FINISHED"}
    assert runs[0].histories() == fitted_classifier.histories(), "a run of a group is a run like any other"
    losses = [run.metrics["test/loss"] for run in runs]
    assert len(set(losses)) == 3
    assert parent.metrics["test/loss"] == pytest.approx(statistics.fmean(losses))
    assert parent.metrics["test/loss_sd"] == pytest.approx(statistics.stdev(losses))
    assert outcome.metrics == pytest.approx(dict(parent.metrics), abs=5.1e-5)
    table = list(csv.DictReader((parent.directory / "seeds.csv").read_text().splitlines()))
    assert [row["run_id"] for row in table] == [run.run_id for run in runs]
    assert [float(row["test/loss"]) for row in table] == losses
    assert (parent.directory / "figures" / "seeds.png").read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_built_is_refused_before_the_parent_exists(arguments: list[str], store: str) -> None:
    outcome = lightrail("fit", *arguments, "--seeds=2", "--trainer.limit_val_batches=0.0001")
    assert outcome.status == 2
    assert "limit_val_batches is 0.0001" in outcome.err
    assert not runs_in(store)


def test_an_interrupted_group_is_resumed(arguments: list[str], store: str, tmp_path: Path) -> None:
    whole = lightrail("fit", *arguments, "--seeds=3", "--tracking.experiment=whole")
    marker = tmp_path / "markers"
    marker.mkdir()
    stop = ["--trainer.callbacks=InterruptSeed", f"--trainer.callbacks.folder={marker}"]
    assert main(["fit", *arguments, *stop, "--seeds=3"]) == 130
    parent, *_ = [run for run in runs_in(store) if run.status == "KILLED"]
    assert parent.tags["lightrail.kind"] == "seeds"
    assert [run.status for run in children(store, parent.run_id)] == ["FINISHED", "KILLED"]
    outcome = lightrail("resume", parent.run_id, f"--tracking.uri={store}", ALLOW)
    assert outcome.metrics == whole.metrics
    assert outcome.run_id == parent.run_id
    assert [run.status for run in children(store, parent.run_id)] == ["FINISHED"] * 3


def test_a_seed_that_was_killed_during_its_start_is_restarted(arguments: list[str], store: str) -> None:
    whole = lightrail("fit", *arguments, "--seeds=2")
    client = RecordedRun(store, whole.run_id).client
    half = children(store, whole.run_id)[1]
    (half.directory / "config.yaml").unlink()
    for run_id in (half.run_id, whole.run_id):
        client.set_terminated(run_id, "FAILED")
    outcome = lightrail("resume", whole.run_id, f"--tracking.uri={store}", ALLOW)
    assert outcome.status == 0, outcome.err
    assert outcome.metrics == whole.metrics
    assert [run.status for run in children(store, whole.run_id)] == ["FINISHED", "FAILED", "FINISHED"]


def test_a_group_takes_no_changes(arguments: list[str], store: str) -> None:
    run_id = lightrail("fit", *arguments, "--seeds=2").run_id
    outcome = lightrail("resume", run_id, f"--tracking.uri={store}", ALLOW, "--trainer.max_steps=8")
    assert outcome.status == 2
    assert "share their settings" in outcome.err


@pytest.mark.parametrize("number", ["1", "0", "-3", "x"])
def test_a_number_of_seeds_that_is_none_is_refused(arguments: list[str], store: str, number: str) -> None:
    outcome = lightrail("fit", *arguments, f"--seeds={number}")
    assert outcome.status == 2
    assert re.search(f"--seeds '?{number}'?: give ", outcome.err)
    assert not runs_in(store)
