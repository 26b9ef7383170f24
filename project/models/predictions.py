"""The predictions of a model for all examples, as one table, with the scores computed from it."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet
import torch.distributed
from lightning.pytorch import Callback

from lightrail.lightning_modules.arguments import from_plain, to_plain
from lightrail.lightning_modules.base import TaskModule
from lightrail.lightning_modules.metrics.scores import StoredScore
from lightrail.project.basics.errors import ConfigError, shown
from lightrail.project.basics.reading import quoted_path, reading, regular_file
from lightrail.project.tracking.lookup import PREDICTIONS

MODULES_0_1 = {
    "entity_scores": "EntityErrors EntityScore",
    "label_scores": "CalibrationError MacroAuroc MacroAveragePrecision MacroPrecision MacroRecall Matthews MicroF1 "
    "WeightedF1",
    "language_scores": "BitsPerUnit Perplexity",
    "scores": "MacroF1 ShareEqual ShareZero SumRatio WeightedMean",
}
"""Modules of the scores that version 0.1.0 stored by their bare names."""
PATHS_0_1 = {
    name: f"lightrail.lightning_modules.metrics.{module}.{name}"
    for module, names in MODULES_0_1.items()
    for name in names.split()
}


def scores_to_json(scores: Mapping[str, StoredScore]) -> str:
    """Serialize scores, by the name of their metric, as text that `scores_from_json` reads."""
    return json.dumps({name: to_plain(score) for name, score in scores.items()}, ensure_ascii=False)


def scores_from_json(text: str) -> dict[str, StoredScore]:
    """Read scores that `scores_to_json` wrote.

    Raises: ConfigError naming a metric whose class is not available, such as one of a module not yet imported.
    """
    return {name: _score(name, plain) for name, plain in json.loads(text).items()}


def _score(name: str, plain: dict[str, Any]) -> StoredScore:
    if kind := plain.pop("kind", None):
        plain = {"class_path": PATHS_0_1.get(kind, kind), "init_args": plain}
    arguments = {key: tuple(own) if isinstance(own, list) else own for key, own in plain["init_args"].items()}
    try:
        score: StoredScore = from_plain({**plain, "init_args": arguments}, StoredScore)
    except (ConfigError, TypeError) as error:
        raise ConfigError(
            f"metric {shown(name)} is computed by {shown(plain['class_path'])}, which cannot be built here, or is no "
            f"StoredScore. If it is your own, import its module first (--allow_modules on the command line)."
        ) from error
    return score


SCORES, MAIN_METRIC = b"lightrail.scores", b"lightrail.main_metric"
"""Keys of the table's metadata."""


NUM_WORST = 100
"""Number of examples in the run's samples."""
PREDICTION = "prediction"
"""The column that a language model lacks: it has a loss for each text, and no prediction."""
COLUMN_TYPES = {"id": pa.int64(), "score": pa.float32(), "loss": pa.float32()}
"""Types of the columns of every task; a task declares those of its own by `column_types`."""


def with_scores(table: pa.Table, scores: Mapping[str, StoredScore], main_metric: str) -> pa.Table:
    """Add to a table, as metadata, its scores by metric and the metric by which the model was selected."""
    return table.replace_schema_metadata({SCORES: scores_to_json(scores), MAIN_METRIC: main_metric})


def stored_scores(table: pa.Table) -> tuple[dict[str, StoredScore], str] | None:
    """Return the scores and the main metric that `with_scores` stored; None for a table without."""
    metadata = table.schema.metadata or {}
    if SCORES not in metadata:
        return None
    with reading("the scores in a table of predictions", "Test the run again."):
        return scores_from_json(metadata[SCORES].decode()), metadata[MAIN_METRIC].decode()


MAX_VALUES = 1_000_000_000
"""Maximum number of values in a table of predictions: a small file can hold any number of equal ones."""


NUMBERS = (*COLUMN_TYPES, "num_targets", "num_characters", "num_bytes")


def read_predictions(path: Path) -> pa.Table:
    """Read `predictions/test.parquet` of a run, sorted by the id of the examples.

    Raises: ConfigError when it is damaged, lacks columns that each task writes, or has too many values for the memory.
    """
    regular_file(path, "predictions")
    fix = "Test the run again: lightrail test --ckpt_path runs:/RUN_ID."
    with (
        reading(f"{quoted_path(path)} cannot be read as predictions", fix),
        pyarrow.parquet.ParquetFile(path) as file,
    ):
        num_values = file.metadata.num_rows * max(1, file.metadata.num_columns)
        if num_values > MAX_VALUES:
            raise ValueError(f"it has {num_values:,} values, more than fit into memory")
        table = file.read()
        if wrong := _wrong_columns(table):
            raise ValueError("; ".join(wrong))
        return table.sort_by("id")


def _wrong_columns(table: pa.Table) -> list[str]:
    names = Counter(table.column_names)
    needed = (*COLUMN_TYPES, "target") if PREDICTION in names else COLUMN_TYPES
    wrong = [f"no column {name}" for name in needed if name not in names]
    wrong += [f"several columns {name}" for name, number in names.items() if number > 1]
    for name in [name for name in NUMBERS if name in names] if not wrong else ():
        kind, missing = table[name].type, table[name].null_count
        if missing or not (pa.types.is_integer(kind) or (name in ("score", "loss") and pa.types.is_floating(kind))):
            wrong.append(f"column {name} of type {kind} has {missing} missing values")
    return wrong


class PredictionTable(Callback):
    """Collects the columns returned by test and predict steps, from all processes, in the order of the examples.

    After `trainer.test` or `trainer.predict`, `table` has the rows on process zero, and is None on the others.
    """

    def __init__(self) -> None:
        self.table: pa.Table | None = None
        self._columns: dict[str, list[Any]] = defaultdict(list)

    @property
    def num_rows(self) -> int:
        """Number of rows that this process has collected."""
        return len(self._columns["id"])

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._columns.clear()

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._columns.clear()

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._add(outputs)

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._add(outputs)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.table = _gathered(self._columns, trainer, pl_module)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.table = _gathered(self._columns, trainer, pl_module)

    def _add(self, columns: Mapping[str, Sequence[Any]] | None) -> None:
        for name, values in (columns or {}).items():
            self._columns[name].extend(values)


def _gathered(columns: dict[str, list[Any]], trainer: pl.Trainer, task: pl.LightningModule) -> pa.Table | None:
    parts: list[Any] = [dict(columns)]
    if trainer.world_size > 1:
        parts = [None] * trainer.world_size
        torch.distributed.all_gather_object(parts, dict(columns))
    if not trainer.is_global_zero:
        return None
    tables = [predictions_table(part, task) for part in parts if part]
    return pa.concat_tables(tables).sort_by("id") if tables else None


def predictions_table(columns: Mapping[str, list[Any]], task: pl.LightningModule) -> pa.Table:
    """Return the columns of a test or predict step as a table, in the types that a task declares."""
    types = COLUMN_TYPES | (dict(task.column_types()) if isinstance(task, TaskModule) else {})
    return pa.table({name: _array(own, types.get(name)) for name, own in columns.items()})


def _array(values: list[Any], data_type: pa.DataType | None) -> pa.Array:
    try:
        return pa.array(values, data_type)
    except UnicodeEncodeError:
        return pa.array(_encodable(values), data_type)


def _encodable(value: Any) -> Any:
    """Replace each half of a surrogate pair, which JSON allows and UTF-8 does not, by one character."""
    if isinstance(value, str):
        return re.sub("[\ud800-\udfff]", "\ufffd", value)
    if isinstance(value, list):
        return [_encodable(item) for item in value]
    return {key: _encodable(item) for key, item in value.items()} if isinstance(value, dict) else value


def write_predictions(table: pa.Table, folder: Path, scores: Mapping[str, StoredScore], main_metric: str) -> None:
    """Write `predictions/test.parquet`, and the worst mistakes as a table that the MLflow UI shows.

    Without predictions these are the texts with the highest loss, `samples/highest_losses.csv`.

    Args:
        scores: the computation of each metric from the columns, stored in the file for comparisons without the task.
        main_metric: the metric by which the model was selected.
    """
    for name in ("predictions", "samples"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    scored = with_scores(table, scores, main_metric)
    pyarrow.parquet.write_table(scored, folder / PREDICTIONS)
    flat = [field.name for field in table.schema if not pa.types.is_nested(field.type)]  # as CSV requires
    if PREDICTION in flat:
        pyarrow.csv.write_csv(worst_mistakes(table.select(flat)), folder / "samples" / "worst_mistakes.csv")
    else:
        pyarrow.csv.write_csv(_highest_losses(table.select(flat)), folder / "samples" / "highest_losses.csv")


def worst_mistakes(table: pa.Table) -> pa.Table:
    """Return the wrong predictions with the highest loss, worst first."""
    is_wrong = pa.compute.not_equal(table[PREDICTION], table["target"])
    return _highest_losses(table.filter(is_wrong))


def _highest_losses(table: pa.Table) -> pa.Table:
    return table.sort_by([("loss", "descending")]).slice(0, NUM_WORST)
