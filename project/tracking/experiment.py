"""The MLflow experiment that runs belong to."""

import re
from typing import TYPE_CHECKING

from lightrail.project.basics.errors import ConfigError
from lightrail.project.tracking.folders import local_path
from lightrail.project.tracking.store import check_folder, sqlite_file

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

MODEL_TRAINING = {"mlflow.experimentKind": "custom_model_development"}
"""Has MLflow's pages open on runs and metrics; they show traces of language-model calls otherwise."""


def experiment_id(client: "MlflowClient", uri: str, name: str) -> str:
    """Return the id of the experiment `name`, made when missing.

    Raises:
        ConfigError: it was deleted, or files cannot be written where it keeps them.
    """
    found = client.get_experiment_by_name(name) or _create(client, uri, name)
    if found.lifecycle_stage != "active":
        raise ConfigError(
            f"tracking.experiment {name!r} was deleted. Choose another name, or restore it: "
            f"mlflow experiments restore --experiment-id {found.experiment_id}"
        )
    folder = local_path(found.artifact_location)
    if folder is not None:
        check_folder(folder, "tracking.uri")
    return str(found.experiment_id)


def _create(client: "MlflowClient", uri: str, name: str) -> "Experiment":
    from mlflow.exceptions import MlflowException

    location = _artifact_location(uri, name)
    if location is not None:
        folder = local_path(location)
        assert folder is not None
        check_folder(folder, "tracking.uri")
    try:
        client.create_experiment(name, artifact_location=location, tags=MODEL_TRAINING)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process was faster
            raise ConfigError(f"tracking.experiment {name!r} cannot be made: {error.message}") from error
    return client.get_experiment_by_name(name)


def _artifact_location(uri: str, name: str) -> str | None:
    """Return the folder beside a SQLite file; MLflow would take the working folder. A server knows its own."""
    file = sqlite_file(uri)
    if file is None:
        return None
    folder = re.sub(r"[^\w.-]+", "-", name).strip(".-") or "experiment"
    return (file.parent / "mlruns" / folder).as_uri()
