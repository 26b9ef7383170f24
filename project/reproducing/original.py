"""The run to reproduce, read from its store alone, without files of its working folder."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightrail.project.basics.errors import ConfigError, shown
from lightrail.project.basics.reading import reading
from lightrail.project.tracking.database import where_files_were
from lightrail.project.tracking.lookup import (
    DAMAGED,
    PREDICTIONS,
    RESULTS_TAG,
    TRAININGS,
    children_of,
    is_inside,
    run_artifact,
    run_text,
    stored_configuration,
)
from lightrail.project.tracking.naming import find_run
from lightrail.project.tracking.store import open_store

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


@dataclass(frozen=True)
class Original:
    """A finished training run."""

    client: "MlflowClient"
    run: "Run"
    store: str
    values: dict[str, Any]
    """The complete configuration of the run."""
    predictions: Path | None
    """None: of a plain module, which stores none."""

    @property
    def run_id(self) -> str:
        """The run's MLflow id."""
        return str(self.run.info.run_id)

    @property
    def tags(self) -> dict[str, str]:
        """The run's MLflow tags."""
        return dict(self.run.data.tags)

    @cached_property
    def code(self) -> dict[str, Any]:
        """The recorded code, from `code.json` by `write_environment`; {} for a run without that file."""
        return self._read_json(CODE, _check_code)

    @cached_property
    def hardware(self) -> dict[str, Any]:
        """The recorded hardware; {} when there is none."""
        return self._read_json("environment/hardware.json", _check_hardware)

    @property
    def packages(self) -> str:
        """The recorded packages, one per line; "" when there are none."""
        return run_text(self.client, self.run, "environment/packages.txt") or ""

    def patch(self, name: str | None) -> Path | None:
        """Return the file of an uncommitted change, on this machine."""
        return run_artifact(self.client, self.run, f"environment/{name}") if name else None

    def _read_json(self, name: str, check: Callable[[Any], None]) -> dict[str, Any]:
        text = run_text(self.client, self.run, name) or "{}"
        with reading(f"run {self.run_id}: its file {name}", DAMAGED):
            values: dict[str, Any] = json.loads(text)
            if values:
                check(values)
        return values


CODE = "environment/code.json"
COMMIT = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")
PATCH = re.compile(r"git(\.[0-9]+)?\.diff")


def _check_code(record: Any) -> None:
    """Refuse a record of code that names anything but commits and files inside of folders. Raises: ValueError.

    It comes from the store, and its texts become paths and arguments of git.
    """
    _check_text(record.get("working_folder", ""))
    for item in record["repositories"]:
        _check_text(item["folder"])
        _check_matches(COMMIT, item["commit"])
        if item["patch"] is not None:
            _check_matches(PATCH, item["patch"])
    for source in record["sources"]:
        if source["repository"] not in (None, *range(len(record["repositories"]))):
            raise ValueError(f"there is no repository {shown(source['repository'])}")
        for name in (source["inside"], *source["files"]):
            if not is_inside(name):
                raise ValueError(f"{shown(name)} is no path inside of a repository")
        for digest in source["files"].values():
            _check_text(digest)


def _check_hardware(record: Any) -> None:
    for value in record.values():
        for own in value if isinstance(value, list) else [value]:
            if not isinstance(own, str | int | float | None):
                raise TypeError(f"{shown(own)} is no plain value")


def _check_text(value: object) -> None:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError(f"{shown(value)} is no text")


def _check_matches(pattern: re.Pattern[str], value: object) -> None:
    if not isinstance(value, str) or pattern.fullmatch(value) is None:
        raise ValueError(f"{shown(value)} is not of the form {pattern.pattern}")


def find_original(named: str, store: str) -> Original:
    """Find the run to reproduce, named as for `find_run`.

    Raises:
        ConfigError: there is no such run, it is not a finished training of lightrail, or its files are missing.
    """
    client = open_store(store, create=False)
    run = find_run(client, named)
    run_id = run.info.run_id
    _check_kind(client, run)
    if run.info.status != "FINISHED":
        raise ConfigError(
            f"run {run_id} is {run.info.status}, not FINISHED: there is nothing to compare with. "
            f"Finish it with `lightrail resume {run_id}`, or wait where it is still running."
        )
    values, predictions = stored_configuration(client, run, "config.yaml"), run_artifact(client, run, PREDICTIONS)
    if values is None or (predictions is None and RESULTS_TAG not in run.data.tags):
        lacking = "config.yaml" if values is None else PREDICTIONS
        where = where_files_were(run.info.artifact_uri)
        raise ConfigError(
            f"run {run_id} cannot be reproduced: its file {lacking} is missing. Choose another run.{where}"
        )
    return Original(client, run, store, values, predictions)


def _check_kind(client: "MlflowClient", run: "Run") -> None:
    run_id, kind = run.info.run_id, run.data.tags.get("lightrail.kind")
    if kind in TRAININGS:
        return
    if kind is None:
        raise ConfigError(f"run {run_id} was not made by lightrail, and cannot be reproduced. Choose another run.")
    if kind == "seeds":
        seeds = [
            f"{child.info.run_id} (seed {child.data.tags.get('lightrail.seed')})" for child in children_of(client, run)
        ]
        raise ConfigError(f"run {run_id} holds one run for each seed. Choose one of them: {', '.join(seeds)}.")
    raise ConfigError(
        f"run {run_id} has the tag lightrail.kind {kind!r}: only a training can be reproduced. Choose the training run."
    )
