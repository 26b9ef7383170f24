"""Command lines that name a checkpoint: its configuration is the base, and what the user writes counts above it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightrail.lightning_modules.checkpoint import read_checkpoint
from lightrail.project.basics.errors import ConfigError
from lightrail.project.configuration import Configuration, parse
from lightrail.project.configuration.sources import options, take_option
from lightrail.project.tracking.lookup import run_checkpoint
from lightrail.project.tracking.settings import TrackingConfig


def parse_with_checkpoint(arguments: Sequence[str]) -> tuple[Configuration, Path]:
    """Give the configuration, and the file that `--ckpt_path` names: a path, or `runs:/RUN_ID` for its best checkpoint.

    Without `--config` the configuration is the one stored in the checkpoint.

    Raises: ConfigError when no checkpoint is named or it cannot be found or read.
    """
    return _parse(arguments, lambda saved, _: saved)


def parse_to_predict(arguments: Sequence[str]) -> tuple[Configuration, Path]:
    """As `parse_with_checkpoint`, with the new data of `--data.path` read as they are.

    `data.reading` in a checkpoint says how the files of the run are read (a format, names of columns, an encoding), and
    holds for no other file.
    """
    return _parse(arguments, _reading_of)


def _parse(
    arguments: Sequence[str], stored: Callable[[dict[str, Any], Mapping[str, str]], dict[str, Any]]
) -> tuple[Configuration, Path]:
    named, rest = take_option(arguments, "--ckpt_path")
    if named is None:
        raise ConfigError("--ckpt_path is required: a checkpoint file, or runs:/RUN_ID for a run's best one.")
    given = dict(options(rest))
    if "--config" in given:
        configuration = parse(rest)
        return configuration, run_checkpoint(named, configuration.tracking())
    path = run_checkpoint(named, TrackingConfig(uri=given.get("--tracking.uri")))
    return parse(rest, saved=stored(read_checkpoint(path)["configuration"], given)), path


def _reading_of(saved: dict[str, Any], given: Mapping[str, str]) -> dict[str, Any]:
    """The stored configuration, without `data.reading` if `data.path` is none of the run's own files."""
    arguments = saved["data"]["init_args"]
    path = given.get("--data.path", given.get("--data.init_args.path"))
    own = {arguments.get(name) for name in ("path", "validation_path", "test_path")}
    if path is None or "reading" not in arguments or _absolute(path) in {_absolute(name) for name in own if name}:
        return saved
    kept = {name: value for name, value in arguments.items() if name != "reading"}
    return {**saved, "data": {**saved["data"], "init_args": kept}}


def _absolute(path: str) -> Path:
    return Path(path).expanduser().resolve()
