"""The MLflow model of a run that was tested: its signature, and an example with its predictions."""

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor

from lightrail.datamodules.base import DataModule
from lightrail.datamodules.batches.batching import row_for_batch
from lightrail.datamodules.reading import ReadingNotes
from lightrail.lightning_modules.networks.compiling import as_written
from lightrail.lightning_modules.networks.modes import evaluating
from lightrail.project.basics.errors import first_line
from lightrail.project.configuration.configuration import modules_named
from lightrail.project.logged_models.describing import MOST_BYTES_OF_EXAMPLE, Answering, write_model
from lightrail.project.models.answer_files import with_named_lists
from lightrail.project.models.predictions import table_of
from lightrail.project.running.parts import Experiment
from lightrail.project.tracking.lookup import BEST_CHECKPOINT
from lightrail.project.tracking.run import TrackedRun

log = logging.getLogger(__name__)

NUM_EXAMPLES = 2
_MOST_CHARACTERS = 1000
"""Longer texts are cut in an example."""
_OURS = ("lightrail", "lightning", "torch", "torchmetrics")
"""Packages whose classes need no permission."""


def stage_model(experiment: Experiment, run: TrackedRun) -> None:
    """Write the MLflow model of a run beside its journal, to be sent when the run is finished.

    A run without a best checkpoint of its own, such as one of `lightrail test`, has none. Raises nothing.
    """
    if not (run.directory / BEST_CHECKPOINT).is_file():
        return
    modules = [own for own in modules_named(experiment.configuration.values) if own.partition(".")[0] not in _OURS]
    try:
        write_model(run.model_folder, run.run_id, sorted(set(modules)), _answering(experiment))
    except Exception as error:  # of a disk, or of code of the user's own: the run is finished without
        log.warning("run %s has no MLflow model: %s", run.run_id, first_line(error))


def _answering(experiment: Experiment) -> Answering:
    """Return what the model reads, with an example if one can be made."""
    data = experiment.data
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "rows.jsonl")
        file.touch()
        reader = _reading(experiment, file)
        named = reader.columns("predict")
        columns = {
            str(name): name not in reader.optional for name in (named.values() if isinstance(named, Mapping) else named)
        }
        kinds: dict[str, Any] = {"columns": columns, "structured": tuple(reader.structured)}
        try:
            rows = list(islice(_rows(data, [*columns]), NUM_EXAMPLES))
            text = "".join(f"{json.dumps(row)}\n" for row in rows)
            if not rows or len(text) > MOST_BYTES_OF_EXAMPLE:
                return Answering(**kinds)
            file.write_text(text, encoding="utf-8")
            if not isinstance(experiment.trainer.strategy, SingleDeviceStrategy | DDPStrategy):
                return Answering(**kinds, example=rows)  # this process has a part of the weights
            return Answering(**kinds, example=rows, predictions=_predictions(experiment, reader))
        except Exception as error:  # data of any form: the model has a signature without an example
            log.debug("the MLflow model has no input example: %s", first_line(error))
            return Answering(**kinds)


def _reading(experiment: Experiment, file: Path) -> DataModule:
    """Return the data of an experiment for rows to predict, in a file of JSON Lines."""
    values = experiment.configuration.values
    given = {name: own for name, own in values["data"]["init_args"].items() if name != "reading"}
    section = {**values["data"], "init_args": {**given, "path": str(file)}}
    data = replace(experiment.configuration, values={**values, "data": section}).data()
    assert isinstance(data, DataModule), "the data of a task"
    data.adopt(experiment.configuration.facts_among(experiment.model.hparams))
    return data


def _rows(data: DataModule, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield rows of the validation split as their source has them, from its beginning."""
    lines = np.sort(data.rows("validation").values("line"))[:NUM_EXAMPLES].tolist()
    for row in data.read(data.validation_path or data.path, "predict", ReadingNotes()):
        if row.line in lines:
            yield {name: _plain(row.values[name]) for name in columns if row.values.get(name) is not None}
            if row.line == lines[-1]:
                return


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return value[:_MOST_CHARACTERS]
    return value.tolist() if isinstance(value, np.ndarray) else value


def _predictions(experiment: Experiment, data: DataModule) -> pa.Table:
    """Return what the task, as it is, predicts for the rows of a file."""
    data.setup("predict")
    task, rows = experiment.model, data.dataset("predict")
    batch = data.collate([row_for_batch(rows, number) for number in range(len(rows))])
    batch = {name: own.to(task.device) if isinstance(own, Tensor) else own for name, own in batch.items()}
    with torch.inference_mode(), evaluating(task), as_written(task.children()):
        columns = {"id": batch["id"], **task.decode(task(batch), batch)}
    lines = pa.array(rows.values("line")[np.array(batch["id"])], pa.int64())
    return with_named_lists(table_of(columns, task).add_column(1, "line", lines), task.column_labels())
