"""The MLflow model of a run: it predicts what `lightrail predict` does, wherever MLflow loads it, and is there once."""

import contextlib
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import LoggedModel, LoggedModelStatus, Run
from mlflow.exceptions import MlflowException
from PIL import Image

from lightrail.project.basics.errors import ConfigError, DataError
from lightrail.project.commands import ui
from lightrail.project.library.predictor import load
from lightrail.project.logged_models.describing import Answering, requirements, schema_of, write_model
from lightrail.project.logged_models.publishing import model_of, publish
from lightrail.project.tracking.run import TrackedRun, start_run
from lightrail.project.tracking.settings import TrackingConfig
from tests.support.children import SECONDS_TO_HANG
from tests.support.running import Fitted, lightrail
from tests.support.tasks import causal_lm, entities, image_classification
from tests.support.tracking import FarAway

TEXTS = ["good film", "so bad , really bad", "a fine day"]
STEPS = [
    *("--trainer.max_steps=2", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"),
    *("--data.batch.max_tokens=null", "--data.batch.size=4", "--trainer.log_every_n_steps=1"),
]


@pytest.fixture(autouse=True)
def _without_pickles(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    yield
    mlflow.set_tracking_uri(None)  # a store that was read and set again would be fixed


def loaded(uri: str, store: str) -> Any:
    mlflow.set_tracking_uri(store)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MLflow, when pyfunc is imported
        return importlib.import_module("mlflow.pyfunc").load_model(uri)


def rows_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def the_model(run: Fitted) -> LoggedModel:
    found = run.client.get_run(run.run_id)
    (output,) = found.outputs.model_outputs
    return run.client.get_logged_model(output.model_id)


@pytest.mark.filterwarnings("ignore")
def test_a_classifier_predicts_the_same_by_every_name(fitted_classifier: Fitted, tmp_path: Path) -> None:
    store, model = fitted_classifier.store, the_model(fitted_classifier)
    expected = load(fitted_classifier.run_id, tracking_uri=store)(TEXTS)
    client = fitted_classifier.client
    client.create_registered_model("film-reviews")
    version = client.create_model_version(
        "film-reviews", model.artifact_location, fitted_classifier.run_id, model_id=model.model_id
    )
    client.set_registered_model_alias("film-reviews", "best", version.version)
    names = [f"runs:/{fitted_classifier.run_id}/model", f"models:/{model.model_id}", "models:/film-reviews@best"]
    for name in names:
        assert rows_of(loaded(name, store).predict(pd.DataFrame({"text": TEXTS}))) == expected
        assert load(name, tracking_uri=store)(TEXTS) == expected
    (tmp_path / "texts.txt").write_text("".join(f"{text}\n" for text in TEXTS))
    outcome = lightrail("predict", names[2], f"--data.path={tmp_path}/texts.txt", f"--tracking.uri={store}")
    assert [json.loads(line) for line in outcome.out.splitlines()] == expected


def test_it_says_what_it_reads_and_where_it_comes_from(fitted_classifier: Fitted) -> None:
    model, run = the_model(fitted_classifier), fitted_classifier.client.get_run(fitted_classifier.run_id)
    assert (model.name, model.status, model.source_run_id) == ("model", LoggedModelStatus.READY, run.info.run_id)
    assert model.model_type == "TextClassifier"
    measured = {own.key: own.value for own in model.metrics or []}
    assert measured == {name: own for name, own in fitted_classifier.metrics.items() if name.startswith("test/")}
    assert {own.dataset_name for own in model.metrics or []} == {"test"}
    digests = {own.dataset.digest for own in run.inputs.dataset_inputs if own.dataset.name == "test"}
    assert {own.dataset_digest for own in model.metrics or []} == digests
    found = loaded(f"models:/{model.model_id}", fitted_classifier.store)
    assert found.metadata.signature.inputs.input_names() == ["text"]
    predicted = found.predict(found.input_example)
    assert found.metadata.signature.outputs.input_names() == list(predicted.columns)
    assert list(found.input_example["text"]) == ["good film", "bad film"], "the beginning of the validation split"
    folder = Path(model.artifact_location.removeprefix("file://"))
    assert not [path for path in folder.rglob("*") if path.suffix in (".pkl", ".pickle")]
    needed = (folder / "requirements.txt").read_text("utf-8").splitlines()
    assert needed == requirements()
    assert {own.partition("==")[0] for own in needed} >= {"lightrail", "torch", "mlflow", "lightning", "transformers"}


def test_its_folder_is_whole_without_a_second_copy_of_the_weights(fitted_classifier: Fitted, tmp_path: Path) -> None:
    model = the_model(fitted_classifier)
    folder = Path(model.artifact_location.removeprefix("file://"))
    weights = folder / "artifacts" / "best.ckpt"
    assert weights.samefile(fitted_classifier.directory / "checkpoints" / "best.ckpt")
    expected = load(fitted_classifier.run_id, tracking_uri=fitted_classifier.store)(TEXTS)
    mlflow.set_tracking_uri(fitted_classifier.store)
    context = download_artifacts(f"runs:/{fitted_classifier.run_id}/model", dst_path=str(tmp_path / "context"))
    alone = loaded(context, f"sqlite:///{tmp_path}/of-another-machine.db")  # as in an image that MLflow builds
    assert rows_of(alone.predict(pd.DataFrame({"text": TEXTS}))) == expected
    Path(context, "artifacts", "best.ckpt").unlink()
    of_run = loaded(context, fitted_classifier.store)
    assert rows_of(of_run.predict(pd.DataFrame({"text": TEXTS}))) == expected
    Path(context, "artifacts", "run.json").write_text("{")
    with pytest.raises(ConfigError, match=r"run\.json names no run: .* Download the model again\."):
        loaded(context, fitted_classifier.store)


@pytest.mark.filterwarnings("ignore")
def test_entities_images_and_texts_are_predicted(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIGHTRAIL_CACHE", str(tmp_path / "cache"))
    image = [[0, 200, 9, 0, 1]] * 6
    given: list[tuple[ModuleType, list[dict[str, Any]]]] = [
        (entities, [{"text": "anna in paris"}, {"text": "acme is big"}]),
        (causal_lm, [{"text": "山有枝"}]),
        (image_classification, [{"pixels": image}, {"pixels": [[[255]] * 5] * 6}]),
    ]
    for task, rows in given:
        folder = tmp_path / task.__name__.rpartition(".")[2]
        folder.mkdir()
        outcome = lightrail("fit", *task.settings(folder), *STEPS, f"--tracking.uri={store}")
        assert outcome.status == 0, outcome.err
        model = loaded(f"runs:/{outcome.run_id}/model", store)
        expected = load(outcome.run_id, tracking_uri=store)(rows)
        assert rows_of(model.predict(pd.DataFrame(rows))) == expected
        assert len(model.predict(model.input_example)) == 2
    with pytest.raises(DataError, match=r"rows\.jsonl:1 is no image: a pixel is no whole number from 0 to 255"):
        model.predict(pd.DataFrame([{"pixels": [[0, 256]]}]))
    Image.fromarray(np.array(image, np.uint8)).save(tmp_path / "one.png")
    (found,) = rows_of(model.predict(pd.DataFrame([{"image": str(tmp_path / "one.png")}])))
    assert found["probabilities"] == pytest.approx(expected[0]["probabilities"], rel=1e-5)  # of another batch
    assert found["image"] == str(tmp_path / "one.png")


def request(uri: str, body: Any | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(uri, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=SECONDS_TO_HANG) as answer:
        return json.loads(answer.read().strip() or "null")


def test_a_server_of_mlflow_answers_as_predict_does(fitted_classifier: Fitted, tmp_path: Path) -> None:
    expected = load(fitted_classifier.run_id, tracking_uri=fitted_classifier.store)(TEXTS)
    port = ui._usable_port(0)
    named = ["-m", f"runs:/{fitted_classifier.run_id}/model", "--env-manager", "local", "-p", str(port)]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # MLflow starts uvicorn by its name
    environment = {**os.environ, "PATH": path, "MLFLOW_TRACKING_URI": fitted_classifier.store}
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "models", "serve", *named],
        env=environment,
        cwd=tmp_path,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        uri, deadline = f"http://127.0.0.1:{port}", time.monotonic() + SECONDS_TO_HANG
        while server.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
                request(f"{uri}/ping")
                break
            time.sleep(0.2)
        answer = request(f"{uri}/invocations", {"dataframe_records": [{"text": text} for text in TEXTS]})
        assert answer["predictions"] == expected
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


ANSWERING = Answering(columns={"text": True}, structured=())


def finished(store: str, **tags: str) -> TrackedRun:
    """A run that was tested, whose model waits."""
    run = start_run(TrackingConfig(uri=store), {}, {"lightrail.task": "TextClassifier", **tags})
    (run.directory / "checkpoints" / "best.ckpt").write_bytes(b"weights")
    run.logger.log_metrics({"test/accuracy": 0.5, "val/accuracy": 0.4}, 0)
    write_model(run.model_folder, run.run_id, [], ANSWERING)
    return run


def check_has_one(client: MlflowClient, run_id: str) -> None:
    """See that a run has its model, linked once."""
    run = client.get_run(run_id)
    models = [own for own in client.search_logged_models([run.info.experiment_id]) if own.source_run_id == run_id]
    assert [own.status for own in models] == [LoggedModelStatus.READY]
    assert [own.model_id for own in run.outputs.model_outputs] == [models[0].model_id]
    assert [(own.key, own.value) for own in models[0].metrics or []] == [("test/accuracy", 0.5)]


STEPS_OF_PUBLISHING = [
    "create_logged_model",
    "log_model_artifacts",
    "log_outputs",
    "log_batch",
    "finalize_logged_model",
]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS_OF_PUBLISHING)
def test_however_it_is_interrupted_a_run_has_one_model(
    store: str, step: str, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished(store)
    kept = shutil.copytree(run.model_folder, run.model_folder.with_name("kept"))
    shutil.rmtree(run.model_folder)
    run._end("FINISHED", None)
    client, method = MlflowClient(store), getattr(MlflowClient, step)
    assert model_of(client, client.get_run(run.run_id)) is None

    def killed(*arguments: Any, **settings: Any) -> Any:
        if when == "after":
            method(*arguments, **settings)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, step, killed)
        with pytest.raises(KeyboardInterrupt):
            publish(client, run.run_id, kept)
    assert kept.is_dir()
    for _ in range(2):
        publish(client, run.run_id, kept)
    assert not kept.exists()
    check_has_one(client, run.run_id)


def failing(code: str) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise MlflowException("there is none", error_code=getattr(mlflow.protos.databricks_pb2, code))

    return fail


def test_a_store_that_is_away_for_a_moment_gets_the_model_by_sync(
    store: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("lightrail.project.tracking.run.CLOSE_SECONDS", 1.0)
    run, client = finished(store), MlflowClient(store)
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "create_logged_model", failing("TEMPORARILY_UNAVAILABLE"))
        run._end("FINISHED", None)
    assert "its store is incomplete" in caplog.text
    assert client.get_run(run.run_id).info.status == "FINISHED", "the run does not fail because of it"
    for _ in range(2):
        outcome = lightrail("sync", f"--tracking.uri={store}")
        assert outcome.status == 0, outcome.err
        check_has_one(client, run.run_id)
    folder = Path(the_folder(client, client.get_run(run.run_id)))
    assert (folder / "artifacts" / "best.ckpt").samefile(run.directory / "checkpoints" / "best.ckpt")
    assert not run.model_folder.exists()


def the_folder(client: MlflowClient, run: Run) -> str:
    model = model_of(client, run)
    assert model is not None
    return str(model.artifact_location).removeprefix("file://")


def test_the_model_that_a_run_started_from_is_its_input(store: str) -> None:
    client, first = MlflowClient(store), finished(store)
    first._end("FINISHED", None)
    started = {"of a run": first.run_id, "of a file": "weights.safetensors", "of another store": "0" * 32}
    inputs = {}
    for name, tag in started.items():
        run = finished(store, **{"lightrail.init_from": tag})
        run._end("FINISHED", None)
        inputs[name] = [own.model_id for own in client.get_run(run.run_id).inputs.model_inputs]
    (output,) = client.get_run(first.run_id).outputs.model_outputs
    assert inputs == {"of a run": [output.model_id], "of a file": [], "of another store": []}


def test_the_weights_of_a_deleted_run_are_removed_under_both_names(store: str) -> None:
    run, client = finished(store), MlflowClient(store)
    run._end("FINISHED", None)
    weights = Path(the_folder(client, client.get_run(run.run_id)), "artifacts", "best.ckpt")
    assert weights.stat().st_nlink == 2
    client.delete_run(run.run_id)
    assert lightrail("clean", f"--tracking.uri={store}", "--yes").status == 0
    assert not weights.exists()
    assert not run.directory.exists()


def test_a_store_without_models_gets_the_run_without_one(
    store: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run, client = finished(store), MlflowClient(store)
    monkeypatch.setattr(MlflowClient, "search_logged_models", failing("ENDPOINT_NOT_FOUND"))
    run._end("FINISHED", None)
    assert f"run {run.run_id} has no MLflow model, which its store refuses: there is none" in caplog.text
    assert client.get_run(run.run_id).info.status == "FINISHED"
    assert not run.model_folder.exists()


def test_files_of_a_model_are_written_to_no_other_folder(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = finished(store)
    monkeypatch.setattr(LoggedModel, "artifact_location", property(lambda _: f"file://{tmp_path}/home"))
    run._end("FINISHED", None)
    assert "has no MLflow model, which its store refuses: the store reports that the files of the model" in caplog.text
    assert not (tmp_path / "home").exists()


def test_a_run_that_failed_or_only_tested_has_no_model(fitted_classifier: Fitted, store: str, tmp_path: Path) -> None:
    run, client = finished(store), MlflowClient(store)
    run._end("FAILED", "x")
    assert not client.get_run(run.run_id).outputs.model_outputs
    outcome = lightrail("test", fitted_classifier.run_id, f"--tracking.uri={fitted_classifier.store}")
    assert outcome.status == 0, outcome.err
    assert not fitted_classifier.client.get_run(outcome.run_id).outputs.model_outputs


def test_where_artifacts_are_elsewhere_the_model_refers_to_the_checkpoint_of_the_run(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.store.artifact.artifact_repository_registry import _artifact_repository_registry

    monkeypatch.setitem(_artifact_repository_registry._registry, "faraway", FarAway)
    client = MlflowClient(store)
    client.create_experiment("far", artifact_location=f"faraway:{tmp_path}/far")
    run = start_run(TrackingConfig(uri=store, experiment="far"), {}, {})
    (run.directory / "checkpoints" / "best.ckpt").write_bytes(b"weights")
    write_model(run.model_folder, run.run_id, [], ANSWERING)
    run._end("FINISHED", None)
    model = model_of(client, client.get_run(run.run_id))
    assert model is not None
    files = {own.relative_to(tmp_path / "far").as_posix() for own in (tmp_path / "far").rglob("*.ckpt")}
    assert files == {f"{run.run_id}/artifacts/checkpoints/best.ckpt"}, "the weights are there once"
    assert (tmp_path / "far" / "models" / model.model_id / "artifacts" / "MLmodel").is_file()


def test_types_of_predictions_are_those_of_mlflow() -> None:
    table = pa.table(
        {
            "label": ["a"],
            "score": pa.array([0.5], pa.float32()),
            "loss": [0.5],
            "id": [1],
            "is_right": [True],
            "parts": [[{"start": 1, "text": "x"}]],
            "odd": [[{"nothing": None}]],
        }
    )
    kinds = [(own["name"], own["type"]) for own in schema_of(table).to_dict()]
    names = ["string", "float", "double", "long", "boolean", "array", "any"]
    assert kinds == list(zip(table.column_names, names, strict=True))
