"""Command lines that name a checkpoint: its configuration is the base, and what the user writes counts above it."""

from collections.abc import Sequence
from pathlib import Path

from lightning_modules.base import read_checkpoint
from project.configuration import Configuration, parse
from project.configuration.sources import options
from project.errors import ConfigError
from project.tracking.run import run_checkpoint
from project.tracking.settings import TrackingConfig


def parse_with_checkpoint(arguments: Sequence[str]) -> tuple[Configuration, Path]:
    """Give the configuration, and the file that `--ckpt_path` names: a path, or `runs:/RUN_ID` for its best checkpoint.

    Without `--config` the configuration is the one stored in the checkpoint.

    Raises: ConfigError when no checkpoint is named or it cannot be found or read.
    """
    named, rest = take_option(arguments, "--ckpt_path")
    if named is None:
        raise ConfigError("--ckpt_path is required: a checkpoint file, or runs:/RUN_ID for a run's best one.")
    given = dict(options(rest))
    if "--config" in given:
        configuration = parse(rest)
        return configuration, run_checkpoint(named, configuration.tracking())
    path = run_checkpoint(named, TrackingConfig(uri=given.get("--tracking.uri")))
    return parse(rest, saved=read_checkpoint(path)["configuration"]), path


def take_option(arguments: Sequence[str], name: str) -> tuple[str | None, list[str]]:
    """Take `name VALUE` or `name=VALUE` out of the arguments; the last one counts."""
    value, rest = None, []
    for option, text in options(arguments):
        if option == name:
            value = text
        else:
            rest.append(f"{option}={text}" if text else option)
    return value, rest
