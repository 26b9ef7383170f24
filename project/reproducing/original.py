"""The run to reproduce, read from its store alone, without files of its working folder."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightrail.project.basics.errors import ConfigError, shown
from lightrail.project.basics.reading import reading
from lightrail.project.tracking.database import where_files_were
from lightrail.project.tracking.lookup import (
    DAMAGED,
    PREDICTIONS,
    TRAININGS,
    children_of,
    find_run,
    run_artifact,
    run_text,
    stored_configuration,
)
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
    predictions: Path

    @property
    def run_id(self) -> str:
        """The run's MLflow id."""
        return str(self.run.info.run_id)

    @property
    def tags(self) -> dict[str, str]:
        """The run's MLflow tags."""
        return dict(self.run.data.tags)

    @property
    def code(self) -> dict[str, Any]:
        """The recorded code, from `code.json` by `write_environment`; {} for a run without that file."""
        return self._read_json("environment/code.json")

    @property
    def hardware(self) -> dict[str, Any]:
        """The recorded hardware; {} when there is none."""
        return self._read_json("environment/hardware.json")

    @property
    def packages(self) -> str:
        """The recorded packages, one per line; "" when there are none."""
        return run_text(self.client, self.run, "environment/packages.txt") or ""

    def patch(self, name: str | None) -> Path | None:
        """Return the file of an uncommitted change, on this machine."""
        return run_artifact(self.client, self.run, f"environment/{name}") if name else None

    def _read_json(self, name: str) -> dict[str, Any]:
        text = run_text(self.client, self.run, name) or "{}"
        with reading(f"run {self.run_id}, {name}", DAMAGED):
            values = json.loads(text)
        if not isinstance(values, dict):
            raise ConfigError(f"run {self.run_id}, {name}: expected an object, found {shown(values)}. {DAMAGED}")
        return values


def find_original(run_id: str, store: str) -> Original:
    """Find the run to reproduce, by its id or a prefix of it.

    Raises:
        ConfigError: there is no such run, it is not a finished training of lightrail, or its files are missing.
    """
    client = open_store(store, create=False)
    run = find_run(client, run_id)
    run_id = run.info.run_id
    _check_kind(client, run)
    if run.info.status != "FINISHED":
        raise ConfigError(
            f"run {run_id} is {run.info.status}, not FINISHED: there is nothing to compare with. "
            f"Finish it with `lightrail resume {run_id}`, or wait where it is still running."
        )
    text, predictions = run_text(client, run, "config.yaml"), run_artifact(client, run, PREDICTIONS)
    if text is None or predictions is None:
        lacking = "config.yaml" if text is None else PREDICTIONS
        where = where_files_were(run.info.artifact_uri)
        raise ConfigError(
            f"run {run_id} cannot be reproduced: its file {lacking} is missing. Choose another run.{where}"
        )
    return Original(client, run, store, stored_configuration(text, f"run {run_id}, config.yaml"), predictions)


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
