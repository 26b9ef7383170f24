"""A run's best weights are calibrated once, in the file that everything else reads."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightrail.lightning_modules.base import TaskModule
from lightrail.lightning_modules.checkpoint import read_checkpoint
from lightrail.lightning_modules.text_classification import TextClassifier
from lightrail.project.running import fitting as calibration
from lightrail.project.training.checkpoints import store_buffers
from tests.support.children import Child
from tests.support.running import FOUR_STEPS, QUIET, RecordedRun, lightrail, runs_in
from tests.support.tasks.text_classification import write_texts

TEMPERATURE = "head.temperature"


@pytest.fixture
def command(tmp_path: Path, store: str) -> list[str]:
    """A training without dropout whose validation texts contradict each other, so that some answers are wrong."""
    sizes = ["width=16", "depth=1", "num_heads=2", "ngram_orders=[]", "dropout=0"]
    network = [*(f"--model.encoder.{size}" for size in sizes), "--model.optim.lr=0.02", "--model.dropout=0"]
    data = [*write_texts(tmp_path), "--data.tokenizer=words", "--data.min_count=1"]
    rows = [{"text": text, "label": label} for text in ("good", "dull", "fine film") for label in ("+", "+", "-")]
    (tmp_path / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return [*data, *network, *FOUR_STEPS, *QUIET, f"--tracking.uri={store}"]


def temperature(run: RecordedRun, name: Any = "best") -> float:
    return float(run.weights(name)[TEMPERATURE])


def test_the_best_weights_are_kept_with_their_temperature(store: str, command: list[str]) -> None:
    run = RecordedRun(store, lightrail("fit", *command, "--trainer.val_check_interval=3").run_id)
    assert temperature(run) not in (1.0, 0.0)
    assert temperature(run, "last") == 1.0, "training goes on from weights that nothing is calibrated with"
    assert run.history("calibration/temperature") == [(0, temperature(run))]
    assert run.metrics["calibration/ece_before"] >= 0
    assert [step for step, _ in run.history("val/loss")] == [3], "the pass for calibration is no validation"
    best = run.checkpoint("best")
    assert {"configuration", "run", "task", "loops"} <= best.keys()
    assert best["run"]["id"] == run.run_id


def test_the_test_and_later_commands_predict_calibrated_probabilities(
    tmp_path: Path, store: str, command: list[str]
) -> None:
    run = RecordedRun(store, lightrail("fit", *command).run_id)
    model = TextClassifier.load_from_checkpoint(run.directory / "checkpoints" / "best.ckpt").eval()
    scores = run.predictions["score"].to_numpy()
    output = tmp_path / "answers.jsonl"
    asked = [
        f"--ckpt_path=runs:/{run.run_id}",
        f"--data.path={tmp_path}/test.jsonl",
        f"--output={output}",
        f"--tracking.uri={store}",
    ]
    assert lightrail("predict", *asked, *QUIET).status == 0
    answered = [json.loads(line)["score"] for line in output.read_text().splitlines()]
    assert answered == pytest.approx(scores.tolist(), rel=1e-5)
    probabilities = np.stack(list(run.predictions["probabilities"].to_numpy()))
    raw = torch.tensor(probabilities).log().mul(float(model.head.temperature)).softmax(-1)
    assert not np.allclose(raw.amax(-1), scores, atol=1e-4), "a temperature of 1 would show nothing"


def test_two_processes_calibrate_as_one_does(tmp_path: Path, store: str, command: list[str]) -> None:
    alone = RecordedRun(store, lightrail("fit", *command, "--data.batch.size=3").run_id)
    two = ["--trainer.devices=2", "--trainer.strategy=ddp"]
    process = Child(["fit", *command, "--data.batch.size=3", *two], folder=tmp_path)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    run = runs_in(store)[-1]
    assert run.run_id != alone.run_id
    assert temperature(run) == pytest.approx(temperature(alone), rel=1e-3)
    assert run.metrics["test/loss"] == pytest.approx(alone.metrics["test/loss"], rel=1e-4)
    assert run.metrics["test/ece"] == pytest.approx(alone.metrics["test/ece"], rel=1e-3)


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize("is_written", [False, True])
def test_a_run_that_ends_while_it_is_calibrated_is_resumed_to_the_same_end(
    store: str, command: list[str], monkeypatch: pytest.MonkeyPatch, is_written: bool
) -> None:
    whole = RecordedRun(store, lightrail("fit", *command).run_id)

    def end(model: TaskModule, path: Path) -> None:
        if is_written:
            store_buffers(model, path)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(calibration, "store_buffers", end)
        assert lightrail("fit", *command).status == 130
    run = runs_in(store)[-1]
    assert (temperature(run) != 1.0) is is_written
    assert lightrail("resume", run.run_id, f"--tracking.uri={store}").status == 0
    assert run.status == "FINISHED"
    assert temperature(run) == temperature(whole)
    assert run.history("calibration/temperature") == whole.history("calibration/temperature")
    assert run.metrics["test/loss"] == whole.metrics["test/loss"]


def test_without_checkpoints_the_weights_as_they_are_become_calibrated(store: str, command: list[str]) -> None:
    kept = RecordedRun(store, lightrail("fit", *command).run_id)
    run = RecordedRun(store, lightrail("fit", *command, "--trainer.enable_checkpointing=false").run_id)
    assert not (run.directory / "checkpoints" / "best.ckpt").exists()
    assert run.metrics["calibration/temperature"] != 1.0
    assert run.metrics["test/loss"] > 0
    assert kept.metrics.keys() == run.metrics.keys()


def test_buffers_are_stored_beside_weights_that_stay_as_they_are(
    tmp_path: Path, store: str, command: list[str]
) -> None:
    run = RecordedRun(store, lightrail("fit", *command).run_id)
    path = run.directory / "checkpoints" / "best.ckpt"
    before = read_checkpoint(path)
    model = TextClassifier.load_from_checkpoint(path)
    model.head.temperature.fill_(3.0)
    store_buffers(model, path)
    after = read_checkpoint(path)
    assert float(after["state_dict"][TEMPERATURE]) == 3.0
    for name, value in before["state_dict"].items():
        assert name == TEMPERATURE or torch.equal(after["state_dict"][name], value)
    assert after.keys() == before.keys()
    assert after["configuration"] == before["configuration"]
    assert {file.name for file in path.parent.iterdir()} == {"best.ckpt", "last.ckpt", "run.json"}
