"""`lightrail predict`: answers for the texts or pictures of `data.path`.

A row has `id`, the number of the answer from 0; `line`, the line of the file on which what it answers begins (in a
binary format, the number of the record), by which other columns of the file are found again; and what the task says.

`lightrail validate` and `lightrail test`: the metrics of a checkpoint on these splits.
"""

import logging
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path

import pyarrow as pa

from lightrail.project.basics.errors import ConfigError
from lightrail.project.configuration.sources import take_option
from lightrail.project.models.answer_files import check_output, show_answers, with_named_lists, write_answers
from lightrail.project.running.build import Experiment, build
from lightrail.project.running.checkpoint_arguments import parse_to_predict, parse_with_checkpoint
from lightrail.project.running.fitting import test

log = logging.getLogger(__name__)

STANDARD_INPUT = "-"


def run(arguments: list[str]) -> int:
    output, rest = take_option(arguments, "--output")
    configuration, checkpoint = parse_to_predict(rest)
    source = configuration.values["data"]["init_args"].get("path")
    if output is not None:
        check_output(Path(output), str(source))
    with redirect_stdout(sys.stderr):  # standard output is for answers alone: some callbacks of Lightning print there
        if source == STANDARD_INPUT and sys.stdin is not None and sys.stdin.isatty():
            log.info("reading texts from the terminal, one a line; Ctrl-D on an empty line ends them")
        experiment = build(configuration, "predict", checkpoint)
        answers = _answers(experiment, is_typed=source == STANDARD_INPUT)
    if answers is not None and output is not None:
        write_answers(answers, Path(output))
        log.info("wrote %d answers to %s", len(answers), output)
    elif answers is not None:
        show_answers(answers)
    return 0


def _answers(experiment: Experiment, *, is_typed: bool) -> pa.Table | None:
    """One row for each example, in their order; None on every process but the first."""
    trainer, data = experiment.trainer, experiment.data
    if is_typed and trainer.world_size > 1:
        raise ConfigError("data.path is -: standard input is read by one process. Set --trainer.devices 1.")
    started = time.monotonic()
    trainer.predict(experiment.model, datamodule=data, return_predictions=False)
    table = experiment.predictions.table
    if table is None:
        return None
    log.info("answered %d in %.1f s", len(table), time.monotonic() - started)
    lines = pa.array(data.dataset("predict").values("line")[table["id"].to_numpy()], pa.int64())
    return with_named_lists(table.add_column(1, "line", lines), experiment.model.column_labels())


def validate(arguments: list[str]) -> int:
    configuration, checkpoint = parse_with_checkpoint(arguments)
    experiment = build(configuration, "validate", checkpoint)
    trainer = experiment.trainer
    trainer.validate(experiment.model, datamodule=experiment.data, verbose=False)
    if trainer.is_global_zero:
        for name, value in sorted(trainer.callback_metrics.items()):
            print(f"{name} {float(value):.6f}")
    return 0


def test_checkpoint(arguments: list[str]) -> int:
    finished = test(*parse_with_checkpoint(arguments))
    if finished.predictions is not None:
        print(finished.last_line)
    return 0
