"""Lookup of runs by id, and of their checkpoints, configurations and files."""

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lightrail.project.basics.did_you_mean import nearest
from lightrail.project.basics.durable import put_in_place, sync
from lightrail.project.basics.errors import ConfigError
from lightrail.project.basics.renamed import with_current_paths
from lightrail.project.tracking.settings import TrackingConfig
from lightrail.project.tracking.store import open_store, run_folders, store_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

BEST_CHECKPOINT = "checkpoints/best.ckpt"
PREDICTIONS = "predictions/test.parquet"
TRAININGS = ("fit", "reproduction")
"""Values of the tag `lightrail.kind` of training runs."""
NUM_SHOWN = 5
NUM_COMPARED = 200


def run_checkpoint(uri_or_path: str, tracking: TrackingConfig) -> Path:
    """Return the file of `runs:/RUN_ID` (its best checkpoint), `runs:/RUN_ID/checkpoints/last.ckpt`, or a path.

    Raises:
        ConfigError: there is no such file or run, or the run has no such checkpoint.
    """
    match = re.fullmatch(r"runs:/([^/]+)(?:/(.+))?", uri_or_path)
    if match is None:
        path = Path(uri_or_path)
        if not path.is_file():
            raise ConfigError(f"checkpoint {uri_or_path!r}: no such file. A run's best one is written runs:/RUN_ID.")
        return path
    client = open_store(store_uri(tracking), create=False)
    run = find_run(client, match[1])
    wanted = match[2] or BEST_CHECKPOINT
    found = run_artifact(client, run, wanted)
    if found is None:
        raise ConfigError(_no_checkpoint(client, run, wanted))
    return found


def run_configuration(run_id: str, tracking: TrackingConfig) -> dict[str, Any]:
    """Return the complete configuration that run `run_id` was started with.

    Raises:
        ConfigError: there is no such run, or lightrail did not make it.
    """
    client = open_store(store_uri(tracking), create=False)
    run = find_run(client, run_id)
    path = run_artifact(client, run, "config.yaml")
    if path is None:
        raise ConfigError(
            f"run {run.info.run_id} has no config.yaml: lightrail did not make it, or its files are missing."
        )
    configuration: dict[str, Any] = with_current_paths(yaml.safe_load(path.read_text(encoding="utf-8")))
    return configuration


def find_run(client: "MlflowClient", run_id: str) -> "Run":
    """Return the run with this id, or the only one of the last 200 runs with this prefix of at least 4 characters.

    Raises:
        ConfigError: there is none; suggests runs with similar ids.
    """
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise ConfigError(f"run {run_id!r} cannot be read: {error.message}") from error
    recent = last_runs(client, NUM_COMPARED)
    matching = [run for run in recent if run.info.run_id.startswith(run_id)]
    if len(matching) == 1 and len(run_id) >= 4:
        return matching[0]
    raise ConfigError(f"no run {run_id!r}. {_runs_to_choose(run_id, recent)}")


def page_of(experiment_id: str, run_id: str) -> str:
    """Return the path of a run's page, to append to the address of an MLflow server."""
    # Without the workflow type MLflow opens its pages for prompts and traces.
    return f"#/experiments/{experiment_id}/runs/{run_id}?workflowType=machine_learning"


def last_runs(client: "MlflowClient", number: int) -> "list[Run]":
    """Return the last `number` runs of all experiments, newest first."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(experiments, order_by=["attributes.start_time DESC"], max_results=number))


def children_of(client: "MlflowClient", run: "Run") -> "list[Run]":
    """Return the child runs of a parent run, oldest first."""
    condition = f"tags.`mlflow.parentRunId` = '{run.info.run_id}'"
    return list(client.search_runs([run.info.experiment_id], condition, order_by=["attributes.start_time ASC"]))


def test_metrics(run: "Run") -> dict[str, float]:
    """Return the test metrics of a run, `test/NAME` to value."""
    return {name: value for name, value in run.data.metrics.items() if name.startswith("test/")}


def _runs_to_choose(run_id: str, recent: "list[Run]") -> str:
    if not recent:
        return "The store holds no runs."
    by_id = {run.info.run_id: run for run in recent}
    near = nearest(run_id, by_id, most=NUM_SHOWN)
    shown = [by_id[found] for found in near] or recent[:NUM_SHOWN]
    names = ", ".join(f"{run.info.run_id} ({run.info.run_name}, {run.info.status})" for run in shown)
    return f"{'Did you mean' if near else 'The last runs are'}: {names}{'?' if near else '.'}"


def run_artifact(client: "MlflowClient", run: "Run", name: str, *, is_fresh: bool = False) -> Path | None:
    """Return the file `name` of a run, downloaded when it is not on this machine; None when there is none.

    Args:
        is_fresh: replace an outdated local file by a download: another machine may have written a newer one.
    """
    folders = run_folders(run.info.run_id, run.info.artifact_uri)
    path = folders.artifacts / name
    if path.is_file() and (folders.is_store or not is_fresh):
        return path
    parent = str(Path(name).parent)
    listed = () if folders.is_store else client.list_artifacts(run.info.run_id, None if parent == "." else parent)
    if not any(item.path == name for item in listed):
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # a partial download must not pass for the file
        downloaded = Path(client.download_artifacts(run.info.run_id, name, folder))
        sync(downloaded)
        put_in_place(downloaded, path)
    return path


def files_below(client: "MlflowClient", run: "Run", folder: str) -> Iterator[str]:
    """Yield the paths of the files of a run in a folder and the folders in it."""
    for item in client.list_artifacts(run.info.run_id, folder):
        if item.is_dir:
            yield from files_below(client, run, item.path)
        else:
            yield item.path


def run_text(client: "MlflowClient", run: "Run", name: str, *, is_fresh: bool = False) -> str | None:
    """Return the content of a text file of a run, None when there is none."""
    path = run_artifact(client, run, name, is_fresh=is_fresh)
    return None if path is None else path.read_text(encoding="utf-8")


def _no_checkpoint(client: "MlflowClient", run: "Run", wanted: str) -> str:
    kept = [path for path in files_below(client, run, "checkpoints") if path.endswith(".ckpt")]
    choice = f"It has {', '.join(kept)}: write runs:/{run.info.run_id}/{kept[0]}." if kept else "It has no checkpoints."
    return f"run {run.info.run_id} ({run.info.status}) has no {wanted}. {choice}"
