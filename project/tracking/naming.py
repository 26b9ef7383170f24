"""The run, or the checkpoint, that a text on the command line names: one way for all commands."""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lightrail.project.basics.did_you_mean import did_you_mean, nearest
from lightrail.project.basics.errors import ConfigError, first_line, shown, without_password
from lightrail.project.basics.reading import quoted_path, reading, regular_file, user_path
from lightrail.project.logged_models.publishing import NAME
from lightrail.project.tracking.database import where_files_were
from lightrail.project.tracking.lookup import (
    BEST_CHECKPOINT,
    DAMAGED,
    SHORT_ID,
    files_below,
    last_runs,
    read_run,
    run_artifact,
    short_name,
    started,
)
from lightrail.project.tracking.settings import TrackingConfig
from lightrail.project.tracking.store import answering, open_store, store_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

RUN = re.compile(r"runs:/+([^/]+)(?:/(.+))?")
MODEL = re.compile(r"models:/+(?:([^/]+)/(\d+)|([^/]+)@([^/@]+)|(m-[^/@]+))")
SHORTEST_PREFIX = 4
NUM_SHOWN = 5
NUM_SEARCHED = 200
"""Maximum number of runs that are read to find one: a store may hold many more."""
CHECKPOINT_FOLDERS = ("", "checkpoints", "artifacts/checkpoints")
"""Folders of checkpoints, in that folder itself, in a run's artifact folder, and in a run's folder."""
IDENTITY = "run.json"
MAX_IDENTITY_BYTES = 2**16
WAYS = "its id, the beginning of one (at least 4 characters), its name, models:/NAME/VERSION, or its folder"


def find_run(client: "MlflowClient", named: str) -> "Run":
    """Return the run that a text names, found in this order.

    1. `runs:/RUN` (also with a file of the run behind it), `models:/NAME/VERSION`, `models:/NAME@ALIAS`,
       `models:/MODEL_ID`: the run that the model is of.
    2. A file or folder, where the text is written as a path: with a slash or a leading `~`, or ending in `.ckpt`. It is
       a checkpoint, a folder of checkpoints, or the folder of a run or of its artifacts, moved or copied ones included.
    3. The id of a run; the name of a run; the beginning of an id, at least 4 characters long.
    4. Any other file or folder.

    Raises: ConfigError when there is no such run, or there are several, which are listed.
    """
    path = _written_path(named)
    if path is None:
        run = _in_store(client, named)
        if run is not None:
            return run
        path = _existing(named)
    if path is None:
        raise ConfigError(_not_found(client, named))
    return _run_of(client, path)


def find_checkpoint(named: str, tracking: TrackingConfig) -> Path:
    """Return the checkpoint that a text names: a file, or the best one of a run, named as for `find_run`.

    `runs:/RUN/model`, MLflow's name of a run's model, is the best one; `runs:/RUN/checkpoints/last.ckpt` is another.
    A path needs no store. A folder without checkpoints, such as an exported model, is returned itself.

    Raises: ConfigError when there is no such file or run, or the run has no such checkpoint.
    """
    path = _written_path(named)
    if path is not None:
        return _checkpoint_in(path)
    path = _existing(named)
    try:
        client = open_store(store_uri(tracking), create=False)
    except ConfigError as error:
        if path is None:
            raise ConfigError(f"{shown(named, 200)} is no file or folder here, and no run: {error}") from error
        return _checkpoint_in(path)
    run = _in_store(client, named)
    if run is None and path is not None:
        return _checkpoint_in(path)
    if run is None:
        raise ConfigError(_not_found(client, named))
    match = RUN.fullmatch(named)
    wanted = match[2] if match and match[2] not in (None, NAME) else BEST_CHECKPOINT
    found = run_artifact(client, run, wanted)
    if found is None:
        raise ConfigError(_no_checkpoint(client, run, wanted))
    return found


def _written_path(named: str) -> Path | None:
    """Return the path of a text that is written as one. Raises: ConfigError when there is no such file or folder."""
    if named.startswith(("runs:/", "models:/")) or not (os.sep in named or named.startswith("~") or _is_file(named)):
        return None
    path = _existing(named)
    if path is None and (named.startswith((os.sep, ".", "~")) or _is_file(named)):  # not a run that is named a/b
        raise ConfigError(f"{shown(named, 200)}: no such file or folder. Check the path, or name a run by {WAYS}.")
    return path


def _is_file(named: str) -> bool:
    return named.endswith(".ckpt")


def _existing(named: str) -> Path | None:
    path = user_path(named)
    return path if named and os.path.exists(path) else None  # unlike Path.exists it takes a name that is too long


def _in_store(client: "MlflowClient", named: str) -> "Run | None":
    if named.startswith("models:/"):
        return _registered(client, named)
    match = RUN.fullmatch(named)
    wanted = match[1] if match else named
    run = read_run(client, wanted)
    if run is not None or not wanted:
        return run
    for found, problem in (
        (_runs_named(client, wanted), "are named"),
        (_runs_beginning(client, wanted), "have ids that begin with"),
    ):
        if len(found) > 1:
            number = f"{NUM_SEARCHED} or more" if len(found) >= NUM_SEARCHED else len(found)
            raise ConfigError(f"{number} runs {problem} {shown(wanted)}: {_listed(found)}. Name one by its id.")
        if found:
            return found[0]
    return None


def _runs_named(client: "MlflowClient", name: str) -> "list[Run]":
    """Return the runs of this name, newest first, without the runs of a group, which have the group's name."""
    if "'" in name and '"' in name:
        return []  # MLflow cannot search for such a text
    quote = '"' if "'" in name else "'"
    runs = last_runs(client, NUM_SEARCHED, f"attributes.run_name = {quote}{name}{quote}")
    groups = {run.info.run_id for run in runs}
    return [run for run in runs if run.data.tags.get("mlflow.parentRunId") not in groups]


def _runs_beginning(client: "MlflowClient", prefix: str) -> "list[Run]":
    if len(prefix) < SHORTEST_PREFIX or re.fullmatch(r"[\w-]+", prefix, re.ASCII) is None:
        return []
    found = last_runs(client, NUM_SEARCHED, f"attributes.run_id LIKE '{prefix}%'")
    return [run for run in found if run.info.run_id.startswith(prefix)]  # `_` stands for any character, case for none


def _registered(client: "MlflowClient", named: str) -> "Run":
    """Return the run that a registered model came from. Raises: ConfigError when there is no such model or run."""
    match = MODEL.fullmatch(named)
    if match is None:
        raise ConfigError(f"{shown(named)} is no registered model. Write models:/NAME/VERSION or models:/NAME@ALIAS.")
    name = match[1] or match[3] or ""
    try:
        if match[1]:
            run_id = client.get_model_version(name, match[2]).run_id
        elif match[3]:
            run_id = client.get_model_version_by_alias(name, match[4]).run_id
        else:
            run_id = client.get_logged_model(match[5]).source_run_id
    except Exception as error:  # of many types, when the answer is none of MLflow's
        problem = f"{shown(named)} is not in the model registry: {first_line(error).rstrip('.')}."
        with answering(client.tracking_uri):
            known = [model.name for model in client.search_registered_models(max_results=100)]
        known = [own for own in known if own != name]
        raise ConfigError(f"{problem}{did_you_mean(name, known, prefix='models:/')}") from error
    if not run_id:
        raise ConfigError(f"{shown(named)} was registered without a run. Name the run by its id.")
    run = read_run(client, run_id)
    if run is None:
        where = without_password(client.tracking_uri)
        raise ConfigError(
            f"{shown(named)} was registered from the run {shown(run_id)}, which {where} does not hold. "
            f"Set tracking.uri to the store of the run."
        )
    return run


def _run_of(client: "MlflowClient", path: Path) -> "Run":
    """Return the run that a checkpoint, or the folder of a run, belongs to. Raises: ConfigError when it names none."""
    if path.is_dir():
        run_id = _identity(path)
    else:
        from lightrail.lightning_modules.checkpoint import read_checkpoint

        run_id = read_checkpoint(path).get("run", {}).get("id", "")
    if not run_id:
        raise ConfigError(f"{quoted_path(path)} does not name its run. Name the run by its id.")
    run = read_run(client, run_id)
    if run is None:
        where = without_password(client.tracking_uri)
        raise ConfigError(
            f"{quoted_path(path)} belongs to the run {shown(run_id)}, which {where} does not hold. "
            f"Set tracking.uri to the store of the run."
        )
    return run


def _identity(folder: Path) -> str:
    """Return the id that the folder of a run tells, "" when it tells none. Raises: ConfigError when it is damaged."""
    file = next((own for place in CHECKPOINT_FOLDERS if (own := folder / place / IDENTITY).exists()), None)
    if file is None:
        return ""
    with reading(quoted_path(file), DAMAGED):
        text = regular_file(file, IDENTITY, most_bytes=MAX_IDENTITY_BYTES).read_text(encoding="utf-8")
        run_id = json.loads(text)["run_id"]
        if not isinstance(run_id, str):
            raise TypeError(f"its run_id is {shown(run_id)}")
    return run_id


def _checkpoint_in(path: Path) -> Path:
    """Return a file itself, the best checkpoint in the folder of a run, and any other folder itself.

    Raises: ConfigError when a folder holds other checkpoints alone.
    """
    if not path.is_dir():
        return path
    folders = [path / place for place in CHECKPOINT_FOLDERS]
    best = Path(BEST_CHECKPOINT).name
    found = next((folder / best for folder in folders if (folder / best).exists()), None)
    others = [own for folder in folders for own in sorted(folder.glob("*.ckpt"))]
    if found is None and others:
        raise ConfigError(f"{quoted_path(path)} has no {best}. Name another checkpoint there: {quoted_path(others[0])}")
    return found or path


def _listed(runs: "Sequence[Run]") -> str:
    """Format candidates, the newest first, with ids as short as they differ."""
    ids = [run.info.run_id for run in runs]
    length = next((size for size in (SHORT_ID, 2 * SHORT_ID) if len({own[:size] for own in ids}) == len(ids)), None)
    texts = [
        f"{run.info.run_id[:length]} ({short_name(run)}, started {started(run)}, {run.info.status})"
        for run in runs[:NUM_SHOWN]
    ]
    return ", ".join([*texts, *(["..."] if len(runs) > NUM_SHOWN else [])])


def _not_found(client: "MlflowClient", named: str) -> str:
    match = RUN.fullmatch(named)
    wanted = match[1] if match else named
    recent = last_runs(client, NUM_SEARCHED)
    where = without_password(client.tracking_uri)
    searched = f"no run {shown(wanted)}: no id in {where} begins so, and no run, file or folder has this name"
    if not recent:
        return f"{searched}. The store holds no runs."
    by_name = {run.info.run_name or "": run for run in reversed(recent)} | {run.info.run_id: run for run in recent}
    near = {by_name[found].info.run_id: by_name[found] for found in nearest(wanted, by_name, most=NUM_SHOWN)}
    if near:
        return f"{searched}. Did you mean: {_listed(list(near.values()))}?"
    return f"{searched}. The last runs are: {_listed(recent)}."


def _no_checkpoint(client: "MlflowClient", run: "Run", wanted: str) -> str:
    kept = [path for path in files_below(client, run, "checkpoints") if path.endswith(".ckpt")]
    choice = f"It has {', '.join(kept)}: write runs:/{run.info.run_id}/{kept[0]}." if kept else "It has no checkpoints."
    return (
        f"run {run.info.run_id} ({run.info.status}) has no {wanted}. {choice}{where_files_were(run.info.artifact_uri)}"
    )
