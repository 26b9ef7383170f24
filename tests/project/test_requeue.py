"""`lightrail fit` in a SLURM job that was queued again goes on with the run it began."""

import os
import signal
from pathlib import Path

import pytest

from lightrail.project.cli import main
from lightrail.project.running import training_length
from tests.support.callbacks import ALLOW, EVERY_STEP
from tests.support.running import Fitted, Outcome, RecordedRun, lightrail, runs_in, same_weights


@pytest.fixture
def arguments(fitted_classifier: Fitted, store: str, tmp_path: Path) -> list[str]:
    stop = ["--trainer.callbacks=Interrupt", f"--trainer.callbacks.marker={tmp_path}/marker"]
    return [*fitted_classifier.arguments, f"--tracking.uri={store}", ALLOW, EVERY_STEP, *stop]


@pytest.fixture(autouse=True)
def _in_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "417")


def again(arguments: list[str], monkeypatch: pytest.MonkeyPatch, *more: str) -> Outcome:
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    return lightrail("fit", *arguments, *more)


def test_the_job_resumes_its_run(
    arguments: list[str], store: str, monkeypatch: pytest.MonkeyPatch, fitted_classifier: Fitted
) -> None:
    assert main(["fit", *arguments]) == 130
    outcome = again(arguments, monkeypatch)
    (run,) = runs_in(store)
    assert outcome.run_id == run.run_id
    assert run.status == "FINISHED"
    assert run.tags["lightrail.slurm_job"] == "417"
    assert same_weights(run, fitted_classifier)
    assert run.histories() == fitted_classifier.histories()


def test_the_job_resumes_its_run_whose_length_was_chosen(
    arguments: list[str], store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_length, "MOST", 2)
    open_end = [*arguments, "--trainer.max_steps=-1"]
    assert main(["fit", *open_end]) == 130
    outcome = again(open_end, monkeypatch)
    (run,) = runs_in(store)
    assert (outcome.run_id, run.status, run.params["trainer.max_epochs"]) == (run.run_id, "FINISHED", "2")
    assert not [tag for tag in run.tags if tag.startswith("lightrail.changed.")]


def test_what_the_job_has_finished_is_shown_and_not_trained_again(
    arguments: list[str], store: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "marker").touch()
    first = lightrail("fit", *arguments)
    assert again(arguments, monkeypatch).out == first.out
    assert len(runs_in(store)) == 1
    assert again(arguments, monkeypatch, "--seed_everything=1").run_id != first.run_id, "another configuration is new"


def test_a_run_that_was_killed_during_its_start_is_restarted(
    arguments: list[str], store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["fit", *arguments]) == 130
    (half,) = runs_in(store)
    (half.directory / "config.yaml").unlink()
    outcome = again(arguments, monkeypatch)
    assert outcome.status == 0, outcome.err
    assert outcome.run_id != half.run_id


def test_another_job_starts_its_own_run(arguments: list[str], store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["fit", *arguments]) == 130
    monkeypatch.setenv("SLURM_JOB_ID", "418")
    again(arguments, monkeypatch)
    assert sorted(run.status for run in runs_in(store)) == ["FINISHED", "KILLED"]


def test_a_first_start_looks_for_nothing(arguments: list[str], store: str) -> None:
    assert main(["fit", *arguments]) == 130
    assert lightrail("fit", *arguments).status == 0
    assert len(runs_in(store)) == 2


def test_the_warning_signal_leaves_a_run_that_is_resumed(
    arguments: list[str], store: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fitted_classifier: Fitted
) -> None:
    (tmp_path / "marker").touch()
    (tmp_path / "scontrol").write_text("#!/bin/sh\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    warn = ["--trainer.callbacks=WarnAt", "--trainer.callbacks.step=2"]
    with pytest.raises(SystemExit) as left:
        main(["fit", *arguments, *warn])
    assert left.value.code == 128 + signal.SIGTERM
    (run,) = runs_in(store)
    assert (run.status, run.checkpoint("last")["global_step"]) == ("KILLED", 2)
    assert again(arguments, monkeypatch, *warn).status == 0
    assert same_weights(RecordedRun(store, run.run_id), fitted_classifier)
