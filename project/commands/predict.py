"""`lightrail predict`: predictions for the texts or images of `data.path`.

A row has `id`, the number of the prediction from 0; `line`, the line of the file on which its example begins (in a
binary format, the number of the record), which links it to other columns of the file; and the columns of the task.

`lightrail validate` and `lightrail test`: the metrics of a checkpoint on these splits.
"""

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pyarrow as pa
from lightning.pytorch.utilities.model_helpers import is_overridden

from lightrail.lightning_modules.checkpoint import read_checkpoint, stored_configuration
from lightrail.project.basics.errors import ConfigError
from lightrail.project.configuration import Configuration, parse
from lightrail.project.configuration.sources import options, take_option, written_out
from lightrail.project.models.answer_files import check_output, show_answers, with_named_lists, write_answers
from lightrail.project.running.build import build_any
from lightrail.project.running.fitting import refused_by_lightning, test
from lightrail.project.running.parts import Built, Experiment
from lightrail.project.tracking.logger import is_process_zero
from lightrail.project.tracking.naming import find_checkpoint
from lightrail.project.tracking.settings import TrackingConfig

log = logging.getLogger(__name__)

STANDARD_INPUT = "-"
CHECKPOINT = "--ckpt_path"
"""Option that names a run or a checkpoint; it may be left out before the name."""


def run(arguments: list[str]) -> int:
    """Predict, and write the rows to `--output` or standard output. Raises: ConfigError, DataError."""
    output, rest = take_option(written_out(arguments, CHECKPOINT), "--output")
    configuration, checkpoint = parse_to_predict(rest)
    source = configuration.values["data"]["init_args"].get("path")
    if output is not None:
        check_output(Path(output), str(source))
    with redirect_stdout(sys.stderr):  # standard output is for predictions alone: some Lightning callbacks print there
        if source == STANDARD_INPUT and sys.stdin is not None and sys.stdin.isatty():
            log.info("reading texts from the terminal, one per line; Ctrl-D on an empty line ends them")
        experiment = build_any(configuration, "predict", checkpoint)
        answers = answers_of(experiment, is_typed=source == STANDARD_INPUT)
    if answers is not None and output is not None:
        write_answers(answers, Path(output))
        log.info("wrote %d predictions to %s", len(answers), output)
    elif answers is not None:
        show_answers(answers)
    return 0


def answers_of(experiment: Built, *, is_typed: bool = False) -> pa.Table | None:
    """Predict one row per example, in their order. Returns: None on every process but the first."""
    trainer, module = experiment.trainer, experiment.module
    if not is_overridden("predict_dataloader", experiment.datamodule or module):
        raise ConfigError("there is no predict_dataloader, and nothing to predict. Add one to the data.")
    if is_typed and trainer.world_size > 1:
        raise ConfigError("data.path is -: standard input is read by one process. Set --trainer.devices 1.")
    started = time.monotonic()
    data, weights = experiment.datamodule, experiment.weights_from
    with refused_by_lightning():
        trainer.predict(module, datamodule=data, return_predictions=False, ckpt_path=weights, weights_only=True)
    table = experiment.predictions.table
    if table is None:
        return None
    log.info("predicted %d in %.1f s", len(table), time.monotonic() - started)
    if not isinstance(experiment, Experiment):
        return table
    lines = pa.array(experiment.data.dataset("predict").values("line")[table["id"].to_numpy()], pa.int64())
    return with_named_lists(table.add_column(1, "line", lines), experiment.model.column_labels())


def validate(arguments: list[str]) -> int:
    """Print the metrics of a checkpoint on the validation split. Raises: ConfigError, DataError."""
    configuration, checkpoint = parse_with_checkpoint(arguments)
    experiment = build_any(configuration, "validate", checkpoint)
    trainer = experiment.trainer
    data, weights = experiment.datamodule, experiment.weights_from
    with refused_by_lightning():
        trainer.validate(experiment.module, datamodule=data, ckpt_path=weights, verbose=False, weights_only=True)
    if trainer.is_global_zero:
        for name, value in sorted(trainer.callback_metrics.items()):
            print(f"{name} {float(value):.6f}")
    return 0


def test_checkpoint(arguments: list[str]) -> int:
    """Test a checkpoint as a new run, and print its metrics. Raises: ConfigError, DataError."""
    finished = test(*parse_with_checkpoint(arguments))
    if is_process_zero():
        print(*finished.findings, finished.last_line, sep="\n")
    return 0


def parse_with_checkpoint(arguments: Sequence[str]) -> tuple[Configuration, Path]:
    """Return the configuration, and the checkpoint that a run or a path names, with or without `--ckpt_path`.

    Without `--config` the configuration is the one stored in the checkpoint.

    Raises: ConfigError when no checkpoint is named or it cannot be found or read.
    """
    return _parse(arguments, lambda saved, _: saved)


def parse_to_predict(arguments: Sequence[str]) -> tuple[Configuration, Path]:
    """Return configuration and checkpoint as `parse_with_checkpoint`, without the stored format for a new `data.path`.

    `data.reading` in a checkpoint defines how the run's own files are read (a format, column names, an encoding), and
    applies to no other file.
    """
    return _parse(arguments, _saved_for)


def _parse(
    arguments: Sequence[str], stored: Callable[[dict[str, Any], Mapping[str, str]], dict[str, Any]]
) -> tuple[Configuration, Path]:
    named, rest = take_option(written_out(arguments, CHECKPOINT), CHECKPOINT)
    if sum(name == CHECKPOINT for name, _ in options(arguments, bare=CHECKPOINT)) > 1:
        raise ConfigError("two models are named. Name one run or checkpoint; a configuration is named by --config.")
    if named is None:
        raise ConfigError("which model? Name a run, whose best checkpoint is used, or a checkpoint file.")
    given = dict(options(rest))
    if "--config" in given:
        configuration = parse(rest)
        return configuration, find_checkpoint(named, configuration.tracking())
    path = find_checkpoint(named, TrackingConfig(uri=given.get("--tracking.uri")))
    return parse(rest, saved=stored(stored_configuration(read_checkpoint(path), str(path)), given)), path


def _saved_for(saved: dict[str, Any], given: Mapping[str, str]) -> dict[str, Any]:
    path = given.get("--data.path", given.get("--data.init_args.path"))
    return saved if path is None else saved_for_path(saved, path)


def saved_for_path(saved: dict[str, Any], path: str) -> dict[str, Any]:
    """Return a stored configuration, without `data.reading` if `path` is none of the run's own files."""
    arguments = saved["data"]["init_args"]
    own = {arguments.get(name) for name in ("path", "validation_path", "test_path")}
    if "reading" not in arguments or _absolute(path) in {_absolute(name) for name in own if name}:
        return saved
    kept = {name: value for name, value in arguments.items() if name != "reading"}
    return {**saved, "data": {**saved["data"], "init_args": kept}}


def _absolute(path: str) -> str:
    return os.path.realpath(os.path.expanduser(path))  # Path.resolve raises on a link to itself
