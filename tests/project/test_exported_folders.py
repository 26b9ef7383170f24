"""An exported folder answers as the checkpoint does, wherever it is moved, and is refused in one line when damaged."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lightrail.lightning_modules.model_folder import without_paths
from lightrail.lightning_modules.transfer.exported import load_exported
from lightrail.project.basics.errors import ConfigError
from lightrail.project.exporting.writing import export
from lightrail.project.library.predictor import load
from lightrail.project.models.stored_model import stored_model
from lightrail.project.tracking.settings import TrackingConfig
from tests.golden.unpacking import unpack
from tests.support.language_model import language_model, write_checkpoint
from tests.support.pretrained import write_tiny_bert
from tests.support.running import Fitted, lightrail
from tests.support.tasks import entities, text_classification

NETWORK = "--model.encoder=PretrainedConfig"
STEPS = [
    *("--trainer.max_steps=2", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"),
    *("--data.batch.max_tokens=null", "--data.batch.size=4", "--tracking.uri=sqlite:///mlflow.db"),
    "--trainer.log_every_n_steps=1",
]


@pytest.fixture(scope="module")
def exported(fitted_classifier: Fitted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The classifier as a folder of its own."""
    target = tmp_path_factory.mktemp("exports") / "classifier"
    name = f"runs:/{fitted_classifier.run_id}"
    export(stored_model(name, TrackingConfig(uri=fitted_classifier.store)), target, "safetensors")
    return target


def test_every_command_takes_the_folder_in_place_of_the_run(
    fitted_classifier: Fitted, exported: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    store = f"--tracking.uri={fitted_classifier.store}"
    own = json.loads((exported / "lightrail.json").read_text("utf-8"))["configuration"]["data"]["init_args"]
    stored = fitted_classifier.checkpoint("best")["configuration"]["data"]["init_args"]
    paths = [f"--data.{name}={value}" for name, value in stored.items() if name.endswith("path") and value]
    assert own["path"] == Path(stored["path"]).name
    words = ["--data.path", stored["test_path"]]
    for command, more in (("predict", words), ("validate", paths), ("test", paths)):
        found, expected = (
            lightrail(command, str(named), *more, store) for named in (exported, fitted_classifier.run_id)
        )
        assert found.status == 0, found.err
        assert (found.metrics if command == "test" else found.out) == (
            expected.metrics if command == "test" else expected.out
        )
    texts = ["--text=good film", "--label=+"]
    for place, named in enumerate((str(exported), fitted_classifier.run_id)):
        outcome = lightrail("explain", named, *texts, f"--output=explained{place}.html", store)
        assert outcome.status == 0, outcome.err
    found, expected = (json.loads(Path(f"explained{place}.html.json").read_text("utf-8")) for place in range(2))
    assert found["texts"] == expected["texts"]


@pytest.mark.parametrize("task", ["classifier", "tagger"])
def test_a_hugging_face_tokenizer_comes_with_the_folder(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    texts = (text_classification if task == "classifier" else entities).TEXTS["train"]
    bert = write_tiny_bert(tmp_path / "original" / "bert", texts)
    own = text_classification.write_texts(tmp_path) if task == "classifier" else entities.settings(tmp_path)
    data = [word for word in own if not word.startswith(("--model.", "--data.tokenizer"))]
    outcome = lightrail("fit", *data, NETWORK, f"--model.encoder.checkpoint={bert}", f"--data.tokenizer={bert}", *STEPS)
    assert outcome.status == 0, outcome.err
    test = next(word.partition("=")[2] for word in own if word.startswith("--data.test_path"))
    expected = load(outcome.run_id, tracking_uri="sqlite:///mlflow.db")(Path(test))
    assert lightrail("export", outcome.run_id, "--output=out", "--tracking.uri=sqlite:///mlflow.db").status == 0
    shutil.rmtree(tmp_path / "original")
    shutil.move("out", tmp_path / "moved" / "out")
    folder = tmp_path / "moved" / "out"
    assert load(folder)(Path(test)) == expected
    for file in (path for path in folder.rglob("*") if path.is_file()):
        assert str(tmp_path).encode() not in file.read_bytes(), file
    again = lightrail("export", str(folder), "--output=again", "--tracking.uri=sqlite:///mlflow.db")
    assert again.status == 0, again.err
    assert load(Path("again"))(Path(test)) == expected


def test_a_language_model_whose_tokenizer_is_gone_is_exported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_checkpoint(language_model(), tmp_path / "best.ckpt", tokenizer=str(tmp_path / "gone"))
    export(stored_model(str(path), TrackingConfig(uri=f"sqlite:///{tmp_path}/no.db")), tmp_path / "out", "safetensors")
    assert "data.tokenizer is not exported, which only further tests need: data.tokenizer: " in caplog.text
    assert load(tmp_path / "out").generate("春", max_tokens=3, temperature=0) == load(path).generate(
        "春", max_tokens=3, temperature=0
    )


def edited(**changes: object) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        file = folder / "lightrail.json"
        file.write_text(json.dumps({**json.loads(file.read_text("utf-8")), **changes}))

    return edit


def as_a_pipe(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")


def with_a_bit_flipped(folder: Path) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (with_a_bit_flipped, r"model\.safetensors is not as it was exported"),
        (as_a_pipe, r"model\.safetensors is a pipe; a file is needed"),
        (lambda folder: (folder / "lightrail.json").write_text("{"), r"lightrail\.json cannot be read"),
        (edited(configuration=[]), r"is damaged: its configuration is \[\]"),
        (edited(configuration={"data": 3}), r"has no configuration of its model"),
        (edited(files={"../x": ""}), r"names '\.\./x', no file of the folder"),
        (edited(files={"/etc/passwd": ""}), r"names '/etc/passwd', no file of the folder"),
        (edited(tokenizers={"tokenizer": "/etc"}), r"describes no data: '/etc' is no folder in it"),
        (edited(tokenizers={"tokenizer": "nowhere"}), r"data\.tokenizer: '.*nowhere' .*no such folder here"),
        (edited(run={"id": 3}), r"is damaged: its run is \{'id': 3\}"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line(
    exported: Path, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    folder = shutil.copytree(exported, tmp_path / "copy")
    damage(folder)
    (tmp_path / "texts.txt").write_text("good\n")
    outcome = lightrail("predict", str(folder), f"--data.path={tmp_path}/texts.txt")
    assert (outcome.status, outcome.out) == (2, "")
    with pytest.raises(ConfigError, match=message) as refused:
        load(folder)(["good"])
    assert "\n" not in str(refused.value)
    assert str(refused.value) in outcome.err


def test_what_version_0_1_exported_loads_and_is_refused_where_its_data_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpack(tmp_path)
    assert load_exported(tmp_path / "exported").state_dict()
    (tmp_path / "texts.txt").write_text("good\n")
    outcome = lightrail("predict", str(tmp_path / "exported"), f"--data.path={tmp_path}/texts.txt")
    assert (outcome.status, outcome.out) == (2, "")
    assert "has no configuration of its model. Name one that `lightrail fit` wrote, and export again" in outcome.err
    with pytest.raises(ConfigError, match=r"has no data side, .* it can only generate text\. Export the run again"):
        load(tmp_path / "exported")(["good"])


def test_labels_and_names_on_the_hub_are_no_paths() -> None:
    settings = {
        "label_names": ["/m/09x0r"],
        "label_separator": "/",
        "tokenizer": "owner/name",
        "parts": [{"p": "/a/b"}],
    }
    assert without_paths(settings) == {**settings, "parts": [{"p": "b"}]}
