"""A served prediction is what `lightrail predict` writes, for each task, whatever it was answered together with."""

import base64
import io
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from lightrail.datamodules.reading.image_files import read_idx
from lightrail.project.configuration import parse
from lightrail.project.exporting.writing import export
from lightrail.project.library.predictor import load
from lightrail.project.models.stored_model import stored_model
from lightrail.project.running.build import build
from lightrail.project.serving.limits import Limits
from lightrail.project.tracking.settings import TrackingConfig
from tests.golden.unpacking import unpack
from tests.support.running import QUIET, RecordedRun, lightrail, runs_in
from tests.support.serving import loaded, running
from tests.support.tasks import entities, masked_lm, pinyin, sentences, text_classification, translation

ON_CPU = ("--trainer.accelerator=cpu", "--trainer.precision=32-true")
IN_PYTHON = {"device": "cpu", "precision": "32-true"}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the folder of the stored runs, which is the working folder."""
    folder = tmp_path_factory.mktemp("stored")
    unpack(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("LIGHTRAIL_CACHE", str(folder / "cache"))
        yield folder


def run_named(folder: Path, name: str) -> tuple[RecordedRun, Path]:
    """Return a stored run, and the file that it was tested on."""
    (run,) = (own for own in runs_in(f"sqlite:///{folder}/mlflow.db") if own.tags["mlflow.runName"] == name)
    settings = yaml.safe_load((run.directory / "config.yaml").read_text("utf-8"))["data"]["init_args"]
    return run, folder / settings["test_path"]


def table(file: Path) -> list[Any]:
    header, *rows = (line.split("\t") for line in file.read_text("utf-8").splitlines())
    return [dict(zip(header, row, strict=True)) for row in rows]


def objects(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def images(file: Path) -> list[Any]:
    """As lists of pixels and as files in turn."""
    pixels = [row.values["pixels"] for row in read_idx(str(file), None)]
    return [_png(own) if number % 2 else own.tolist() for number, own in enumerate(pixels)]


def _png(pixels: Any) -> str:
    stream = io.BytesIO()
    Image.fromarray(np.asarray(pixels).squeeze(-1)).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


TASKS: dict[str, Callable[[Path], list[Any]]] = {
    "texts seed 0": objects,
    "images": images,
    "entities": objects,
    "pinyin": table,
    "language": objects,
}


def predicted(model: str, file: Path, *more: str) -> list[dict[str, Any]]:
    outcome = lightrail("predict", model, f"--data.path={file}", *ON_CPU, *more)
    assert outcome.status == 0, outcome.err
    return [json.loads(line) for line in outcome.out.splitlines()]


def check(found: Sequence[dict[str, Any]], expected: Sequence[dict[str, Any]]) -> None:
    """Compare all columns but those that name a place in a file; numbers to 1e-5."""
    assert len(found) == len(expected)
    for own, other in zip(found, expected, strict=True):
        assert own.keys() == other.keys()
        for name in own.keys() - {"id", "line", "image"}:
            assert own[name] == near(other[name]), name


def near(value: Any) -> Any:
    if isinstance(value, list):
        return [near(own) for own in value]
    if isinstance(value, dict):
        return {key: near(own) for key, own in value.items()}
    return pytest.approx(value, abs=1e-5) if isinstance(value, float) else value


@pytest.mark.parametrize("name", TASKS)
def test_a_served_prediction_is_that_of_the_command_for_any_mix_of_clients(name: str, stored: Path) -> None:
    run, file = run_named(stored, name)
    inputs = TASKS[name](file)
    expected = predicted(str(run.directory), file)
    checkpoint, limits = run.directory / "checkpoints" / "best.ckpt", Limits(max_batch=5, max_wait_ms=50)
    if name != "images":  # of which a library reads files, and a server what they hold
        found = [
            {**own, "line": other["line"]}
            for own, other in zip(load(str(checkpoint), IN_PYTHON)(inputs), expected, strict=True)
        ]
        assert found == expected, "to the last bit"
    with running(loaded(checkpoint, limits), limits) as server, ThreadPoolExecutor(8) as clients:
        whole = server.post("/predict", {"inputs": inputs}).json()["predictions"]
        check(whole, expected)
        assert [row["line"] for row in whole][::-1] == sorted((row["line"] for row in whole), reverse=True)
        parts = [inputs[start : start + 1 + start % 3] for start in range(len(inputs))]
        answers = list(clients.map(lambda part: server.post("/predict", part).json()["predictions"], parts))
    for start, (part, answer) in enumerate(zip(parts, answers, strict=True)):
        own = [row for row in whole if start < row["line"] <= start + len(part)]
        check(answer, own)
        assert [row["line"] + start for row in answer] == [row["line"] for row in own]


def pairs(folder: Path) -> list[str]:
    """Return the arguments of a classifier of pairs, each text beside the one before it."""
    arguments = text_classification.settings(folder)
    for file in folder.glob("*.jsonl"):
        rows = objects(file)
        lines = [{**row, "pair": rows[number - 1]["text"]} for number, row in enumerate(rows)]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return [*arguments, "--data.pair_column=pair"]


def masked(folder: Path) -> list[str]:
    """Return the arguments of a masked language model, with a mask in each text to predict but the first."""
    arguments = masked_lm.settings(folder)
    texts = [text.replace(text[1], "[MASK]", number) for number, text in enumerate(masked_lm.TEXTS["test"])]
    (folder / "test.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), "utf-8")
    return arguments


def pinyin_translator(folder: Path) -> list[str]:
    """Return the arguments of a translator of pinyin."""
    arguments = [*pinyin.TRANSLATOR, *pinyin.write_sentences(folder)]
    lines = [json.dumps(row, ensure_ascii=False) for row in table(folder / "test.tsv")]
    (folder / "test.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    return arguments


EXPORTED: dict[str, tuple[Callable[[Path], list[str]], list[str]]] = {
    "pairs": (pairs, ["text", "pair"]),
    "entities": (entities.settings, ["text"]),
    "vectors": (sentences.settings, ["text"]),
    "fills": (masked, ["text"]),
    "pinyin": (pinyin_translator, ["syllables"]),
    "translation": (translation.settings, ["source"]),
}
"""Tasks: their arguments, and the columns that each reads."""


@pytest.mark.parametrize("name", EXPORTED)
def test_an_exported_folder_is_served_as_its_checkpoint_predicts(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings, columns = EXPORTED[name]
    experiment = build(parse([*settings(tmp_path), *QUIET]), "fit")
    experiment.trainer.strategy.connect(experiment.model)
    experiment.trainer.save_checkpoint("best.ckpt", weights_only=True)
    stored = stored_model("./best.ckpt", TrackingConfig(uri=f"sqlite:///{tmp_path}/none.db"))
    export(stored, tmp_path / "out", "safetensors")
    rows = objects(tmp_path / "test.jsonl")
    expected = predicted("./best.ckpt", tmp_path / "test.jsonl")
    assert load("./best.ckpt", IN_PYTHON)(rows) == expected, "to the last bit"
    for file in [*tmp_path.glob("*.jsonl"), *tmp_path.glob("*.t*")]:
        file.unlink()  # of the files of a training, none is needed
    with running(loaded(tmp_path / "out")) as server:
        assert server.get("/about").json()["reads"] == {"columns": columns}
        check(server.post("/predict", {"rows": rows}).json()["predictions"], expected)
        data = {"columns": columns, "data": [[row[name] for name in columns] for row in rows]}
        check(server.post("/invocations", {"dataframe_split": data}).json()["predictions"], expected)
        if len(columns) == 1:
            texts = [row[columns[0]] for row in rows]
            check(server.post("/predict", {"texts": texts}).json()["predictions"], expected)
            check(server.post("/predict", {"text": texts[0]}).json()["predictions"], expected[:1])
