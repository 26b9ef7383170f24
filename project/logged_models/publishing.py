"""The MLflow LoggedModel of a run: created once, whatever was interrupted, and linked to run, metrics and data."""

import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lightrail.project.basics.errors import ConfigError, first_line, shown
from lightrail.project.logged_models.describing import WEIGHTS

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run

log = logging.getLogger(__name__)

ANCESTOR_TAG = "lightrail.init_from"
"""Tag of a run: the run whose weights it started from; the file, where that names no run."""
NAME = "model"
"""Name of a run's model: `runs:/RUN_ID/model`."""
MODEL_ID = re.compile(r"m-[\w-]{1,200}", re.ASCII)
IN_PASSING = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")
"""Codes of errors that a store may not have the next time."""


def publish(client: "MlflowClient", run_id: str, folder: Path) -> None:
    """Send the model in a folder that `write_model` wrote to the store of its run, and remove the folder.

    Nothing happens without the folder. May be repeated after any interruption: the run has one model. A store that
    refuses models, as servers before MLflow 3 do, gives a warning.

    Raises: whatever MLflow raises while the store does not respond; the folder stays.
    """
    from mlflow.exceptions import MlflowException

    if not (folder / "MLmodel").is_file():
        return
    try:
        _publish(client, client.get_run(run_id), folder)
    except (MlflowException, ConfigError) as error:
        if isinstance(error, MlflowException) and error.error_code in IN_PASSING:
            raise
        log.warning("run %s has no MLflow model, which its store refuses: %s", run_id, first_line(error))
    shutil.rmtree(folder, ignore_errors=True)


def model_of(client: "MlflowClient", run: "Run") -> "LoggedModel | None":
    """Return the model of a run, None without one. Raises: ConfigError for one in a folder that is no model's own."""
    condition = f"name = '{NAME}' AND source_run_id = '{run.info.run_id}'"
    models = client.search_logged_models([run.info.experiment_id], condition, max_results=10)
    found = next((own for own in models if own.source_run_id == run.info.run_id), None)
    if found is not None:
        _check_place(found)
    return found


def complete(client: "MlflowClient", run_id: str, checkpoint: Path, local_path: Callable[[str], Path | None]) -> None:
    """Give a finished run's checkpoint a second name in the folder of its model, where that is on this machine.

    The folder is then complete, and takes no space. Elsewhere, or where the disk has no second names, the model is
    loaded with the checkpoint of its run. Raises nothing.

    Args:
        local_path: returns the path that an artifact location stands for, None for one elsewhere.
    """
    if not checkpoint.is_file():
        return
    try:
        model = model_of(client, client.get_run(run_id))
        folder = None if model is None else local_path(model.artifact_location)
        if folder is None or not folder.is_dir():
            return
        target = folder / WEIGHTS
        link = target.with_name(f".{target.name}.{os.getpid()}")
        link.unlink(missing_ok=True)
        os.link(checkpoint, link)
        link.replace(target)
    except Exception as error:  # of a store or a disk, of many types
        log.debug("run %s: the folder of its MLflow model has no checkpoint: %s", run_id, first_line(error))


def _publish(client: "MlflowClient", run: "Run", folder: Path) -> None:
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    model = model_of(client, run)
    if model is None:
        kind = {"model_type": run.data.tags.get("lightrail.task", NAME)}
        model = client.create_logged_model(run.info.experiment_id, NAME, run.info.run_id, **kind)
        _check_place(model)
    if model.status == LoggedModelStatus.READY:
        return
    with tempfile.TemporaryDirectory() as complete:
        client.log_model_artifacts(model.model_id, str(_named(folder, model, Path(complete, NAME))))
    outputs = run.outputs.model_outputs if run.outputs else []
    if model.model_id not in {own.model_id for own in outputs}:
        client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, step=0)])
    _link_metrics(client, run, model)
    _link_ancestor(client, run)
    client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)


def _named(folder: Path, model: "LoggedModel", target: Path) -> Path:
    """Copy the files of a model, with its id among them."""
    from mlflow.models import Model

    shutil.copytree(folder, target)
    described = Model.load(str(target))
    described.model_uuid = described.model_id = model.model_id
    described.artifact_path = model.artifact_location
    described.save(str(target / "MLmodel"))
    return target


def _link_metrics(client: "MlflowClient", run: "Run", model: "LoggedModel") -> None:
    """Record the test metrics of a run as those of its model on the data set of the test."""
    from mlflow.entities import Metric

    test = next((own.dataset for own in run.inputs.dataset_inputs if own.dataset.name == "test"), None)
    data = {} if test is None else {"dataset_name": test.name, "dataset_digest": test.digest}
    found = [own for own in run.to_proto().data.metrics if own.key.startswith("test/")]
    metrics = [
        Metric(own.key, own.value, own.timestamp, own.step, model_id=model.model_id, run_id=run.info.run_id, **data)
        for own in found
    ]
    if metrics:
        client.log_batch(run.info.run_id, metrics=metrics)


def _link_ancestor(client: "MlflowClient", run: "Run") -> None:
    """Record the model of the run that a run's first weights are from as an input; a file of no run has none."""
    from mlflow.entities import LoggedModelInput
    from mlflow.exceptions import MlflowException

    named = run.data.tags.get(ANCESTOR_TAG, "")
    if re.fullmatch(r"\w+", named, re.ASCII) is None or run.inputs.model_inputs:
        return
    try:
        model = model_of(client, client.get_run(named))
    except MlflowException as error:
        if error.error_code in IN_PASSING:
            raise
        return  # a run of another store
    if model is not None:
        client.log_inputs(run.info.run_id, models=[LoggedModelInput(model.model_id)])


def _check_place(model: "LoggedModel") -> None:
    """Refuse a model whose files would be written over others'. Raises: ConfigError."""
    place = f"/models/{model.model_id}/artifacts"
    if MODEL_ID.fullmatch(model.model_id) is None or not model.artifact_location.rstrip("/").endswith(place):
        raise ConfigError(
            f"the store reports that the files of the model {shown(model.model_id)} are in "
            f"{shown(model.artifact_location, 200)}, which is not a folder of that model. Check tracking.uri."
        )
