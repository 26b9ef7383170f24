"""`validate`, `test` and `predict`: with a run's name or a checkpoint alone, and under what the user writes."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import torch

from lightrail.lightning_modules.networks.encoders.pooling import build_pooling
from lightrail.lightning_modules.pinyin.tagger import PinyinTagger
from lightrail.lightning_modules.text_classification import TextClassifier
from tests.support.running import Fitted, Outcome, RecordedRun, lightrail, runs_in
from tests.support.tasks.text_classification import TEXTS, write_texts


@pytest.fixture(params=["fitted_pinyin", "fitted_classifier"])
def fitted(request: pytest.FixtureRequest) -> Fitted:
    run: Fitted = request.getfixturevalue(request.param)
    return run


def named(run: RecordedRun) -> list[str]:
    return [f"--ckpt_path=runs:/{run.run_id}", f"--tracking.uri={run.store}"]


def best_file(run: RecordedRun) -> str:
    return f"--ckpt_path={run.directory / 'checkpoints' / 'best.ckpt'}"


def rows(outcome: Outcome) -> list[dict[str, Any]]:
    assert outcome.status == 0, outcome.err
    return [json.loads(line) for line in outcome.out.splitlines()]


def test_testing_a_run_by_its_name_repeats_its_metrics_in_a_run_of_its_own(fitted: Fitted) -> None:
    outcome = lightrail("test", *named(fitted))
    tested = RecordedRun(fitted.store, outcome.run_id)
    assert tested.run_id != fitted.run_id
    assert tested.metrics == {name: value for name, value in fitted.metrics.items() if name.startswith("test/")}
    assert outcome.metrics == fitted.outcome.metrics
    assert tested.predictions.equals(fitted.predictions)
    assert (tested.status, tested.tags["lightrail.kind"]) == ("FINISHED", "test")
    assert tested.tags["lightrail.test_digest"] == fitted.tags["lightrail.test_digest"]


@pytest.mark.parametrize("precision", ["16-true", "bf16-true", "64-true"])
def test_a_run_is_tested_in_another_number_format(fitted: Fitted, precision: str) -> None:
    outcome = lightrail("test", *named(fitted), f"--trainer.precision={precision}")
    assert outcome.metrics["test/loss"] == pytest.approx(fitted.metrics["test/loss"], rel=0.05)


def test_a_checkpoint_file_alone_can_be_tested_when_the_cache_is_gone(
    fitted: Fitted, tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIGHTRAIL_CACHE", str(tmp_path / "cache"))
    file = shutil.copy(fitted.directory / "checkpoints" / "best.ckpt", tmp_path / "mine.ckpt")
    outcome = lightrail("test", f"--ckpt_path={file}", f"--tracking.uri={store}")
    assert outcome.metrics == fitted.outcome.metrics
    assert [run.run_id for run in runs_in(store)] == [outcome.run_id]


def test_validation_is_printed_and_makes_no_run(fitted: Fitted) -> None:
    num_runs = len(runs_in(fitted.store))
    outcome = lightrail("validate", *named(fitted))
    assert outcome.status == 0
    step = fitted.checkpoint("best")["global_step"]
    expected = {name: dict(fitted.history(name))[step] for name in fitted.metrics if name.startswith("val/")}
    printed = {name: float(value) for name, value in (line.split() for line in outcome.out.splitlines())}
    assert printed == pytest.approx(expected, abs=5.1e-7)
    assert len(runs_in(fitted.store)) == num_runs


def test_what_the_user_writes_counts_above_the_checkpoint(fitted_classifier: Fitted, store: str) -> None:
    model = ["--model.pooling=first", "--model.loss.label_smoothing=0.3"]
    written = [*model, "--data.batch.size=3", "--seed_everything=5"]
    outcome = lightrail("test", best_file(fitted_classifier), *written, f"--tracking.uri={store}")
    run = RecordedRun(store, outcome.run_id)
    assert run.params["model.init_args.loss.label_smoothing"] == "0.3"
    assert (run.params["data.init_args.batch.size"], run.params["seed_everything"]) == ("3", "5")
    changed = TextClassifier.load_from_checkpoint(fitted_classifier.directory / "checkpoints" / "best.ckpt").eval()
    changed.pooling = build_pooling("first", 16)
    assert run.predictions["score"].to_pylist() == pytest.approx(scores(changed, run), rel=1e-5)
    assert run.predictions["score"] != fitted_classifier.predictions["score"]


@torch.inference_mode()
def scores(model: TextClassifier, run: RecordedRun) -> list[float]:
    """The probability of the answer to each text alone, its words looked up here."""
    vocabulary = model.hparams["vocabulary"]
    numbers = [
        [vocabulary.index(word) + 2 if word in vocabulary else 1 for word in text.split()] for text in TEXTS["test"]
    ]
    assert run.predictions["text"].to_pylist() == TEXTS["test"]
    inputs = [
        {"input_ids": torch.tensor([own]), "attention_mask": torch.ones(1, len(own), dtype=torch.bool)}
        for own in numbers
    ]
    return [float(model.head.probabilities(model(batch)).max()) for batch in inputs]


def test_other_data_is_tested_with_the_labels_and_words_of_the_checkpoint(
    fitted_classifier: Fitted, tmp_path: Path, store: str
) -> None:
    write_texts(tmp_path)
    texts = ["so dull , so bad", "really good film", "unheard of"]
    (tmp_path / "other.jsonl").write_text("".join(json.dumps({"text": text, "label": "+"}) + "\n" for text in texts))
    (tmp_path / "train.jsonl").write_text('{"text": "unheard", "label": "+"}\n{"text": "of", "label": "-"}\n')
    other = [f"--data.path={tmp_path}/train.jsonl", f"--data.test_path={tmp_path}/other.jsonl"]
    run = RecordedRun(store, lightrail("test", best_file(fitted_classifier), *other, f"--tracking.uri={store}").run_id)
    assert run.predictions["text"].to_pylist() == texts
    assert run.tags["lightrail.test_digest"] != fitted_classifier.tags["lightrail.test_digest"]
    before = next(row for row in fitted_classifier.predictions.to_pylist() if row["text"] == texts[1])
    now = run.predictions.to_pylist()[1]
    assert (now["prediction"], now["score"]) == (before["prediction"], pytest.approx(before["score"], rel=1e-5))


def test_the_loss_of_a_sentence_is_over_the_characters_that_could_be_chosen(
    fitted_pinyin: Fitted, tmp_path: Path, store: str
) -> None:
    (tmp_path / "one.tsv").write_text("text\tsyllables\n时是\tshi shi\n", encoding="utf-8")  # never saw shi as 时
    arguments = [f"--data.test_path={tmp_path}/one.tsv", f"--tracking.uri={store}"]
    run = RecordedRun(store, lightrail("test", best_file(fitted_pinyin), *arguments).run_id)
    assert run.predictions["loss"].to_pylist() == pytest.approx([run.metrics["test/loss"]], rel=1e-6)


def test_a_configuration_beside_the_checkpoint_is_the_one_that_counts(fitted: Fitted, store: str) -> None:
    arguments = [f"--config={fitted.directory}/config.yaml", best_file(fitted), "--data.batch.size=11"]
    outcome = lightrail("test", *arguments, f"--tracking.uri={store}")
    assert outcome.metrics == fitted.outcome.metrics
    assert RecordedRun(store, outcome.run_id).params["data.init_args.batch.size"] == "11"


def test_a_run_is_looked_up_in_the_store_that_the_configuration_names(fitted_pinyin: Fitted) -> None:
    outcome = lightrail(
        "validate", f"--config={fitted_pinyin.directory}/config.yaml", f"--ckpt_path=runs:/{fitted_pinyin.run_id}"
    )
    assert (outcome.status, outcome.err) == (0, "")


def test_a_model_that_the_weights_do_not_fit_is_refused(fitted: Fitted) -> None:
    num_runs = len(runs_in(fitted.store))
    outcome = lightrail("test", *named(fitted), "--model.encoder.width=32")
    assert outcome.status == 2
    assert "its weights do not fit this model, in which model.encoder differs. Undo that." in outcome.err
    assert len(runs_in(fitted.store)) == num_runs


NEW_TEXTS = ["it is so bad , really bad", "good", "really good film", "unheard of", "day", "good"]
"""Of different lengths, since batches are made by length."""


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    file = tmp_path / "texts.txt"
    file.write_text("".join(f"{text}\n" for text in NEW_TEXTS))
    return file


def test_texts_without_labels_are_predicted_in_their_order(fitted_classifier: Fitted, texts: Path) -> None:
    num_runs = len(runs_in(fitted_classifier.store))
    answers = rows(lightrail("predict", *named(fitted_classifier), f"--data.path={texts}", "--data.batch.size=2"))
    assert [answer["text"] for answer in answers] == NEW_TEXTS
    assert [answer["id"] for answer in answers] == list(range(len(NEW_TEXTS)))
    assert all(answer["prediction"] in "+-" and 0 <= answer["score"] <= 1 for answer in answers)
    assert answers[1]["score"] == pytest.approx(answers[5]["score"], rel=1e-6)
    assert [answer["line"] for answer in answers] == list(range(1, len(NEW_TEXTS) + 1))
    assert answers[0].keys() == {"id", "line", "text", "prediction", "score", "probabilities"}
    assert len(runs_in(fitted_classifier.store)) == num_runs


def test_the_texts_of_the_test_get_the_same_predictions(fitted_classifier: Fitted, texts: Path) -> None:
    texts.write_text("".join(f"{text}\n" for text in TEXTS["test"]))
    answers = rows(lightrail("predict", *named(fitted_classifier), f"--data.path={texts}"))
    tested = fitted_classifier.predictions.to_pylist()
    assert [answer["prediction"] for answer in answers] == [row["prediction"] for row in tested]
    assert [answer["score"] for answer in answers] == pytest.approx([row["score"] for row in tested], rel=1e-5)


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_predictions_can_go_to_a_file(fitted_classifier: Fitted, texts: Path, tmp_path: Path, ending: str) -> None:
    output = tmp_path / f"answers.{ending}"
    arguments = [*named(fitted_classifier), f"--data.path={texts}"]
    shown = rows(lightrail("predict", *arguments))
    outcome = lightrail("predict", *arguments, f"--output={output}")
    assert (outcome.status, outcome.out) == (0, "")
    if ending == "parquet":
        written = pyarrow.parquet.read_table(output).to_pylist()
    elif ending == "jsonl":
        written = [json.loads(line) for line in output.read_text().splitlines()]
    else:
        written = list(csv.DictReader(output.read_text().splitlines()))
    assert [(row["text"], row["prediction"]) for row in written] == [(row["text"], row["prediction"]) for row in shown]
    assert [float(row["score"]) for row in written] == pytest.approx([row["score"] for row in shown], rel=1e-6)


def test_typed_syllables_become_characters(fitted_pinyin: Fitted, tmp_path: Path) -> None:
    typed = ["ta men shi xue sheng", "Ni hao", "lao shi ， wo", "xyz ni", "shi"]
    (tmp_path / "typed.txt").write_text("".join(f"{line}\n" for line in typed), encoding="utf-8")
    answers = rows(lightrail("predict", *named(fitted_pinyin), f"--data.path={tmp_path}/typed.txt"))
    assert [answer["pinyin"] for answer in answers] == [line.lower() for line in typed]
    assert answers[1]["prediction"] == "你好"
    assert answers[2]["prediction"] in ("老师，我", "老是，我")
    assert answers[3]["prediction"] == "xyz你"
    assert answers[0].keys() == {"id", "line", "pinyin", "prediction", "score"}


def test_the_syllables_of_the_test_get_the_same_predictions(fitted_pinyin: Fitted) -> None:
    file = fitted_pinyin.folder / "test.tsv"
    answers = rows(lightrail("predict", *named(fitted_pinyin), f"--data.path={file}"))
    tested = fitted_pinyin.predictions.to_pylist()
    assert [answer["prediction"] for answer in answers] == [row["prediction"] for row in tested]
    assert [answer["score"] for answer in answers] == pytest.approx([row["score"] for row in tested], rel=1e-5)


def test_a_checkpoint_loads_with_its_class_alone(fitted_pinyin: Fitted) -> None:
    task = PinyinTagger.load_from_checkpoint(fitted_pinyin.directory / "checkpoints" / "best.ckpt")
    assert all(torch.equal(task.state_dict()[name], own) for name, own in fitted_pinyin.weights("best").items())
