"""Lookup of runs, and of their configurations, metrics and files."""

import json
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import yaml

from lightrail.project.basics.durable import put_in_place, sync
from lightrail.project.basics.errors import ConfigError, first_line, printable, shown
from lightrail.project.basics.private_names import download_file, tracking_store
from lightrail.project.basics.reading import reading, regular_file
from lightrail.project.basics.renamed import with_current_paths
from lightrail.project.tracking.database import where_files_were
from lightrail.project.tracking.store import answering, run_folders

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import FileInfo, Metric, Run
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

BEST_CHECKPOINT, LAST_CHECKPOINT = "checkpoints/best.ckpt", "checkpoints/last.ckpt"
PREDICTIONS = "predictions/test.parquet"
TRAININGS = ("fit", "reproduction")
"""Values of the tag `lightrail.kind` of training runs."""
SECTIONS = ("model", "data", "trainer", "tracking")
"""Sections of each stored configuration."""
MOST_BYTES = 2**30
DAMAGED = "Restore the file from a copy, or choose another run."
RESULTS_TAG = "lightrail.results"
"""Tag of a run of a plain module: the names of the metrics that are its results, as JSON."""
UNKNOWN_DATA = "unknown"
"""Digest of data whose content is not known."""
SHORT_ID = 8
"""Length of the beginning of an id that is shown: every command takes one that is unique."""
MAX_TEXT_BYTES, MAX_YAML_BYTES, MAX_YAML_VALUES = 256 * 2**20, 16 * 2**20, 1_000_000
"""Limits of a run's text files, and of a configuration: its size, and its values with repeated ones counted again."""
LARGE = ("checkpoints/", "predictions/")
"""Folders of files that may be larger than `MAX_TEXT_BYTES`."""
MAX_POINTS, POINTS_PER_PAGE = 10_000_000, 25_000
"""Maximum number of points of one metric, and of one answer about them."""
MAX_HISTORY_SECONDS = 600.0
MAX_LEVELS, MAX_FOLDERS = 3, 100
"""Limits of the folders in which a run's checkpoints are looked for: names of files may hold slashes."""


def run_configuration(client: "MlflowClient", run: "Run") -> dict[str, Any]:
    """Return the complete configuration that a run was started with.

    Raises:
        ConfigError: lightrail did not make the run, or its files are missing.
    """
    configuration = stored_configuration(client, run, "config.yaml")
    if configuration is None:
        raise ConfigError(
            f"run {run.info.run_id} has no config.yaml: lightrail did not make it, or its files are missing."
            f"{where_files_were(run.info.artifact_uri)}"
        )
    return configuration


def stored_configuration(
    client: "MlflowClient", run: "Run", name: str, *, is_fresh: bool = False
) -> dict[str, Any] | None:
    """Return the configuration in a YAML file of a run; None when it has no such file.

    Raises:
        ConfigError: the file is no configuration.
    """
    text = run_text(client, run, name, is_fresh=is_fresh)
    if text is None:
        return None
    what = f"run {run.info.run_id}: its file {name}"
    with reading(what, DAMAGED):
        restated: dict[str, Any] = with_current_paths(_parsed(text))
        if not all(isinstance(restated.get(key), dict) for key in SECTIONS):
            raise ValueError(f"it lacks sections of a configuration ({', '.join(SECTIONS)})")
    return restated


def _parsed(text: str) -> dict[str, Any]:
    """Parse YAML. Raises: ValueError when it is no mapping, or its aliases repeat values until memory is exhausted."""
    if len(text) > MAX_YAML_BYTES:
        raise ValueError(f"it has {len(text):,} characters, at most {MAX_YAML_BYTES:,} make sense")
    values = yaml.safe_load(text)
    counts: dict[int, int] = {}

    def count(value: object) -> int:
        if id(value) not in counts:
            inner: Iterable[object] = value.values() if isinstance(value, Mapping) else ()
            counts[id(value)] = 1 + sum(map(count, value if isinstance(value, list) else inner))
        return counts[id(value)]

    if (total := count(values)) > MAX_YAML_VALUES:  # one that contains itself ends in a RecursionError
        raise ValueError(f"it has {shown(total)} values, at most {MAX_YAML_VALUES:,} make sense")
    if not isinstance(values, dict):
        return {}
    return values


def read_run(client: "MlflowClient", run_id: str) -> "Run | None":
    """Return the run with this id, None without one. Raises: ConfigError when the store cannot be read."""
    try:
        return client.get_run(run_id)
    except Exception as error:  # of many types, when the answer is none of MLflow's
        if getattr(error, "error_code", "") not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise ConfigError(f"run {shown(run_id)} cannot be read: {first_line(error)}") from error
        return None


def page_of(experiment_id: str, run_id: str) -> str:
    """Return the path of a run's page, to append to the address of an MLflow server."""
    # Without the workflow type MLflow opens its pages for prompts and traces.
    return f"#/experiments/{experiment_id}/runs/{run_id}?workflowType=machine_learning"


def last_runs(client: "MlflowClient", number: int, condition: str = "") -> "list[Run]":
    """Return the last `number` runs of all experiments that meet a condition of MLflow's search, newest first."""
    order = ["attributes.start_time DESC"]
    with answering(client.tracking_uri):
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        return list(client.search_runs(experiments, condition, order_by=order, max_results=number))


def children_of(client: "MlflowClient", run: "Run") -> "list[Run]":
    """Return the child runs of a parent run, oldest first."""
    condition = f"tags.`mlflow.parentRunId` = '{run.info.run_id}'"
    with answering(client.tracking_uri):
        return list(client.search_runs([run.info.experiment_id], condition, order_by=["attributes.start_time ASC"]))


def metric_history(client: "MlflowClient", run_id: str, name: str) -> "list[Metric]":
    """Return all points of a metric of a run.

    Raises:
        ConfigError: the store cannot be read, or its answers do not end.
    """
    # MlflowClient follows a server from page to page without end.
    points: list[Metric] = []
    store, token = tracking_store(client), None
    ends_at = time.monotonic() + MAX_HISTORY_SECONDS
    with answering(client.tracking_uri):
        while len(points) <= MAX_POINTS and time.monotonic() < ends_at:
            page = store.get_metric_history(
                run_id=run_id, metric_key=name, max_results=POINTS_PER_PAGE, page_token=token
            )
            points.extend(page)
            token = page.token
            if token is None:
                return points
    raise ConfigError(
        f"run {run_id}: the store's answer about {shown(name)} does not end ({len(points):,} points so far, at most "
        f"{MAX_POINTS:,} in {MAX_HISTORY_SECONDS:.0f} seconds make sense). Check tracking.uri."
    )


def test_metrics(run: "Run") -> dict[str, float]:
    """Return the test metrics of a run, `test/NAME` to value; of a plain module, those that its test logged."""
    own = run.data.tags.get(RESULTS_TAG)
    names: Any = []
    if own is not None:
        with suppress(ValueError):  # a store may hold any text
            names = json.loads(own)
    results = set(map(str, names)) if isinstance(names, list) else set()
    return {name: value for name, value in run.data.metrics.items() if name.startswith("test/") or name in results}


def short_name(run: "Run") -> str:
    """Return the name of a run for messages and reports, on one line and at most 100 characters long."""
    name = " ".join(printable(run.info.run_name or "").split())
    return name if len(name) <= 100 else f"{name[:97]}..."


def started(run: "Run") -> str:
    """Return when a run was started, in local time; `-` for a time that no calendar has."""
    with suppress(ValueError, OverflowError, OSError):
        return f"{datetime.fromtimestamp(run.info.start_time / 1000):%m-%d %H:%M}"
    return "-"


def run_artifact(client: "MlflowClient", run: "Run", name: str, *, is_fresh: bool = False) -> Path | None:
    """Return the file `name` of a run, downloaded when it is not on this machine; None when there is none.

    Args:
        is_fresh: replace an outdated local file by a download: another machine may have written a newer one.
    """
    folders = run_folders(run.info.run_id, run.info.artifact_uri)
    path = folders.artifacts / _inside(run, name)
    if path.is_file() and (folders.is_store or not is_fresh):
        return path
    if folders.is_store:
        return None
    listed = next((item for item in list_files(client, run, str(Path(name).parent)) if item.path == name), None)
    if listed is None:
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    size = _checked_size(run, listed, path.parent)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # a partial download must not pass for the file
        downloaded = Path(folder, path.name)
        with answering(client.tracking_uri):
            _download(client, run, name, downloaded, size)
        sync(downloaded)
        put_in_place(downloaded, path)
    return path


def _inside(run: "Run", name: str) -> str:
    """Return the name of a run's file, which a store or a record may have chosen. Raises: ConfigError outside of it."""
    if not is_inside(name):
        raise ConfigError(f"run {run.info.run_id}: {shown(name)} is no name of a file of a run. Choose another run.")
    return name


def is_inside(name: object) -> bool:
    """Whether a text is a path `folder/file` that stays inside the folder that it is relative to.

    >>> is_inside("checkpoints/best.ckpt"), is_inside("../best.ckpt"), is_inside("/etc/passwd")
    (True, False, False)
    """
    if not isinstance(name, str) or not name or "\0" in name:
        return False
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def list_files(client: "MlflowClient", run: "Run", folder: str) -> "list[FileInfo]":
    """Return the files directly in a folder of a run in a remote or local store, `.` for the run's own."""
    return [item for item in _listed(client, run, folder) if not item.is_dir]


def files_below(client: "MlflowClient", run: "Run", folder: str) -> list[str]:
    """Return the paths of a run's files in a folder and in the folders below it, three levels deep at most.

    Raises: ConfigError when the store cannot be read.
    """
    found, folders = [], [folder]
    for _ in range(MAX_LEVELS):
        listed = [item for own in folders[:MAX_FOLDERS] for item in _listed(client, run, own)]
        found += [item.path for item in listed if not item.is_dir]
        folders = [item.path for item in listed if item.is_dir]
    return found


def _listed(client: "MlflowClient", run: "Run", folder: str) -> "list[FileInfo]":
    # MlflowClient would look for MLflow's models too, page by page.
    what = f"run {run.info.run_id}: its files cannot be listed"  # such as a link to nothing among them
    with reading(what, DAMAGED), answering(client.tracking_uri):
        found: list[FileInfo] = _artifacts(client, run).list_artifacts(None if folder == "." else folder)
        return found


def delete_file(client: "MlflowClient", run: "Run", name: str) -> None:
    """Delete a file of a run in its remote store. Raises: ConfigError, before, for a folder that is no run's own."""
    if not run.info.artifact_uri.rstrip("/").endswith(f"/{run.info.run_id}/artifacts"):
        raise ConfigError(f"the store keeps the files of run {run.info.run_id} in a folder that others may share.")
    with answering(client.tracking_uri):
        _artifacts(client, run).delete_artifacts(_inside(run, name))


def _artifacts(client: "MlflowClient", run: "Run") -> "ArtifactRepository":
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return get_artifact_repository(run.info.artifact_uri, tracking_uri=client.tracking_uri)


def _checked_size(run: "Run", listed: "FileInfo", folder: Path) -> int:
    """Return the size of a file to download. Raises: ConfigError when it is too large to be what its name says."""
    free = shutil.disk_usage(folder).free
    most = free if listed.path.startswith(LARGE) else min(free, MAX_TEXT_BYTES)
    size = most // 4 if listed.file_size is None else int(listed.file_size)
    if size > most:
        reason = f"the disk of {folder} has {free:,} free" if most == free else f"at most {most:,} make sense"
        raise ConfigError(f"run {run.info.run_id}: its file {shown(listed.path)} has {size:,} bytes; {reason}.")
    return size


def _download(client: "MlflowClient", run: "Run", name: str, target: Path, size: int) -> None:
    from lightrail.project.tracking.limits import file_of

    with file_of(size):
        download_file(_artifacts(client, run), name, target)


def run_text(client: "MlflowClient", run: "Run", name: str, *, is_fresh: bool = False) -> str | None:
    """Return the content of a text file of a run, None when there is none."""
    path = run_artifact(client, run, name, is_fresh=is_fresh)
    if path is None:
        return None
    what = f"run {run.info.run_id}: its file {name}"
    with reading(what, DAMAGED):
        return regular_file(path, what, most_bytes=MAX_TEXT_BYTES).read_text(encoding="utf-8")


def already_finished(client: "MlflowClient", run: "Run") -> str:
    """Format the message for a finished run that cannot be resumed."""
    path = run_artifact(client, run, "config.yaml") or "config.yaml"
    return (
        f"run {run.info.run_id} is finished: there is nothing to resume. For a longer training start a new run: "
        f"lightrail fit --config {path} --trainer.max_steps N"
    )
