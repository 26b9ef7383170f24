"""Whatever is wrong is refused before a run exists: status 2, one message that says where and how to mend it."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.callbacks import ALLOW
from tests.support.running import FOUR_STEPS, QUIET, Fitted, lightrail, runs_in
from tests.support.tasks.pinyin import TINY, write_sentences
from tests.support.tasks.text_classification import write_texts

Damage = Callable[[Path], list[str]]
"""Spoils something in a folder that held good data, and returns arguments to add to good ones."""


def refusal(folder: Path, *arguments: str) -> str:
    """Run a command that must be refused, in a place where there is no store, and give its message."""
    outcome = lightrail(*arguments, f"--tracking.uri=sqlite:///{folder}/none.db")
    assert (outcome.status, outcome.out) == (2, "")
    message = outcome.err.removeprefix("lightrail: error: ")
    assert message != outcome.err
    assert message.count("\n") == 1, "one message, and no traceback"
    left = [file.name for file in folder.iterdir() if file.name in ("none.db", "mlruns")]
    assert not left, "neither a store nor a run may be left"
    return message.rstrip().replace(f"{folder}/", "")


@pytest.fixture
def texts(tmp_path: Path) -> list[str]:
    return [*write_texts(tmp_path), "--model.encoder.width=16", *FOUR_STEPS, *QUIET]


@pytest.fixture
def sentences(tmp_path: Path) -> list[str]:
    return [*TINY, *write_sentences(tmp_path), *FOUR_STEPS, *QUIET]


def missing_file(folder: Path) -> list[str]:
    (folder / "test.jsonl").rename(folder / "tests.jsonl")
    return []


def wrong_column(folder: Path) -> list[str]:
    return ["--data.label_column=lable"]


def missing_column_in_one_row(folder: Path) -> list[str]:
    append(folder / "train.jsonl", {"txt": "good", "label": "+"})
    return []


def empty_file(folder: Path) -> list[str]:
    (folder / "validation.jsonl").write_text("")
    return []


def empty_text(folder: Path) -> list[str]:
    append(folder / "train.jsonl", {"text": " ", "label": "+"})
    return []


def unknown_label_in_test(folder: Path) -> list[str]:
    append(folder / "test.jsonl", {"text": "good", "label": "++"})
    return []


def one_label_only(folder: Path) -> list[str]:
    (folder / "train.jsonl").write_text('{"text": "good", "label": "+"}\n' * 3)
    return []


def bad_encoding(folder: Path) -> list[str]:
    with (folder / "train.jsonl").open("ab") as file:
        file.write('{"text": "中文中文", "label": "+"}\n'.encode("gb18030"))
    return []


def broken_json(folder: Path) -> list[str]:
    with (folder / "train.jsonl").open("a") as file:
        file.write('{"text": "good", \n')
    return []


def empty_validation_split(folder: Path) -> list[str]:
    return ["--data.validation_path=null", "--data.split.validation_fraction=0"]


def unknown_ending(folder: Path) -> list[str]:
    (folder / "train.jsonl").rename(folder / "train.jsnl")
    return [f"--data.path={folder}/train.jsnl"]


def append(file: Path, row: dict[str, str]) -> None:
    with file.open("a") as stream:
        stream.write(json.dumps(row) + "\n")


@pytest.mark.parametrize(
    ("damage", "where", "found", "mend"),
    [
        (missing_file, "test.jsonl: no such file", "tests.jsonl", "The folder "),
        (
            wrong_column,
            "test.jsonl:1: ",
            "no column 'lable'. Columns found: 'text', 'label'",
            "data.label_column=label",
        ),
        (missing_column_in_one_row, "train.jsonl:9: ", "no column 'text'. Columns found: 'txt', 'label'", "=txt"),
        (empty_file, "validation.jsonl ", "holds no rows", "Give a file with at least one."),
        (empty_text, "train.jsonl:9: ", "'text' is empty", "drop the line, or set data.reading.empty=skip"),
        (unknown_label_in_test, "test.jsonl:12: ", "label '++' is none of the 2", "Fix the label, or add rows"),
        (one_label_only, "train.jsonl: ", "one label only (+)", "Give rows of at least two"),
        (bad_encoding, "train.jsonl:9: ", "is not utf-8", "set data.reading.encoding=gb18030"),
        (broken_json, "train.jsonl:9: ", "invalid JSON", "Fix or drop the line."),
        (
            empty_validation_split,
            "train.jsonl: ",
            "no validation examples (8 train, 0 validation",
            "or data.validation_path",
        ),
        (unknown_ending, "train.jsnl: ", "'.jsnl' is no known format", "did you mean .jsonl"),
    ],
)
@pytest.mark.parametrize("command", ["fit", "check"])
def test_bad_data_is_refused_with_file_and_line(
    tmp_path: Path, texts: list[str], command: str, damage: Damage, where: str, found: str, mend: str
) -> None:
    message = refusal(tmp_path, command, *texts, *damage(tmp_path))
    assert message.startswith(where)
    assert found in message
    assert mend in message


def test_a_callback_that_watches_no_metric_there_is_is_refused_with_the_nearest(
    tmp_path: Path, texts: list[str]
) -> None:
    stopping = ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/acuracy"]
    message = refusal(tmp_path, "fit", *texts, *stopping)
    assert message == "trainer.callbacks: EarlyStopping has no metric 'val/acuracy'. Did you mean val/accuracy?"


def test_syllables_that_do_not_match_the_characters_are_refused(tmp_path: Path, sentences: list[str]) -> None:
    with (tmp_path / "test.tsv").open("a", encoding="utf-8") as file:
        file.write("你好\tni hao ma\n")
    assert refusal(tmp_path, "fit", *sentences) == (
        "test.tsv:13: 3 syllables for 2 characters ('ni hao ma' / '你好'). "
        "Give one token for each character, punctuation included, or drop the line."
    )


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("--trainer.max_step=3", "trainer.max_step: no such setting. Did you mean trainer.max_steps?"),
        ("--model.optim.learning_rate=1", "optim.learning_rate: no such setting. Choose from beta2"),
        ("--data.batch.size=four", "batch.size: expected a whole number of at least 1 or null, found "),
        ("--data.batch.size=0", "batch.size: expected a whole number of at least 1 or null, found 0."),
        ("--model.encoder.num_heads=3", "16"),
        ("--model=TextClasifier", "Did you mean TextClassifier?"),
        ("--trainer.accelerator=cuda", "trainer: "),
        ("--trainer.devices=none", "trainer: `devices`"),
        ("--trainer.accumulate_grad_batches=0", "accumulate_grad_batches: expected a whole number of at least 1"),
        ("--trainer.gradient_clip_val=-1", "trainer.gradient_clip_val: expected a whole number of at least 0"),
        ("--model.optim.freeze=[nothing]", "model.optim.freeze: 'nothing' matches no parameter."),
        ("--model.optim.lr=-1", "optim.lr: expected a number above 0, found -1.0."),
        ("--model.loss.label_smoothing=2", "loss.label_smoothing: expected a number of at least 0 and below 1"),
        ("--trainer.strategy=fast", "trainer: You selected an invalid strategy name"),
        ("--tracking.tags={lightrail.task: mine}", "tracking.tags: names like 'lightrail.task' are reserved."),
    ],
)
def test_a_setting_that_cannot_be_used_is_refused(tmp_path: Path, texts: list[str], setting: str, message: str) -> None:
    assert message in refusal(tmp_path, "fit", *texts, setting)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("tags={mlflow.note: mine}", "tracking.tags: names like 'mlflow.note' are reserved."),
        ("experiment=", "tracking.experiment is empty. Give a name"),
        ("uri=runs.db", "tracking.uri 'runs.db' is not an MLflow store."),
    ],
)
def test_the_check_refuses_what_no_run_can_be_recorded_with(texts: list[str], setting: str, message: str) -> None:
    outcome = lightrail("check", *texts, f"--tracking.{setting}")
    assert (outcome.status, outcome.out) == (2, "")
    assert message in outcome.err


@pytest.mark.parametrize("command", ["fit", "check"])
@pytest.mark.parametrize(
    ("precision", "message"),
    [
        ("16-true", "which can only evaluate: the square of a gradient below 0.0002 is 0 in float16"),
        ("transformer-engine", "trainer: Requirement 'transformer_engine>=0.11.0' not met"),
    ],
)
def test_a_number_format_that_cannot_train_here_is_refused(
    tmp_path: Path, texts: list[str], command: str, precision: str, message: str
) -> None:
    assert message in refusal(tmp_path, command, *texts, f"--trainer.precision={precision}")


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for devices that do not exist")
def test_devices_that_do_not_exist_are_refused(tmp_path: Path, texts: list[str]) -> None:
    found = refusal(tmp_path, "fit", *texts, "--trainer.accelerator=cuda", "--trainer.devices=4")
    assert "accelerator is not available" in found


def test_a_schedule_without_an_end_is_refused_before_the_run(tmp_path: Path, texts: list[str]) -> None:
    found = refusal(tmp_path, "fit", *texts, "--trainer.max_steps=-1", "--trainer.max_time=00:00:01:00")
    assert "the learning-rate schedule needs the number of steps. Set trainer.max_steps" in found


def test_a_task_and_data_that_do_not_belong_together_are_refused(tmp_path: Path, texts: list[str]) -> None:
    arguments = [argument for argument in texts if not argument.startswith("--model")]
    assert "PinyinTagger needs `candidates` from the data" in refusal(
        tmp_path, "fit", *arguments, "--model=PinyinTagger"
    )


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_a_checkpoint_that_is_none_is_refused(tmp_path: Path, command: str, texts: list[str]) -> None:
    refused = [refusal(tmp_path, command, *texts)]
    (tmp_path / "text.ckpt").write_text("not a checkpoint")
    refused.append(refusal(tmp_path, command, *texts, f"--ckpt_path={tmp_path}/text.ckpt"))
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    refused.append(refusal(tmp_path, command, *texts, f"--ckpt_path={tmp_path}/other.ckpt"))
    refused.append(refusal(tmp_path, command, *texts, f"--ckpt_path={tmp_path}/none.ckpt"))
    expected = [
        "which model? Name a run, whose best checkpoint is used, or a checkpoint file.",
        "text.ckpt is not a checkpoint that can be read",
        "other.ckpt is not a checkpoint of a lightrail task. Name one that `lightrail fit` wrote.",
        "none.ckpt': no such file or folder. Check the path, or name a run by its id, ",
    ]
    for message, start in zip(refused, expected, strict=True):
        assert message.removeprefix("'").startswith(start)


class Attack:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.file),)


def test_a_checkpoint_that_would_run_code_is_refused_and_does_not(tmp_path: Path, texts: list[str]) -> None:
    torch.save({"task": "x", "configuration": {}, "extra": Attack(tmp_path / "attacked")}, tmp_path / "evil.ckpt")
    assert "is not a checkpoint that can be read" in refusal(
        tmp_path, "test", *texts, f"--ckpt_path={tmp_path}/evil.ckpt"
    )
    assert not (tmp_path / "attacked").exists()


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_the_checkpoint_of_another_task_is_refused(
    tmp_path: Path, command: str, sentences: list[str], fitted_classifier: Fitted
) -> None:
    (tmp_path / "mine.yaml").write_text("".join(f"{item[2:].replace('=', ': ', 1)}\n" for item in sentences))
    best = fitted_classifier.directory / "checkpoints" / "best.ckpt"
    found = refusal(tmp_path, command, f"--config={tmp_path}/mine.yaml", f"--ckpt_path={best}")
    assert "is a checkpoint of TextClassifier, and the configuration asks for PinyinTagger." in found


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("loss", {"smoothing": 0.1}),
        ("optim", {"class_path": "lightrail.lightning_modules.optimization.config.OptimConfig", "label": 1}),
        ("labels", 3),
        ("label_counts", "many"),
        ("encoder", None),
        ("vocabulary", {"a": 1}),
    ],
)
def test_damaged_arguments_in_a_checkpoint_are_refused(
    key: str, value: object, tmp_path: Path, fitted_classifier: Fitted
) -> None:
    checkpoint = torch.load(fitted_classifier.directory / "checkpoints" / "best.ckpt", weights_only=True)
    checkpoint["hyper_parameters"][key] = value
    torch.save(checkpoint, tmp_path / "damaged.ckpt")
    assert "damaged.ckpt" in refusal(tmp_path, "test", f"--ckpt_path={tmp_path}/damaged.ckpt")


def test_a_link_to_itself_is_no_file_to_predict(tmp_path: Path, fitted_classifier: Fitted) -> None:
    best, loop = fitted_classifier.directory / "checkpoints" / "best.ckpt", tmp_path / "loop.jsonl"
    loop.symlink_to(loop)
    assert "loop.jsonl" in refusal(tmp_path, "predict", f"--ckpt_path={best}", f"--data.path={loop}")


def test_a_run_that_is_not_in_the_store_is_refused(fitted_classifier: Fitted) -> None:
    outcome = lightrail("test", "--ckpt_path=runs:/abc", f"--tracking.uri={fitted_classifier.store}")
    assert outcome.status == 2
    assert "no run 'abc': no id in " in outcome.err
    assert any(run.run_id[:8] in outcome.err for run in runs_in(fitted_classifier.store)), "the newest are named"


def test_a_store_that_cannot_be_written_is_refused(tmp_path: Path, texts: list[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    for uri in (f"sqlite:///{tmp_path}/file/mlflow.db", f"sqlite:///{tmp_path}/file"):
        outcome = lightrail("fit", *texts, f"--tracking.uri={uri}")
        assert outcome.status == 2
        assert outcome.err.startswith("lightrail: error: ")
        assert f"{tmp_path}/file" in outcome.err.partition(". ")[0]
        assert "hoose another tracking.uri." in outcome.err
    assert (tmp_path / "file").read_text() == "in the way"


def test_an_artifact_folder_that_cannot_be_written_leaves_no_run(tmp_path: Path, texts: list[str], store: str) -> None:
    (tmp_path / "mlruns").write_text("in the way")
    outcome = lightrail("fit", *texts, f"--tracking.uri={store}")
    assert (outcome.status, outcome.out) == (2, "")
    assert f"{tmp_path}/mlruns" in outcome.err
    assert not runs_in(store)


def test_a_disk_that_fills_while_the_run_is_started_leaves_no_run(
    tmp_path: Path, texts: list[str], store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device", str(folder))

    monkeypatch.setattr("lightrail.project.tracking.run.write_environment", full)
    outcome = lightrail("fit", *texts, f"--tracking.uri={store}")
    assert outcome.status == 2
    assert "the run could not be started: [Errno 28] No space left on device" in outcome.err
    assert not runs_in(store)
    assert not list((tmp_path / "mlruns").rglob("config.yaml"))


def test_output_that_cannot_be_written_is_refused(tmp_path: Path, fitted_classifier: Fitted) -> None:
    (tmp_path / "texts.txt").write_text("good\n")
    (tmp_path / "file").write_text("in the way")
    best = fitted_classifier.directory / "checkpoints" / "best.ckpt"
    arguments = ["predict", f"--ckpt_path={best}", f"--data.path={tmp_path}/texts.txt"]
    assert refusal(tmp_path, *arguments, "--output=answers.xlsx") == (
        "--output answers.xlsx: unknown format. End the name in .jsonl, .csv, .parquet, .npy."
    )
    for ending in ("jsonl", "csv", "parquet"):
        message = refusal(tmp_path, *arguments, f"--output={tmp_path}/file/answers.{ending}")
        assert message == "file: cannot write there (File exists). Choose another --output."


def test_a_store_that_was_there_holds_no_more_runs_than_before(tmp_path: Path, texts: list[str], store: str) -> None:
    append(tmp_path / "test.jsonl", {"text": "good", "label": "++"})
    assert lightrail("fit", *texts, ALLOW, f"--tracking.uri={store}").status == 2
    assert not runs_in(store)
