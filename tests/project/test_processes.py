"""The real command in processes of its own: several that train one run, and one that is told to stop."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.callbacks import ALLOW
from tests.support.children import Child, wait_for
from tests.support.running import FOUR_STEPS, QUIET, RecordedRun, lightrail, runs_in
from tests.support.tasks.pinyin import TINY, write_sentences


@pytest.fixture
def command(tmp_path: Path, store: str) -> list[str]:
    """Arguments of a fit without dropout, which would differ between processes."""
    still = ["--model.encoder.dropout=0", "--model.encoder.ngram_dropout=0", f"--tracking.uri={store}"]
    return ["fit", *TINY, *write_sentences(tmp_path), *FOUR_STEPS, *QUIET, *still]


OBSERVED = """
import atexit, os, pathlib, sys
import torch.distributed

def note():
    pathlib.Path(os.environ.get("LOCAL_RANK", "0")).write_text(f"in a group: {torch.distributed.is_initialized()}")

atexit.register(note)
from lightrail.project.cli import main

sys.exit(main())
"""
"""The command, and a note at its very end, in a file by the process's rank."""


def test_two_processes_make_one_run_with_the_numbers_of_one_process(
    tmp_path: Path, store: str, command: list[str]
) -> None:
    ddp = ["--trainer.devices=2", "--trainer.strategy=ddp", "--data.batch.size=3"]
    program = tmp_path / "observed.py"
    program.write_text(OBSERVED)
    started = [sys.executable, str(program), *command, *ddp]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    process = subprocess.run(started, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    shown = process.stdout
    assert process.returncode == 0, process.stderr
    for rank in "01":
        assert (tmp_path / rank).read_text() == "in a group: False", "gloo's threads may abort it otherwise"
    (run,) = runs_in(store)
    assert run.status == "FINISHED"
    assert [line.split()[:3] for line in shown.splitlines() if line.startswith("run ")] == [
        ["run", run.run_id, "finished:"]
    ]
    alone = RecordedRun(store, lightrail(*command, "--data.batch.size=3").run_id)
    assert [step for step, _ in run.history("train/loss")] == [1, 2, 3, 4]
    assert run.histories().keys() == alone.histories().keys()
    for name, points in alone.histories().items():
        assert [step for step, _ in run.history(name)] == [step for step, _ in points]
        assert [value for _, value in run.history(name)] == pytest.approx([value for _, value in points], rel=1e-5), (
            name
        )
    found, expected = run.predictions.to_pydict(), alone.predictions.to_pydict()
    for name in ("id", "target", "prediction", "pinyin"):
        assert found[name] == expected[name]
    for name in ("score", "loss"):
        assert found[name] == pytest.approx(expected[name], rel=1e-5)
    assert {file.name for file in (run.directory / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt", "run.json"}


def test_two_processes_are_stopped_at_one_step_and_resume_as_two_and_as_one(
    tmp_path: Path, store: str, command: list[str]
) -> None:
    slow = [ALLOW, "--trainer.callbacks=Slow", "--trainer.callbacks.seconds=0.15", "--trainer.max_steps=60"]
    rest = [
        *slow,
        "--tracking.checkpoint.every_minutes=60",
        "--trainer.val_check_interval=1000",
        "--model.optim.schedule=constant",
    ]
    two = ["--trainer.devices=2", "--trainer.strategy=ddp"]
    done = stop_after_a_step(Child([*command, *rest, *two], folder=tmp_path), store)
    (run,) = runs_in(store)
    resume = ["resume", run.run_id, f"--tracking.uri={store}", ALLOW]
    assert stop_after_a_step(Child([*resume, "--trainer.devices=2"], folder=tmp_path), store, done) < 60
    assert "lightrail.changed.trainer.devices" not in run.tags
    outcome = lightrail(*resume, "--trainer.devices=1", "--trainer.strategy=auto")
    assert outcome.last_line.startswith(f"run {run.run_id} finished: "), outcome.err
    assert [step for step, _ in run.history("train/loss")] == list(range(1, 61))
    assert "lightrail.changed.trainer.devices" in run.tags
    alone = RecordedRun(store, lightrail(*command, *rest, "--trainer.callbacks.seconds=0").run_id)
    values, expected = ([value for _, value in own.history("train/loss")] for own in (run, alone))
    assert values == pytest.approx(expected, rel=1e-4)


def stop_after_a_step(process: Child, store: str, done: int = 0) -> int:
    """Send SIGTERM to the first process of the only run alone, and check that it stopped at a step with a checkpoint.

    Args:
        done: steps that the run had before.

    Returns: steps that it has now.
    """
    wait_for_a_metric(store, process, done)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    (run,) = runs_in(store)
    assert run.status == "KILLED"
    steps = [step for step, _ in run.history("train/loss")]
    assert run.checkpoint("last")["global_step"] == len(steps) > done
    return len(steps)


def test_ctrl_c_reaches_loader_workers_too_and_yet_the_step_is_finished(
    tmp_path: Path, store: str, command: list[str]
) -> None:
    slow = [ALLOW, "--trainer.callbacks=Slow", "--tracking.checkpoint.every_minutes=60", "--trainer.max_steps=1000"]
    parts = ["--trainer.accumulate_grad_batches=4", "--data.batch.size=1", "--data.batch.num_workers=2"]
    arguments = [*command, *slow, *parts, "--trainer.val_check_interval=1000"]
    process = Child(arguments, folder=tmp_path, starts_session=True)
    wait_for_a_metric(store, process)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130, errors
    assert errors.count("stopping after this step") == 1
    (run,) = runs_in(store)
    assert run.status == "KILLED", run.tags
    assert run.checkpoint("last")["global_step"] == len(run.history("train/loss"))


def test_several_seeds_train_on_two_processes(tmp_path: Path, store: str, command: list[str]) -> None:
    process = Child([*command, "--trainer.devices=2", "--trainer.strategy=ddp", "--seeds=2"], folder=tmp_path)
    shown, errors = process.communicate()
    assert process.returncode == 0, errors
    assert len([line for line in shown.splitlines() if line.startswith("run ")]) == 1
    kinds = {run.run_id: (run.tags["lightrail.kind"], run.status) for run in runs_in(store)}
    assert sorted(kinds.values()) == [("fit", "FINISHED"), ("fit", "FINISHED"), ("seeds", "FINISHED")]
    assert kinds[shown.split("run ")[1].split()[0]][0] == "seeds"


def test_sigterm_leaves_a_killed_run_with_all_its_metrics(tmp_path: Path, store: str, command: list[str]) -> None:
    endless = ["--trainer.max_steps=100000000", "--trainer.val_check_interval=1000"]
    process = Child([*command, *endless], folder=tmp_path)
    wait_for_a_metric(store, process)
    process.send_signal(signal.SIGTERM)
    shown, _ = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert shown == ""
    (run,) = runs_in(store)
    assert run.status == "KILLED"
    steps = [step for step, _ in run.history("train/loss")]
    assert steps == list(range(1, len(steps) + 1))
    assert run.checkpoint("last")["global_step"] == len(steps), "a checkpoint, then the end"
    assert "lightrail.error" not in run.tags
    assert not any(name.startswith("test/") for name in run.metrics)


def wait_for_a_metric(store: str, process: Child, done: int = 0) -> None:
    wait_for(lambda: any(len(run.history("train/loss")) > done for run in runs_in(store)), process)
