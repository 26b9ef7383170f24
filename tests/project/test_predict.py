"""`lightrail predict`: what it reads, whatever the run was trained on, and what it writes."""

import csv
import gzip
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from lightrail.project.basics.errors import ConfigError
from lightrail.project.models.answer_files import check_output, flat, with_named_lists, write_answers
from tests.support.children import SECONDS_TO_HANG
from tests.support.running import FOUR_STEPS, QUIET, Fitted, Outcome, lightrail
from tests.support.tasks.entities import TEXTS as SENTENCES
from tests.support.tasks.entities import TINY as TINY_TAGGER
from tests.support.tasks.entities import write_entities
from tests.support.tasks.image_classification import write_pictures
from tests.support.tasks.text_classification import write_texts

ODD_ROWS = ["好 看|+", "不 好 看|-", '"很 好|+', "不 行|-", "好|+", "不|-", "很 好 看|+", "不 好|-"]
"""Not what any other file is like: no header, quotes that are none, GB 18030, an ending that says nothing."""
WORDS = ["--data.tokenizer=words", "--data.min_count=1"]
TINY_NETWORK = [*WORDS, "--model.encoder.width=8", "--model.encoder.depth=1"]


def named(run: Fitted) -> list[str]:
    return [f"--ckpt_path=runs:/{run.run_id}", f"--tracking.uri={run.store}"]


def rows(outcome: Outcome) -> list[dict[str, Any]]:
    assert outcome.status == 0, outcome.err
    return [json.loads(line) for line in outcome.out.splitlines()]


@pytest.fixture(scope="module")
def ground(store_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of this file's own runs and their store: other tests count those in the shared one."""
    folder = tmp_path_factory.mktemp("predict")
    shutil.copy(store_template, folder / "mlflow.db")
    return folder


def fit(folder: Path, *arguments: str, last: Sequence[str] = ()) -> Fitted:
    """Train for a moment into the store beside `folder`; `last` counts above what that takes."""
    store = f"sqlite:///{folder.parent}/mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIGHTRAIL_CACHE", str(folder.parent / "cache"))
        patch.setenv("XDG_STATE_HOME", str(folder.parent / "state"))
        outcome = lightrail("fit", *arguments, *FOUR_STEPS, *last, *QUIET, f"--tracking.uri={store}")
    assert outcome.status == 0, outcome.err
    return Fitted(store, outcome.run_id, list(arguments), folder, outcome)


@pytest.fixture
def standard_input(monkeypatch: pytest.MonkeyPatch) -> io.BytesIO:
    stream = io.BytesIO()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(stream))
    return stream


def type_in(stream: io.BytesIO, text: str) -> None:
    stream.write(text.encode())
    stream.seek(0)


def test_each_label_has_its_probability(fitted_classifier: Fitted, tmp_path: Path) -> None:
    (tmp_path / "new.txt").write_text("a good film\nso dull\n")
    for answer in rows(lightrail("predict", *named(fitted_classifier), f"--data.path={tmp_path}/new.txt")):
        probabilities = answer["probabilities"]
        assert list(probabilities) == ["+", "-"]
        assert sum(probabilities.values()) == pytest.approx(1)
        assert probabilities[answer["prediction"]] == answer["score"] == max(probabilities.values())


@pytest.mark.parametrize("arguments", [["--data.path=-"], ["--data.path", "-"]])
def test_standard_input_is_predicted_as_a_file_is(
    fitted_classifier: Fitted, tmp_path: Path, standard_input: io.BytesIO, arguments: list[str]
) -> None:
    text = "a good film\r\nso dull\nfine"
    (tmp_path / "new.txt").write_bytes(text.encode())
    type_in(standard_input, text)
    typed = rows(lightrail("predict", *named(fitted_classifier), *arguments))
    assert typed == rows(lightrail("predict", *named(fitted_classifier), f"--data.path={tmp_path}/new.txt"))
    assert [(answer["id"], answer["line"], answer["text"]) for answer in typed] == [
        (0, 1, "a good film"),
        (1, 2, "so dull"),
        (2, 3, "fine"),
    ]


def test_nothing_on_standard_input_is_refused(
    fitted_classifier: Fitted, standard_input: io.BytesIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = lightrail("predict", *named(fitted_classifier), "--data.path=-")
    assert (outcome.status, outcome.out) == (2, "")
    assert "standard input holds no rows (nothing to read). Give at least one." in outcome.err
    monkeypatch.setattr(sys, "stdin", None)
    closed = lightrail("predict", *named(fitted_classifier), "--data.path=-")
    assert (closed.status, "standard input is closed" in closed.err) == (2, True)


def test_records_on_standard_input_are_read_as_configured(
    fitted_classifier: Fitted, standard_input: io.BytesIO
) -> None:
    type_in(standard_input, '{"text": "so dull", "key": 7}\n\n{"text": "fine"}\n')
    format_of_it = ["--data.path=-", "--data.reading.file_format=jsonl"]
    answers = rows(lightrail("predict", *named(fitted_classifier), *format_of_it))
    assert [(answer["id"], answer["line"], answer["text"]) for answer in answers] == [(0, 1, "so dull"), (1, 3, "fine")]


@pytest.fixture(scope="module")
def oddly_read(ground: Path) -> Fitted:
    """A run on files that need every setting of data.reading."""
    folder = ground / "odd"
    folder.mkdir()
    for name in ("train", "validation", "test"):
        text = "\n".join(row.replace("|", ",") for row in ODD_ROWS)
        (folder / f"{name}.data").write_bytes(text.encode("gb18030"))
    settings = {"path": "train", "validation_path": "validation", "test_path": "test"}
    paths = [f"--data.{setting}={folder}/{name}.data" for setting, name in settings.items()]
    names = ["--data.text_column=words", "--data.label_column=mood", "--data.reading.column_names=[words, mood]"]
    reading = [f"--data.reading.{setting}" for setting in ("encoding=gb18030", "file_format=csv", "quoting=none")]
    classes = ["--model=TextClassifier", "--data=TextClassificationData"]
    return fit(folder, *classes, *paths, *names, *reading, *TINY_NETWORK)


@pytest.mark.parametrize(
    ("name", "content", "more"),
    [
        ("new.txt", "好 看\n不 行\n", []),
        ("new.csv", 'id,words\n7,"好 看"\n9,不 行\n', []),
        ("new.tsv", "text\tmood\n好 看\t+\n不 行\t-\n", ["--data.text_column=text"]),
        ("new.jsonl", '{"words": "好 看"}\n{"words": "不 行"}\n', []),
        ("new.txt.gz", "好 看\n不 行\n", []),
        ("new.data", "好 看\n不 行\n", ["--data.reading.file_format=txt"]),
        ("big5.txt", "好 看\n不 行\n", ["--data.reading.encoding=big5"]),
    ],
)
def test_new_files_are_read_by_their_names_however_the_runs_were(
    oddly_read: Fitted, tmp_path: Path, name: str, content: str, more: list[str]
) -> None:
    encoded = content.encode("big5" if name.startswith("big5") else "utf-8")
    (tmp_path / name).write_bytes(gzip.compress(encoded) if name.endswith("gz") else encoded)
    answers = rows(lightrail("predict", *named(oddly_read), f"--data.path={tmp_path}/{name}", *more))
    assert [answer["text"] for answer in answers] == ["好 看", "不 行"]


def test_the_runs_own_files_are_read_as_the_run_read_them(oddly_read: Fitted) -> None:
    answers = rows(lightrail("predict", *named(oddly_read), f"--data.path={oddly_read.folder}/test.data"))
    tested = oddly_read.predictions.to_pylist()
    assert [(answer["text"], answer["prediction"]) for answer in answers] == [
        (row["text"], row["prediction"]) for row in tested
    ]
    assert [answer["text"] for answer in answers] == [row.partition("|")[0] for row in ODD_ROWS]


def test_a_parquet_file_is_predicted(fitted_classifier: Fitted, tmp_path: Path) -> None:
    pa.parquet.write_table(pa.table({"text": ["so dull", "fine"], "key": [7, 9]}), tmp_path / "new.parquet")
    answers = rows(lightrail("predict", *named(fitted_classifier), f"--data.path={tmp_path}/new.parquet"))
    assert [(answer["line"], answer["text"]) for answer in answers] == [(1, "so dull"), (2, "fine")]


def test_a_prediction_names_the_line_where_its_text_begins(fitted_classifier: Fitted, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text('text\n"so\n\ndull"\n\nfine\n"  "\nday\n')
    arguments = [f"--data.path={tmp_path}/new.csv", "--data.reading.empty=skip"]
    answers = rows(lightrail("predict", *named(fitted_classifier), *arguments))
    assert [(answer["id"], answer["line"], answer["text"]) for answer in answers] == [
        (0, 2, "so\n\ndull"),
        (1, 6, "fine"),
        (2, 8, "day"),
    ]


def test_half_a_surrogate_pair_is_predicted(fitted_classifier: Fitted, tmp_path: Path) -> None:
    (tmp_path / "new.jsonl").write_text('{"text": "good \\ud83d film"}\n')
    (answer,) = rows(lightrail("predict", *named(fitted_classifier), f"--data.path={tmp_path}/new.jsonl"))
    assert answer["text"] == "good \ufffd film"


def test_callbacks_that_print_do_not_print_between_the_predictions(fitted_classifier: Fitted, tmp_path: Path) -> None:
    (tmp_path / "new.txt").write_text("so dull\n")
    bar = ["--trainer.enable_progress_bar=true", "--trainer.callbacks=TQDMProgressBar"]
    outcome = lightrail("predict", *named(fitted_classifier), f"--data.path={tmp_path}/new.txt", *bar)
    assert len(rows(outcome)) == 1
    assert "Predicting" in outcome.err


def test_a_table_has_a_column_for_each_label(fitted_classifier: Fitted, tmp_path: Path) -> None:
    (tmp_path / "new.txt").write_text('so "dull", so bad\nfine\n')
    arguments = [*named(fitted_classifier), f"--data.path={tmp_path}/new.txt"]
    shown = rows(lightrail("predict", *arguments))
    for name in ("answers.csv", "answers.parquet"):
        assert lightrail("predict", *arguments, f"--output={tmp_path}/{name}").status == 0
    with (tmp_path / "answers.csv").open(newline="", encoding="utf-8") as stream:
        written = list(csv.DictReader(stream))
    columns = ["id", "line", "text", "prediction", "score", "probability_+", "probability_-"]
    assert list(written[0]) == columns
    assert [row["text"] for row in written] == ['so "dull", so bad', "fine"]
    for label in "+-":
        expected = [row["probabilities"][label] for row in shown]
        assert [float(row[f"probability_{label}"]) for row in written] == pytest.approx(expected, rel=1e-6)
    assert pa.parquet.read_table(tmp_path / "answers.parquet").to_pylist() == shown
    assert sorted(file.name for file in tmp_path.glob("answers*")) == ["answers.csv", "answers.parquet"]


def table() -> pa.Table:
    entities = [[{"start": 0, "end": 2, "type": "PER", "text": "张三", "score": 0.5}], []]
    return pa.table({"id": [0, 1], "probabilities": [[0.25, 0.75], [1.0, 0.0]], "entities": entities})


def test_numbers_are_named_and_a_flat_table_holds_lists_as_json() -> None:
    answers = with_named_lists(table(), {"probabilities": ["a b", ""], "others": ["x"]})
    assert answers["probabilities"].to_pylist() == [{"a b": 0.25, "": 0.75}, {"a b": 1.0, "": 0.0}]
    assert answers.column_names == ["id", "probabilities", "entities"]
    plain = flat(answers)
    assert plain.column_names == ["id", "probability_a b", "probability_", "entities"]
    assert plain["probability_a b"].to_pylist() == [0.25, 1.0]
    assert json.loads(plain["entities"][0].as_py()) == table()["entities"][0].as_py()
    assert "张三" in plain["entities"][0].as_py()
    assert plain["entities"][1].as_py() == "[]"


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_a_file_is_written_whole_or_left_as_it_was(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / f"answers.{ending}"
    output.write_text("before")
    (tmp_path / "link").symlink_to(output)
    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(ConfigError, match=r"--output .*answers\.\w+: No space left on device\. Name a file in"):
        write_answers(table(), output)
    assert output.read_text() == "before"
    assert sorted(file.name for file in tmp_path.iterdir()) == [output.name, "link"]
    monkeypatch.undo()
    write_answers(table(), output)
    assert len(output.read_bytes()) > 60
    assert sorted(file.name for file in tmp_path.iterdir()) == [output.name, "link"]


def fail(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_link_still_leads_to_the_predictions(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "answers.jsonl").symlink_to(tmp_path / "folder" / "real.jsonl")
    write_answers(table(), tmp_path / "answers.jsonl")
    assert (tmp_path / "answers.jsonl").is_symlink()
    assert len((tmp_path / "folder" / "real.jsonl").read_text().splitlines()) == 2


def test_an_output_that_cannot_be_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "new.csv").write_text("text\nfine\n")
    for name, message in (
        ("answers.xlsx", r"answers\.xlsx: unknown format\. End the name in \.jsonl, \.csv, \.parquet, \.npy"),
        ("folder.csv", r"folder\.csv is a folder\. Name a file in it"),
        ("folder.csv/../new.csv", r"new\.csv is data\.path, which it would replace"),
        ("new.csv/answers.csv", r"new\.csv: cannot write there .* Choose another --output"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_output(tmp_path / name, f"{tmp_path}/new.csv")


def test_more_processes_than_one_cannot_share_standard_input(
    fitted_classifier: Fitted, standard_input: io.BytesIO
) -> None:
    type_in(standard_input, "fine\n")
    two = ["--data.path=-", "--trainer.devices=2", "--trainer.strategy=ddp"]
    outcome = lightrail("predict", *named(fitted_classifier), *two)
    assert outcome.status == 2
    assert "standard input is read by one process. Set --trainer.devices 1" in outcome.err


@pytest.fixture(scope="module")
def tagger(ground: Path) -> Fitted:
    folder = ground / "entities"
    folder.mkdir()
    learned = ["--model.optim.lr=0.02", "--trainer.max_steps=60", "--trainer.val_check_interval=30"]
    return fit(folder, *write_entities(folder), *TINY_TAGGER, last=learned)


@pytest.mark.parametrize("from_pipe", [True, False])
def test_entities_stand_where_their_offsets_say(
    tagger: Fitted, tmp_path: Path, standard_input: io.BytesIO, from_pipe: bool
) -> None:
    texts = ["  Anna , 张三 🙂  lives in new  york", "paris", "acme of\u3000paris", *SENTENCES["train"]]
    type_in(standard_input, "\n".join(texts))
    (tmp_path / "new.txt").write_text("\n".join(texts), encoding="utf-8")
    answers = rows(lightrail("predict", *named(tagger), f"--data.path={'-' if from_pipe else tmp_path / 'new.txt'}"))
    assert [answer["text"] for answer in answers] == texts
    assert sum(len(answer["entities"]) for answer in answers) > 8
    for answer in answers:
        found = answer["entities"]
        assert [answer["text"][entity["start"] : entity["end"]] for entity in found] == [own["text"] for own in found]
        written = " ".join(f"{entity['start']}:{entity['end']}:{entity['type']}" for entity in found)
        assert answer["prediction"] == written
        assert all(0 <= entity["score"] <= 1 for entity in found)
    assert answers[0].keys() == {"id", "line", "text", "prediction", "score", "entities"}


def test_tagged_tokens_are_predicted_as_the_text_they_make(tagger: Fitted, tmp_path: Path) -> None:
    (tmp_path / "new.conll").write_text("anna B-PER\nin O\nparis B-LOC\n\n\nacme B-ORG\n")
    (tmp_path / "new.txt").write_text("anna in paris\nacme\n")
    from_tokens, from_text = (
        rows(lightrail("predict", *named(tagger), f"--data.path={tmp_path}/new.{ending}"))
        for ending in ("conll", "txt")
    )
    assert [answer["line"] for answer in from_tokens] == [1, 6]
    for tokens, text in zip(from_tokens, from_text, strict=True):
        assert {**tokens, "line": 0} == {**text, "line": 0}


def test_entities_go_into_a_table_as_json(tagger: Fitted, tmp_path: Path) -> None:
    (tmp_path / "new.txt").write_text("anna in paris\nno\n")
    arguments = [*named(tagger), f"--data.path={tmp_path}/new.txt"]
    shown = rows(lightrail("predict", *arguments))
    assert lightrail("predict", *arguments, f"--output={tmp_path}/answers.csv").status == 0
    with (tmp_path / "answers.csv").open(newline="", encoding="utf-8") as stream:
        written = [json.loads(row["entities"]) for row in csv.DictReader(stream)]
    assert written == [answer["entities"] for answer in shown]


def test_a_text_may_be_given_several_labels(ground: Path) -> None:
    folder = ground / "many"
    folder.mkdir()
    settings = write_texts(folder)
    for file in folder.glob("*.jsonl"):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        several = [{**row, "label": [row["label"], "day"] if "day" in row["text"] else [row["label"]]} for row in lines]
        file.write_text("".join(json.dumps(row) + "\n" for row in several))
    run = fit(folder, *settings, *TINY_NETWORK, "--data.has_many_labels=true")
    (folder / "new.txt").write_text("a fine day\ndull\n")
    for answer in rows(lightrail("predict", *named(run), f"--data.path={folder}/new.txt")):
        assert set(answer["probabilities"]) == {"+", "-", "day"}
        assert set(answer["prediction"].split("|")) <= {"+", "-", "day", ""}


def test_images_are_predicted(ground: Path) -> None:
    folder = ground / "pictures"
    folder.mkdir()
    run = fit(folder, *write_pictures(folder), "--model.encoder=MlpConfig")
    answers = rows(lightrail("predict", *named(run), f"--data.path={folder}/test-images-idx3-ubyte"))
    assert [set(answer["probabilities"]) for answer in answers] == [{"up", "down"}] * 11
    assert [answer["image"] for answer in answers] == [f"test-images-idx3-ubyte:{number}" for number in range(1, 12)]


def test_a_run_predicts_without_the_vectors_that_it_started_with(ground: Path) -> None:
    folder = ground / "vectors"
    folder.mkdir()
    settings = write_texts(folder)
    (folder / "words.txt").write_text("good 1 2 3\nbad 4 5 6\n")
    vectors = [f"--model.encoder.vectors.path={folder}/words.txt", "--model.optim.freeze=['.*embedding.vectors']"]
    network = ["--model.encoder=TextCnnConfig", "--model.encoder.width=8", "--model.pooling=max"]
    run = fit(folder, *settings, *network, *vectors, *WORDS)
    (folder / "words.txt").unlink()
    answers = rows(lightrail("predict", *named(run), f"--data.path={folder}/test.jsonl"))
    tested = run.predictions.to_pylist()
    assert [answer["score"] for answer in answers] == pytest.approx([row["score"] for row in tested], rel=1e-5)


@pytest.mark.parametrize("command", ["cat", "head -n 1"])
def test_a_pipe_gets_predictions_and_nothing_else(fitted_classifier: Fitted, tmp_path: Path, command: str) -> None:
    num_texts = 5000  # more than a pipe holds
    text = "".join(f"好 film {number}\n" for number in range(num_texts))
    arguments = [*named(fitted_classifier), "--data.path=-", "--data.batch.size=1000"]
    predict = [sys.executable, "-m", "lightrail", "predict", *arguments]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LIGHTRAIL_CACHE": str(tmp_path), "OMP_NUM_THREADS": "1"}
    piped = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f'"$@" | {command}', "bash", *predict],
        input=text.encode(),
        capture_output=True,
        env=environment,
        check=False,
        timeout=SECONDS_TO_HANG,
    )
    errors = piped.stderr.decode()
    assert piped.returncode == 0, errors
    answers = [json.loads(line) for line in piped.stdout.decode("utf-8").splitlines()]
    assert [answer["text"] for answer in answers] == text.splitlines()[: 1 if "head" in command else num_texts]
    assert f"predicted {num_texts} in" in errors
    assert "Traceback" not in errors
    assert "Exception" not in errors
