"""`lightrail resume`: an interrupted run ends like an uninterrupted one; a refused resume leaves it unchanged."""

import errno
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lightrail.project.basics.errors import ConfigError
from lightrail.project.cli import main
from lightrail.project.configuration import parse
from lightrail.project.running import fitting
from lightrail.project.running.build import Experiment, build
from lightrail.project.training.checkpoints import DurableCheckpointIO
from tests.support.callbacks import ALLOW, EVERY_STEP
from tests.support.running import Fitted, Outcome, RecordedRun, lightrail, runs_in, same_weights


@pytest.fixture
def arguments(fitted_classifier: Fitted, store: str, tmp_path: Path) -> list[str]:
    """Of the classifier's run, which is interrupted here after its third step."""
    stop = ["--trainer.callbacks=Interrupt", f"--trainer.callbacks.marker={tmp_path}/marker"]
    return [*fitted_classifier.arguments, f"--tracking.uri={store}", ALLOW, EVERY_STEP, *stop]


@pytest.fixture
def interrupted(arguments: list[str], store: str) -> RecordedRun:
    assert main(["fit", *arguments]) == 130
    (run,) = runs_in(store)
    return run


def resume(run: RecordedRun, *more: str) -> Outcome:
    return lightrail("resume", run.run_id, f"--tracking.uri={run.store}", ALLOW, *more)


def points(run: RecordedRun) -> Iterator[tuple[str, list[int]]]:
    for name in run.metrics:
        yield name, [step for step, _ in run.history(name)]


def test_an_interrupted_run_ends_as_if_nothing_had_been(interrupted: RecordedRun, fitted_classifier: Fitted) -> None:
    assert interrupted.status == "KILLED"
    params = interrupted.params
    outcome = resume(interrupted)
    assert outcome.status == 0, outcome.err
    assert outcome.last_line.startswith(f"run {interrupted.run_id} finished: ")
    assert outcome.metrics == fitted_classifier.outcome.metrics
    assert [run.run_id for run in runs_in(interrupted.store)] == [interrupted.run_id]
    assert interrupted.status == "FINISHED"
    assert same_weights(interrupted, fitted_classifier)
    assert interrupted.histories() == fitted_classifier.histories()
    assert interrupted.predictions.equals(fitted_classifier.predictions)
    assert interrupted.params == params
    assert interrupted.tags["lightrail.resumed"] == "1"
    for name, steps in points(interrupted):
        assert steps == sorted(set(steps)), name


def test_a_run_is_resumed_in_a_project_folder_that_was_moved(
    interrupted: RecordedRun, tmp_path: Path, fitted_classifier: Fitted
) -> None:
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("mlflow.db", "mlruns"):
        (tmp_path / name).rename(moved / name)
    run = RecordedRun(f"sqlite:///{moved}/mlflow.db", interrupted.run_id)
    outcome = resume(run)
    assert outcome.status == 0, outcome.err
    assert run.directory.is_relative_to(moved)
    assert same_weights(run, fitted_classifier)
    here, output = f"--tracking.uri={run.store}", f"--output={tmp_path}/predictions.jsonl"
    data = f"--data.path={fitted_classifier.folder}/test.jsonl"
    for command in (
        ["predict", f"--ckpt_path=runs:/{run.run_id}", data, output, here, ALLOW],
        ["reproduce", run.run_id, "--check_only", here, ALLOW],
        ["clean", "--yes", here],
    ):
        assert lightrail(*command).status == 0
    assert not (tmp_path / "mlruns").exists()


def test_learning_curves_of_a_resumed_run_are_of_the_whole_run(
    interrupted: RecordedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, list[tuple[int, float]]] = {}
    monkeypatch.setattr("lightrail.project.figures.run_figures.learning_curves", lambda own, *_: drawn.update(own))
    resume(interrupted)
    assert [step for step, _ in drawn["train/loss"]] == [1, 2, 3, 4]


def test_a_run_that_ended_before_its_first_checkpoint_restarts(
    arguments: list[str], store: str, fitted_classifier: Fitted
) -> None:
    assert main(["fit", *arguments, "--trainer.callbacks.step=1", "--tracking.checkpoint.every_minutes=60"]) == 130
    (run,) = runs_in(store)
    assert not (run.directory / "checkpoints" / "last.ckpt").exists()
    assert resume(run).status == 0
    assert run.histories() == fitted_classifier.histories()


def test_a_checkpoint_names_its_run(interrupted: RecordedRun) -> None:
    assert interrupted.checkpoint("last")["run"]["id"] == interrupted.run_id
    beside = json.loads((interrupted.directory / "checkpoints" / "run.json").read_text())
    assert interrupted.run_id in beside.values()
    checkpoint = str(interrupted.directory / "checkpoints" / "last.ckpt")
    outcome = lightrail("resume", checkpoint, f"--tracking.uri={interrupted.store}", ALLOW)
    assert outcome.run_id == interrupted.run_id


def test_what_a_killed_process_left_of_a_checkpoint_is_removed(interrupted: RecordedRun) -> None:
    unfinished = interrupted.directory / "checkpoints" / "last.ckpt.unfinished"
    unfinished.write_bytes(b"half")
    resume(interrupted)
    assert not unfinished.exists()


def test_a_changed_setting_counts_and_is_recorded_with_old_and_new_value(interrupted: RecordedRun) -> None:
    outcome = resume(interrupted, "--model.optim.lr=0.5", "--trainer.max_steps=6", "--model.optim.schedule=constant")
    assert outcome.status == 0, outcome.err
    tags = interrupted.tags
    assert tags["lightrail.changed.model.init_args.optim.lr"] == "0.01 -> 0.5 at step 3"
    assert tags["lightrail.changed.trainer.max_steps"] == "4 -> 6 at step 3"
    assert interrupted.params["model.init_args.optim.lr"] == "0.01", "params are those of the start"
    rates = dict(interrupted.history("train/learning_rate"))
    assert list(rates) == [1, 2, 3, 4, 5, 6]
    assert rates[3] < 0.5
    assert rates[4] == rates[6] == 0.5
    now = yaml.safe_load((interrupted.directory / "config.resumed.yaml").read_text())
    assert now["trainer"]["max_steps"] == 6
    before = yaml.safe_load((interrupted.directory / "config.yaml").read_text())
    assert before["trainer"]["max_steps"] == 4


def test_a_change_outlives_an_interruption_before_the_next_checkpoint(interrupted: RecordedRun) -> None:
    marker = interrupted.directory.parent / "second"
    stop = ["--trainer.callbacks.step=3", f"--trainer.callbacks.marker={marker}"]
    assert main(["resume", interrupted.run_id, f"--tracking.uri={interrupted.store}", ALLOW, *stop, LR]) == 130
    assert interrupted.checkpoint("last")["global_step"] == 3
    assert resume(interrupted).status == 0
    assert dict(interrupted.history("train/learning_rate"))[4] == pytest.approx(0.5 / 3)


LR = "--model.optim.lr=0.5"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("--seed_everything=1", r"seed_everything was 0 and is 1: a resumed run cannot change it"),
        ("--model.optim.optimizer=sgd", r"optim.optimizer was adamw and is sgd"),
        ("--model.encoder.width=32", r"its weights do not fit this model, in which model.encoder differs"),
        ("--data.batch.size=2", r"cannot be resumed in the middle of an epoch: num_batches was 2 and is 4"),
        ("--model.optim.lrr=1", r"no such setting. Did you mean"),
    ],
)
def test_what_cannot_change_is_refused_and_the_run_stays_as_it_was(
    interrupted: RecordedRun, change: str, message: str
) -> None:
    before = (interrupted.tags, interrupted.metrics, interrupted.status)
    outcome = resume(interrupted, change)
    assert outcome.status == 2
    assert re.search(message, outcome.err), outcome.err
    assert (interrupted.tags, interrupted.metrics, interrupted.status) == before


def test_a_checkpoint_of_weights_alone_is_refused_and_the_run_stays_as_it_was(interrupted: RecordedRun) -> None:
    before = (interrupted.tags, interrupted.metrics, interrupted.status)
    whole = interrupted.checkpoint("last")
    for name in ("optimizer_states", "lr_schedulers", "loops", "loss_window"):
        left = {key: value for key, value in whole.items() if key != name}
        torch.save(left, interrupted.directory / "checkpoints" / "last.ckpt")
        outcome = resume(interrupted)
        assert outcome.status == 2
        assert f"last.ckpt has no {name}, without which a training cannot be resumed." in outcome.err
    progress = whole["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    progress["total"]["completed"] = []  # as damage leaves it; Lightning adds to it in the training
    torch.save(whole, interrupted.directory / "checkpoints" / "last.ckpt")
    outcome = resume(interrupted)
    assert outcome.status == 2
    assert "last.ckpt cannot be resumed: its count of completed is []." in outcome.err
    assert (interrupted.tags, interrupted.metrics, interrupted.status) == before


def test_other_data_is_refused(interrupted: RecordedRun, tmp_path: Path, fitted_classifier: Fitted) -> None:
    text = (fitted_classifier.folder / "train.jsonl").read_text()
    (tmp_path / "train.jsonl").write_text(text.replace("so good it is", "so good is it"))
    outcome = resume(interrupted, f"--data.path={tmp_path}/train.jsonl")
    assert outcome.status == 2
    assert "the train split has changed since run" in outcome.err
    (tmp_path / "moved.jsonl").write_text(text)
    assert resume(interrupted, f"--data.path={tmp_path}/moved.jsonl").status == 0, "the same content elsewhere is fine"


def test_a_finished_run_is_refused(interrupted: RecordedRun) -> None:
    assert resume(interrupted).status == 0
    outcome = resume(interrupted)
    assert (outcome.status, interrupted.status) == (2, "FINISHED")
    assert f"run {interrupted.run_id} is finished" in outcome.err


def test_a_run_that_was_killed_during_its_start_needs_a_new_run(interrupted: RecordedRun) -> None:
    (interrupted.directory / "config.yaml").unlink()
    outcome = resume(interrupted)
    assert outcome.status == 2
    assert "has no config.yaml: it ended during its start" in outcome.err


def test_a_tested_run_cannot_change_any_more(interrupted: RecordedRun) -> None:
    assert resume(interrupted).status == 0
    interrupted.client.set_terminated(interrupted.run_id, "FAILED")  # as if killed between its test and its end
    outcome = resume(interrupted, "--trainer.max_steps=8")
    assert outcome.status == 2
    assert "has already been tested: trainer.max_steps can no longer change" in outcome.err
    assert resume(interrupted).status == 0
    assert [step for step, _ in interrupted.history("test/loss")] == [0]


def test_an_early_stop_is_not_forgotten_but_may_be_changed(arguments: list[str], store: str, tmp_path: Path) -> None:
    stop = "[{class_path: EarlyStopping, init_args: {monitor: val/loss, mode: max, patience: 1}}, " + (
        f"{{class_path: Interrupt, init_args: {{step: 99, marker: {tmp_path}/no}}}}]"
    )
    frequent = ["--trainer.val_check_interval=1", "--trainer.max_steps=9", f"--trainer.callbacks={stop}"]
    done = lightrail("fit", *arguments, *frequent)
    run = RecordedRun(store, done.run_id)
    assert [step for step, _ in run.history("val/loss")] == [1, 2]
    run.client.set_terminated(run.run_id, "FAILED")
    assert resume(run).metrics == done.metrics
    assert [step for step, _ in run.history("val/loss")] == [1, 2]


def test_overfitting_and_more_accumulation_than_batches_as_older_versions_had_are_resumed(
    arguments: list[str], store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = ["--trainer.overfit_batches=2", "--trainer.accumulate_grad_batches=3", "--trainer.val_check_interval=2"]
    with monkeypatch.context() as patch:
        patch.setattr("lightrail.project.running.build.check_limits", lambda *_, **__: None)
        whole = lightrail("fit", *arguments, *old, "--trainer.callbacks=null")
        assert main(["fit", *arguments, *old]) == 130
    assert lightrail("fit", *arguments, *old).status == 2
    run = next(run for run in runs_in(store) if run.status == "KILLED")
    assert resume(run).metrics == whole.metrics
    assert same_weights(run, RecordedRun(store, whole.run_id))


def test_a_full_disk_fails_the_run_and_leaves_the_checkpoint_before(
    fitted_classifier: Fitted, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []

    def save(content: object, stream: Any) -> None:
        if stream.name.endswith("last.ckpt.unfinished"):
            written.append(stream.name)
        if len(written) == 3:
            stream.write(b"as much as there was room for")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(content, stream)

    write = torch.save
    monkeypatch.setattr(torch, "save", save)
    outcome = lightrail("fit", *fitted_classifier.arguments, f"--tracking.uri={store}", EVERY_STEP)
    said = "lightrail: error: the disk is full: [Errno 28] No space left on device. Free space, then resume the run."
    assert (outcome.status, outcome.err.splitlines()[-1]) == (1, said)
    monkeypatch.setattr(torch, "save", write)
    (run,) = runs_in(store)
    assert (run.status, run.tags["lightrail.error"]) == ("FAILED", "OSError: [Errno 28] No space left on device")
    assert run.checkpoint("last")["global_step"] == 2
    assert resume(run).status == 0
    assert same_weights(run, fitted_classifier)
    assert run.histories() == fitted_classifier.histories()


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ([], "which run"),
        (["--tracking.uri=x"], "which run"),
        (["0123456789"], "no run '0123456789'"),
        (["README.md"], "not a checkpoint"),
    ],
)
def test_a_run_that_is_not_named_rightly_is_refused(store: str, named: list[str], message: str) -> None:
    uri = [f"--tracking.uri={store}"] if named and not named[0].startswith("--") else []
    outcome = lightrail("resume", *named, *uri)
    assert outcome.status == 2
    assert message in outcome.err


def test_the_best_weights_under_averaging_are_those_that_were_validated(arguments: list[str], store: str) -> None:
    average = ["--trainer.callbacks=EMAWeightAveraging", "--trainer.callbacks.decay=0.5", "--trainer.max_steps=6"]
    run = RecordedRun(store, lightrail("fit", *arguments, *average).run_id)
    best = run.checkpoint("best")
    assert not all(torch.equal(best["state_dict"][name], value) for name, value in best["current_model_state"].items())
    again = lightrail("validate", f"--ckpt_path=runs:/{run.run_id}", f"--tracking.uri={store}", ALLOW)
    validated = {line.split()[0]: float(line.split()[1]) for line in again.out.splitlines() if line.startswith("val/")}
    step = best["global_step"]
    assert validated["val/loss"] == pytest.approx(dict(run.history("val/loss"))[step], abs=1e-6)
    tested = lightrail("test", f"--ckpt_path=runs:/{run.run_id}", f"--tracking.uri={store}", ALLOW)
    assert tested.metrics["test/loss"] == pytest.approx(run.metrics["test/loss"], abs=5.1e-5)


def test_weights_that_do_not_fit_are_named_with_their_file(
    fitted_classifier: Fitted, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(experiment: Experiment) -> str:
        checkpoint = torch.load(best(experiment) or "", weights_only=True)
        checkpoint["state_dict"]["encoder.embedding.tokens.weight"] = "much more than a number"
        torch.save(checkpoint, tmp_path / "bad.ckpt")
        return str(tmp_path / "bad.ckpt")

    best = fitting._best
    monkeypatch.setattr(fitting, "_best", damaged)
    outcome = lightrail("fit", *fitted_classifier.arguments, f"--tracking.uri={store}")

    assert outcome.status == 2
    assert f"{tmp_path}/bad.ckpt: its weights do not fit the model: While copying the parameter" in outcome.err
    (run,) = runs_in(store)
    assert run.status == "FAILED"


def test_a_checkpoint_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "best.ckpt")
    with pytest.raises(ConfigError, match=r"best\.ckpt is a pipe"):
        DurableCheckpointIO({}).load_checkpoint(tmp_path / "best.ckpt")


@pytest.mark.parametrize("part", ["loops", "optimizer_states", "lr_schedulers"])
def test_a_damaged_state_of_training_is_refused_with_its_file(
    interrupted: RecordedRun, fitted_classifier: Fitted, tmp_path: Path, part: str
) -> None:
    checkpoint = interrupted.checkpoint("last")
    own = checkpoint[part]
    checkpoint[part] = {key: {"state_dict": "text"} for key in own} if part == "loops" else ["text"]
    torch.save(checkpoint, tmp_path / "bad.ckpt")
    experiment = build(parse([*fitted_classifier.arguments, "--trainer.max_steps=9"]), "fit")
    with (
        pytest.raises(ConfigError, match=r"bad\.ckpt: its training state cannot be restored: .+ may be damaged"),
        fitting._restoring(tmp_path / "bad.ckpt"),
    ):
        experiment.trainer.fit(
            experiment.model, datamodule=experiment.data, ckpt_path=tmp_path / "bad.ckpt", weights_only=True
        )
