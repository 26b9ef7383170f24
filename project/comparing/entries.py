"""The runs to compare: found in MLflow by id or name, with the predictions of their tests."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet

from lightrail.lightning_modules.metrics.scores import Columns, StoredScore
from lightrail.project.basics.errors import ConfigError
from lightrail.project.models.predictions import stored_scores
from lightrail.project.tracking.lookup import PREDICTIONS, children_of, find_run, run_artifact

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

EXAMPLE_COLUMNS = ("id", "target", "num_characters", "num_bytes")
"""Columns that say which example a row is, and do not depend on the model."""
SHORT_ID = 8
"""Characters of an id that tell runs apart."""


@dataclass(frozen=True)
class ScoredRun:
    """A run and its answers to the test examples."""

    run_id: str
    name: str
    test_digest: str
    table: pa.Table
    scores: Mapping[str, StoredScore]
    main_metric: str

    @property
    def columns(self) -> Columns:
        return {name: self.table[name].to_numpy() for name in self.table.column_names}

    def __str__(self) -> str:
        return f"{self.run_id[:SHORT_ID]} ({self.name})"


@dataclass(frozen=True)
class Entry:
    """One side of a comparison: a run, or the runs of `lightrail fit --seeds` under their parent."""

    run_id: str
    name: str
    experiment_id: str
    params: Mapping[str, str]
    runs: Sequence[ScoredRun]
    is_group: bool
    notes: Sequence[str] = ()
    """What the reader must know of it."""


def find_entry(client: "MlflowClient", named: str) -> Entry:
    """Read the run with this id, beginning of an id, or name.

    Raises:
        ConfigError: there is no such run or several, or it has no predictions that can be compared.
    """
    run = _find(client, named)
    is_group = run.data.tags.get("lightrail.kind") == "seeds"
    runs, notes = _seeds(client, run) if is_group else ([_tested(client, run)], _unfinished(run))
    return Entry(
        run.info.run_id, run.info.run_name, run.info.experiment_id, dict(run.data.params), runs, is_group, notes
    )


def _find(client: "MlflowClient", named: str) -> "Run":
    by_name = [] if re.fullmatch("[0-9a-f]{32}", named) else _named(client, named)
    if not by_name:
        return find_run(client, named)
    if len(by_name) > 1:
        shown = ", ".join(f"{run.info.run_id} ({run.info.status})" for run in by_name)
        raise ConfigError(f"{len(by_name)} runs are named {named!r}: {shown}. Name the run by its id.")
    return by_name[0]


def _named(client: "MlflowClient", name: str) -> "list[Run]":
    """The runs of this name; a group's runs are named as the group is, and do not count."""
    if "'" in name and '"' in name:
        return []  # no text that MLflow can search for
    quote = '"' if "'" in name else "'"
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = list(client.search_runs(experiments, f"attributes.run_name = {quote}{name}{quote}"))
    groups = {run.info.run_id for run in runs}
    return [run for run in runs if run.data.tags.get("mlflow.parentRunId") not in groups]


def _seeds(client: "MlflowClient", group: "Run") -> tuple[list[ScoredRun], list[str]]:
    children = [child for child in children_of(client, group) if child.data.tags.get("lightrail.kind") == "fit"]
    finished = [child for child in children if child.info.status == "FINISHED"]
    left_out = [f"{child.info.run_id[:SHORT_ID]} ({child.info.status})" for child in children if child not in finished]
    about = f"{group.info.run_id[:SHORT_ID]} ({group.info.run_name})"
    if not finished:
        raise ConfigError(
            f"run {about} holds several seeds, and none is finished. "
            f"Go on with it: lightrail resume {group.info.run_id}"
        )
    notes = [f"{about}: left out, as they are not finished: {', '.join(left_out)}."] if left_out else []
    return [_tested(client, child) for child in finished], notes


def _unfinished(run: "Run") -> list[str]:
    if run.info.status == "FINISHED":
        return []
    return [f"{run.info.run_id[:SHORT_ID]} ({run.info.run_name}) is {run.info.status}, not FINISHED."]


def _tested(client: "MlflowClient", run: "Run") -> ScoredRun:
    about = f"run {run.info.run_id} ({run.info.run_name}, {run.info.status})"
    digest = run.data.tags.get("lightrail.test_digest")
    path = run_artifact(client, run, PREDICTIONS) if digest else None
    if digest is None or path is None:
        raise ConfigError(
            f"{about} has no {PREDICTIONS}: it was not tested, its files are gone, or lightrail did not make it. "
            f"Runs to compare are those that `lightrail fit` and `lightrail test` finished."
        )
    table = _read(path)
    stored = stored_scores(table)
    if stored is None or not table.num_rows:
        raise ConfigError(
            f"{about}: its predictions do not say how they are scored, as an earlier version wrote them. "
            f"Test it again: lightrail test --ckpt_path runs:/{run.info.run_id}"
        )
    return ScoredRun(run.info.run_id, run.info.run_name, digest, table.sort_by("id"), *stored)


def _read(path: Path) -> pa.Table:
    try:
        return pa.parquet.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"{path} cannot be read as predictions ({error}). Test the run again.") from error


def check_comparable(entries: Sequence[Entry]) -> None:
    """Raises: ConfigError when a run is named twice, or the runs were not tested on the same data."""
    seen: dict[str, Entry] = {}
    for entry in entries:
        for run_id in {entry.run_id, *(run.run_id for run in entry.runs)}:
            if run_id in seen:
                raise ConfigError(f"run {run_id} ({entry.name}) is named twice. Name different runs.")
            seen[run_id] = entry
    first, *others = [run for entry in entries for run in entry.runs]
    for other in others:
        _check_same_data(first, other)


def check_same_examples(entries: Sequence[Entry]) -> None:
    """Raises: ConfigError when the rows of the runs' predictions are not the same examples."""
    first, *others = [run for entry in entries for run in entry.runs]
    for other in others:
        _check_same_examples(first, other)


def _check_same_data(one: ScoredRun, other: ScoredRun) -> None:
    if one.test_digest != other.test_digest:
        raise ConfigError(
            f"runs {one} and {other} were tested on different data (digests {one.test_digest} and "
            f"{other.test_digest}). Numbers on different test sets do not compare: test one of the models on the "
            f"other's data with `lightrail test --ckpt_path runs:/RUN_ID --data.test_path FILE`."
        )


def _check_same_examples(one: ScoredRun, other: ScoredRun) -> None:
    if one.table.num_rows != other.table.num_rows:
        raise ConfigError(
            f"runs {one} and {other} answered {one.table.num_rows} and {other.table.num_rows} examples of the same "
            f"test set. Test both again without trainer.limit_test_batches."
        )
    both = set(one.table.column_names) & set(other.table.column_names)
    for column in (name for name in EXAMPLE_COLUMNS if name in both):
        if one.table[column].to_pylist() != other.table[column].to_pylist():
            raise ConfigError(f"runs {one} and {other} differ in the column {column!r} of their test examples.")
