"""What a finished run holds, read back from MLflow and counted again; and what a run that did not finish holds."""

import io
import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pyarrow.csv
import pytest
import yaml
from sklearn.metrics import accuracy_score, f1_score

from lightrail.project.cli import main
from lightrail.project.tracking.naming import find_checkpoint
from lightrail.project.tracking.settings import TrackingConfig
from tests.support.callbacks import ALLOW
from tests.support.running import FOUR_STEPS, QUIET, Fitted, RecordedRun, lightrail, runs_in, same_weights
from tests.support.tasks.pinyin import SENTENCES

pytestmark = pytest.mark.pictures

PINYIN_METRICS = ("loss", "character_accuracy", "character_error_rate", "text_error_rate", "sentence_accuracy")
PREDICTION_COLUMNS = {"id": "int64", "target": "string", "prediction": "string", "score": "float", "loss": "float"}


@pytest.fixture(params=["fitted_pinyin", "fitted_classifier"])
def fitted(request: pytest.FixtureRequest) -> Fitted:
    run: Fitted = request.getfixturevalue(request.param)
    return run


def test_the_run_is_finished_and_the_last_line_shows_its_test_metrics(fitted: Fitted) -> None:
    assert fitted.outcome.status == 0
    assert fitted.status == "FINISHED"
    number = r"-?\d+\.\d{4}"
    assert re.fullmatch(
        rf"run [0-9a-f]{{32}} finished: test/\w+={number}( test/\w+={number})*", fitted.outcome.last_line
    )
    told = {name: value for name, value in fitted.metrics.items() if name.startswith("test/")}
    assert fitted.outcome.metrics == pytest.approx(told, abs=5.1e-5)


def test_params_are_every_setting_of_the_configuration(fitted: Fitted) -> None:
    configuration = yaml.safe_load((fitted.directory / "config.yaml").read_text("utf-8"))
    settings = dict(leaves(configuration))
    assert fitted.params.keys() == settings.keys()
    for name, value in settings.items():
        shown = json.loads(fitted.params[name]) if isinstance(value, list | dict) else fitted.params[name]
        assert shown == (value if isinstance(value, list | dict) else str(value)), name
    assert settings["model.init_args.encoder.init_args.width"] == 16
    assert settings["trainer.max_steps"] == 4


def leaves(values: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def test_every_metric_has_one_point_for_each_optimizer_step_it_was_taken_at(fitted: Fitted) -> None:
    names = {name.removeprefix("test/") for name in fitted.metrics if name.startswith("test/")}
    assert {"loss", "accuracy"} < names or set(PINYIN_METRICS) == names
    each_step = ("train/loss", "train/learning_rate", *(f"throughput/{of}_per_second" for of in ("examples", "tokens")))
    expected = {
        **{name: [1, 2, 3, 4] for name in each_step},
        **{f"val/{name}": [2, 4] for name in names},
        **{f"test/{name}": [0] for name in names},  # of which MLflow draws bars that compare runs
    }
    if "TextClassificationData" in str(fitted.arguments):
        expected |= {f"calibration/{name}": [0] for name in ("temperature", "ece_before", "ece_after")}
    assert {name: [step for step, _ in fitted.history(name)] for name in fitted.metrics} == expected
    assert all(value > 0 for name in expected if "throughput" in name for _, value in fitted.history(name))


def test_a_finished_run_knows_its_code_its_seed_and_its_data(fitted: Fitted, world: Path) -> None:
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=world / "repository", capture_output=True, text=True, check=True
    )
    tags = fitted.tags
    inputs = {found.dataset.name: found for found in fitted.client.get_run(fitted.run_id).inputs.dataset_inputs}
    assert tags["lightrail.task"] == ("PinyinTagger" if "PinyinData" in str(fitted.arguments) else "TextClassifier")
    assert tags["lightrail.kind"] == "fit"
    assert tags["lightrail.version"]
    assert tags["lightrail.git_sha"] == commit.stdout.strip()
    assert (tags["lightrail.git_dirty"] == "true") is (fitted.directory / "environment" / "git.diff").exists()
    assert tags["lightrail.seed"] == "0"
    assert tags["lightrail.data_digest"] == inputs["train"].dataset.digest
    assert tags["lightrail.test_digest"] == inputs["test"].dataset.digest
    assert "lightrail.error" not in tags


def test_each_split_is_an_input_with_source_rows_and_digest(fitted: Fitted) -> None:
    found = {}
    for item in fitted.client.get_run(fitted.run_id).inputs.dataset_inputs:
        source, profile = json.loads(item.dataset.source)["uri"], json.loads(item.dataset.profile)
        found[item.dataset.name] = (Path(source).stem, profile["num_rows"], item.tags[0].value)
        assert re.fullmatch("[0-9a-f]{32}", item.dataset.digest)
    assert found == {
        "train": ("train", 8, "train"),
        "validation": ("validation", 5, "validation"),
        "test": ("test", 11, "test"),
    }


def test_the_artifacts_are_these_and_nothing_is_left_elsewhere(fitted: Fitted, world: Path) -> None:
    found = {str(file.relative_to(fitted.directory)) for file in fitted.directory.rglob("*") if file.is_file()}
    figures, samples = {"learning_curves", "reliability", "lengths"}, {"worst_mistakes"}
    if "TextClassificationData" in str(fitted.arguments):
        figures |= {"confusion_matrix", "labels"}
        samples.add("per_class")
    if "PinyinData" in str(fitted.arguments):  # its labels are hanzi: no picture where there is no font for them
        found -= {"figures/confusions.svg", "figures/confusions.png"}
        samples.add("confusions")
    assert found - {"environment/git.diff"} == {
        "config.yaml",
        "environment/code.json",
        "environment/packages.txt",
        "environment/hardware.json",
        "predictions/test.parquet",
        *(f"samples/{name}.csv" for name in samples),
        "samples/explained.html",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "checkpoints/run.json",
        *(f"figures/{name}.png" for name in figures),
    }
    for name in figures:
        assert (fitted.directory / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    status = ["git", "status", "--porcelain", "--ignored"]
    assert not subprocess.run(status, cwd=world / "repository", capture_output=True, check=True).stdout


def test_test_metrics_of_the_classifier_follow_from_its_predictions(fitted_classifier: Fitted) -> None:
    table = fitted_classifier.predictions
    own = {"text": "string", "probabilities": "list<element: float>"}
    assert {field.name: str(field.type) for field in table.schema} == {**PREDICTION_COLUMNS, **own}
    columns = table.to_pydict()
    assert columns["id"] == list(range(11))
    assert all(0 <= score <= 1 for score in columns["score"])
    assert len(set(columns["prediction"])) == 2, "a model that says one thing only would prove little"
    assert {
        name: fitted_classifier.metrics[f"test/{name}"] for name in ("accuracy", "f1_macro", "loss")
    } == pytest.approx(
        {
            "accuracy": accuracy_score(columns["target"], columns["prediction"]),
            "f1_macro": f1_score(columns["target"], columns["prediction"], average="macro"),
            "loss": sum(columns["loss"]) / len(columns["loss"]),
        },
        rel=1e-6,
    )


def test_test_metrics_of_the_pinyin_tagger_follow_from_its_predictions(fitted_pinyin: Fitted) -> None:
    table = fitted_pinyin.predictions
    names = ("num_targets", "num_edits", "num_hanzi", "num_text_edits", "num_characters")
    counted = dict.fromkeys(names, "int64")
    assert {field.name: str(field.type) for field in table.schema} == {
        **PREDICTION_COLUMNS,
        "pinyin": "string",
        **counted,
    }
    columns = table.to_pydict()
    assert columns["id"] == list(range(11))
    assert columns["target"] == SENTENCES["test"]
    assert all(0 <= score <= 1 for score in columns["score"])
    targets, predicted = ([text.replace("，", "") for text in columns[name]] for name in ("target", "prediction"))
    edits = [edit_distance(one, other) for one, other in zip(predicted, targets, strict=True)]
    assert sum(edits) > 0, "a model that is always right would prove little"
    whole = [edit_distance(*own) for own in zip(columns["prediction"], columns["target"], strict=True)]
    num_hanzi = sum(map(len, targets))
    nats = sum(loss * len(text) for loss, text in zip(columns["loss"], targets, strict=True))
    assert {name: fitted_pinyin.metrics[f"test/{name}"] for name in PINYIN_METRICS} == pytest.approx(
        {
            "loss": nats / num_hanzi,
            "character_accuracy": 1 - sum(edits) / num_hanzi,
            "character_error_rate": sum(edits) / num_hanzi,
            "text_error_rate": sum(whole) / sum(map(len, columns["target"])),
            "sentence_accuracy": edits.count(0) / len(edits),
        },
        rel=1e-6,
    )


def edit_distance(one: str, other: str) -> int:
    row = list(range(len(other) + 1))
    for first, character in enumerate(one, start=1):
        before, row = row, [first]
        for second, target in enumerate(other, start=1):
            row.append(min(before[second] + 1, row[-1] + 1, before[second - 1] + (character != target)))
    return row[-1]


def test_the_worst_mistakes_are_wrong_and_the_worst_first(fitted: Fitted) -> None:
    mistakes = pyarrow.csv.read_csv(fitted.directory / "samples" / "worst_mistakes.csv").to_pylist()
    wrong = [row for row in fitted.predictions.to_pylist() if row["prediction"] != row["target"]]
    wrong.sort(key=lambda row: row["loss"], reverse=True)
    assert [row["id"] for row in mistakes] == [row["id"] for row in wrong]


def test_the_last_checkpoint_is_a_file_of_its_own_that_can_be_resumed_from(fitted: Fitted) -> None:
    last = fitted.directory / "checkpoints" / "last.ckpt"
    assert not last.is_symlink()
    assert fitted.checkpoint("last")["global_step"] == 4
    assert fitted.checkpoint("last")["optimizer_states"]
    best = find_checkpoint(f"runs:/{fitted.run_id}", TrackingConfig(uri=fitted.store))
    assert best == fitted.directory / "checkpoints" / "best.ckpt"
    assert "optimizer_states" not in fitted.checkpoint("best")


@pytest.fixture
def again(fitted_classifier: Fitted, tmp_path: Path, store: str) -> list[str]:
    """Arguments of the classifier's run, to be recorded in a store of the test's own."""
    return [*fitted_classifier.arguments, f"--tracking.uri={store}"]


def test_the_best_checkpoint_is_tested_and_not_the_last(again: list[str], store: str) -> None:
    spoiled = [ALLOW, "--trainer.callbacks=SpoilAt", "--trainer.callbacks.step=3"]
    run = RecordedRun(store, lightrail("fit", *again, *spoiled).run_id)
    accuracies = dict(run.history("val/accuracy"))
    assert accuracies[2] > accuracies[4], "the spoiled weights must be worse, or this shows nothing"
    assert (run.checkpoint("best")["global_step"], run.checkpoint("last")["global_step"]) == (2, 4)
    tested = lightrail("test", ALLOW, f"--ckpt_path=runs:/{run.run_id}", f"--tracking.uri={store}")
    assert tested.metrics["test/loss"] == pytest.approx(run.metrics["test/loss"], abs=5.1e-5)


def test_the_stored_configuration_makes_the_same_run_to_the_last_bit(fitted: Fitted) -> None:
    before = {run.run_id for run in runs_in(fitted.store)}
    outcome = lightrail("fit", f"--config={fitted.directory}/config.yaml")
    again = RecordedRun(fitted.store, outcome.run_id)
    assert again.run_id not in before
    assert again.tags["mlflow.runName"] != fitted.tags["mlflow.runName"]
    assert same_weights(fitted, again)
    assert again.histories() == fitted.histories()
    assert again.predictions.equals(fitted.predictions)
    assert again.params == fitted.params
    assert again.tags["lightrail.data_digest"] == fitted.tags["lightrail.data_digest"]


def test_another_seed_trains_otherwise_and_is_tested_on_the_same_texts(tmp_path: Path, store: str) -> None:
    texts = [f"{'good' if number % 2 else 'bad'} film {number}" for number in range(40)]
    lines = [json.dumps({"text": text, "label": text.split()[0]}) + "\n" for text in texts]
    (tmp_path / "all.jsonl").write_text("".join(lines))
    arguments = ["--model=TextClassifier", "--model.encoder.width=16", "--data=TextClassificationData"]
    arguments += [f"--data.path={tmp_path}/all.jsonl", *FOUR_STEPS, *QUIET, f"--tracking.uri={store}"]
    one, other = (
        RecordedRun(store, lightrail("fit", *arguments, f"--seed_everything={seed}").run_id) for seed in (1, 2)
    )
    assert (one.tags["lightrail.seed"], other.tags["lightrail.seed"]) == ("1", "2")
    assert not same_weights(one, other)
    assert one.history("train/loss") != other.history("train/loss")
    assert one.tags["lightrail.test_digest"] == other.tags["lightrail.test_digest"]
    assert one.predictions["text"] == other.predictions["text"]


def test_a_training_that_fails_leaves_a_failed_run_with_its_reason_and_its_metrics(
    again: list[str], store: str
) -> None:
    with pytest.raises(RuntimeError, match="as asked"):
        lightrail("fit", *again, ALLOW, "--trainer.callbacks=RaiseAt", "--trainer.callbacks.step=2")
    (run,) = runs_in(store)
    assert run.status == "FAILED"
    assert run.tags["lightrail.error"] == "RuntimeError: as asked"
    assert [step for step, _ in run.history("train/loss")] == [1, 2]
    assert not any(name.startswith("test/") for name in run.metrics)
    assert not (run.directory / "predictions").exists()


def test_ctrl_c_leaves_a_killed_run_and_status_130(again: list[str], store: str) -> None:
    stop = ["--trainer.callbacks=RaiseAt", "--trainer.callbacks.step=2", "--trainer.callbacks.error=KeyboardInterrupt"]
    with redirect_stdout(io.StringIO()) as out:
        assert main(["fit", *again, ALLOW, *stop]) == 130
    (run,) = runs_in(store)
    assert run.status == "KILLED"
    assert [step for step, _ in run.history("train/loss")] == [1, 2]
    assert not out.getvalue()
