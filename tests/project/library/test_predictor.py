"""A loaded model gives what `lightrail predict` and `lightrail generate` give."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

import lightrail
from lightrail.lightning_modules.text_classification import TextClassifier
from lightrail.project.basics.errors import ConfigError, DataError
from lightrail.project.library import predictor
from lightrail.project.running.build import build_again
from tests.support.language_model import language_model, write_checkpoint

from tests.support.running import QUIET, Fitted, lightrail as command  # isort: skip

TEXTS = ["a good film", "so dull", "it"]
SETTINGS = {"device": "cpu", "precision": "32-true"}


def predicted(run: Fitted, file: Path) -> list[dict[str, Any]]:
    named = [f"--ckpt_path=runs:/{run.run_id}", f"--tracking.uri={run.store}", f"--data.path={file}", *QUIET]
    return [json.loads(line) for line in command("predict", *named).out.splitlines()]


def test_texts_rows_tables_and_files_are_predicted_as_by_the_command(fitted_classifier: Fitted, tmp_path: Path) -> None:
    (tmp_path / "new.txt").write_text("".join(f"{text}\n" for text in TEXTS), encoding="utf-8")
    expected = predicted(fitted_classifier, tmp_path / "new.txt")
    checkpoint = shutil.copy(fitted_classifier.directory / "checkpoints" / "best.ckpt", tmp_path / "best.ckpt")
    model = lightrail.load(str(checkpoint), SETTINGS)
    assert model(TEXTS) == expected
    Path(checkpoint).unlink()  # it is not read again
    assert model(TEXTS) == expected
    assert model(TEXTS[0]) == expected[0]
    assert model(tmp_path / "new.txt") == expected
    rows = [{"text": text, "other": None} for text in TEXTS]
    assert model(rows) == model(pd.DataFrame(rows)) == model(pa.Table.from_pylist(rows)) == expected
    assert model.table(TEXTS).to_pylist() == expected
    lines = model(["a good\nfilm", "so dull"])
    assert [row["text"] for row in lines] == ["a good\nfilm", "so dull"]
    assert lines[0]["probabilities"] == expected[0]["probabilities"]
    with pytest.raises(DataError, match=r"^input:2: 'text' is empty"):
        model([{"text": "a"}, {"text": ""}])
    with pytest.raises(ConfigError, match="a row cannot be written as JSON"):
        model([{"text": object()}])
    with pytest.raises(ConfigError, match=r"the inputs are 3\. Give a text"):
        model(3)
    assert model(TEXTS) == expected, "a refusal changes nothing"
    assert model.task.monitor == "val/accuracy"


@pytest.mark.parametrize(
    ("settings", "is_in_memory"),
    [
        ({}, True),
        ({"trainer.precision": "bf16-mixed"}, True),
        ({"trainer.precision": "64-true"}, False),
        ({"trainer.limit_predict_batches": 0.5, "data.batch.size": 1, "data.batch.max_tokens": None}, False),
        ({"trainer.limit_predict_batches": 1, "data.batch.size": 1, "data.batch.max_tokens": None}, False),
        ({"data.reading.empty": "skip"}, False),
    ],
)
def test_a_call_needs_no_file_and_no_trainer_where_an_engine_predicts_the_same(
    settings: dict[str, Any],
    is_in_memory: bool,
    fitted_classifier: Fitted,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts = [*TEXTS, "a film so good that it is long"]
    (tmp_path / "new.txt").write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    model = lightrail.load(
        fitted_classifier.run_id, {"device": "cpu", **settings}, tracking_uri=fitted_classifier.store
    )
    made: list[str] = []

    def noted(name: str, make: Callable[..., Any]) -> Callable[..., Any]:
        def noting(*values: Any, **named: Any) -> Any:
            made.append(name)
            return make(*values, **named)

        return noting

    monkeypatch.setattr(predictor, "TemporaryDirectory", noted("file", TemporaryDirectory))
    monkeypatch.setattr(predictor, "build_again", noted("trainer", build_again))
    found = model(texts)
    assert made == ([] if is_in_memory else ["file", "trainer"])
    assert model(tmp_path / "new.txt") == found
    assert model(texts) == found, "after a Trainer, too"
    monkeypatch.setattr(predictor, "MOST_INPUTS", 3)
    made.clear()
    assert model(texts) == found
    assert made == ["file", "trainer"]


def test_a_task_with_hooks_of_a_trainer_keeps_its_trainer(
    fitted_classifier: Fitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = lightrail.load(fitted_classifier.run_id, SETTINGS, tracking_uri=fitted_classifier.store)(TEXTS)
    started: list[TextClassifier] = []
    monkeypatch.setattr(TextClassifier, "on_predict_start", lambda task: started.append(task))
    model = lightrail.load(fitted_classifier.run_id, SETTINGS, tracking_uri=fitted_classifier.store)
    assert model(TEXTS) == expected
    assert started == [model.task]


def test_a_model_is_named_as_for_the_commands(fitted_pinyin: Fitted, tmp_path: Path) -> None:
    run, store = fitted_pinyin.run_id, fitted_pinyin.store
    (tmp_path / "new.txt").write_text("ni hao\n", encoding="utf-8")
    expected = predicted(fitted_pinyin, tmp_path / "new.txt")
    for name in (run, f"runs:/{run}", run[:12]):
        assert lightrail.load(name, SETTINGS, tracking_uri=store)(["ni hao"]) == expected
    with pytest.raises(ConfigError, match="no run"):
        lightrail.load("nobody", tracking_uri=store)
    with pytest.raises(ConfigError, match="writes no text"):
        lightrail.load(run, tracking_uri=store).generate("ni hao")


def test_texts_are_generated_as_by_the_command(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(language_model(), tmp_path / "best.ckpt")
    model = lightrail.load(checkpoint)
    options = ["--max_tokens=12", "--temperature=0.5", "--seed=3"]
    printed = command("generate", str(checkpoint), "--prompt=to", *options).out
    assert model.generate("to", max_tokens=12, temperature=0.5, seed=3) == [printed.removesuffix("\n")]
    checkpoint.unlink()
    assert len(model.generate("to", max_tokens=3, num_samples=2)) == 2
    with pytest.raises(ConfigError, match=r"--temperature: expected a number of at least 0 .* found -1"):
        model.generate("to", temperature=-1)
