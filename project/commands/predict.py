"""`lightrail predict`: answers for the texts of `data.path`."""

import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from project.build import build
from project.checkpoint_arguments import parse_with_checkpoint, take_option
from project.errors import ConfigError
from project.tracking.store import check_folder

WRITERS = {".csv": pyarrow.csv.write_csv, ".parquet": pyarrow.parquet.write_table}


def run(arguments: list[str]) -> int:
    output, rest = take_option(arguments, "--output")
    if output and Path(output).suffix not in (*WRITERS, ".jsonl"):
        raise ConfigError(f"--output {output}: unknown format. End the name in .jsonl, .csv or .parquet.")
    if output:
        check_folder(Path(output).absolute().parent, "--output")  # now, and not when all is computed
    configuration, checkpoint = parse_with_checkpoint(rest)
    experiment = build(configuration, "predict", checkpoint)
    experiment.trainer.predict(experiment.model, datamodule=experiment.data, return_predictions=False)
    if experiment.predictions.table is not None:
        _write(experiment.predictions.table, output)
    return 0


def _write(table: pa.Table, output: str | None) -> None:
    """One row for each text, in the order of the input; JSON lines to standard output unless a file is named."""
    try:
        if output and Path(output).suffix in WRITERS:
            WRITERS[Path(output).suffix](table, output)
            return
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_pylist())
        if output is None:
            sys.stdout.writelines(lines)
        else:
            with Path(output).open("w", encoding="utf-8") as stream:
                stream.writelines(lines)
    except OSError as error:
        raise ConfigError(
            f"--output {output}: {error.strerror}. Name a file in a folder that may be written."
        ) from error
