"""The table of predictions holds every example once, in order, and shows the worst mistakes."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch
from lightning.pytorch import Callback

from lightrail.datamodules.batches.batching import BatchConfig, BatchLoader, BucketSampler
from lightrail.lightning_modules.metrics.scores import ShareEqual, WeightedMean
from lightrail.project.models.predictions import (
    NUM_WORST,
    PredictionTable,
    stored_scores,
    worst_mistakes,
    write_predictions,
)
from tests.support.tiny import Points, Signs, collate_points, points_loader, quiet_trainer

SCORES = {"accuracy": ShareEqual(), "loss": WeightedMean(column="loss", higher_is_better=False)}


def model() -> Signs:
    torch.manual_seed(2)
    return Signs()


def rows_of(collected: PredictionTable) -> pa.Table:
    assert collected.table is not None
    return collected.table


def answers(number: int) -> dict[str, Any]:
    points = Points(number)
    with torch.no_grad():
        logits = model().head(torch.from_numpy(points.points)).double()
    probabilities = logits.softmax(-1)
    labels = torch.from_numpy(points.labels)
    return {
        "id": list(range(number)),
        "prediction": [Signs.names[label] for label in probabilities.argmax(-1)],
        "score": pytest.approx(probabilities.amax(-1).tolist(), rel=1e-5),
        "target": [Signs.names[label] for label in labels],
        "loss": pytest.approx((-probabilities.log()[torch.arange(number), labels]).tolist(), rel=1e-4, abs=1e-6),
    }


@pytest.mark.parametrize("size", [1, 4, 10])
def test_every_example_has_one_row_in_its_place(size: int) -> None:
    collected = PredictionTable()
    trainer = quiet_trainer(callbacks=[collected])
    trainer.test(model(), points_loader(10, size=size, is_shuffled=True), verbose=False)
    table = rows_of(collected)
    assert table.to_pydict() == answers(10)
    types = {field.name: str(field.type) for field in table.schema}
    assert types == {"id": "int64", "prediction": "string", "score": "float", "target": "string", "loss": "float"}


def test_a_second_test_starts_an_empty_table() -> None:
    table = PredictionTable()
    trainer = quiet_trainer(callbacks=[table])
    for number in (10, 7):
        trainer.test(model(), points_loader(number), verbose=False)
        assert rows_of(table).num_rows == number


def test_predictions_fill_the_table_too() -> None:
    table = PredictionTable()
    quiet_trainer(callbacks=[table]).predict(model(), points_loader(10), return_predictions=False)
    assert rows_of(table).to_pydict() == answers(10)


class SaveTable(Callback):
    """Writes what process zero holds: the processes of a test end with what they collected."""

    def __init__(self, table: PredictionTable, folder: Path) -> None:
        self.table, self.folder = table, folder

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.table.table is None:
            (self.folder / f"none-{trainer.global_rank}").touch()
        else:
            pa.parquet.write_table(self.table.table, self.folder / f"table-{trainer.global_rank}.parquet")


class PointsData(pl.LightningDataModule):
    def test_dataloader(self) -> BatchLoader:
        assert self.trainer is not None
        rank, world_size = self.trainer.global_rank, self.trainer.world_size
        sampler = BucketSampler(np.ones(7, np.int64), BatchConfig(size=5), rank=rank, world_size=world_size)
        return BatchLoader(Points(7), collate_points, sampler)


def test_process_zero_gets_the_rows_of_all_processes(tmp_path: Path) -> None:
    table = PredictionTable()
    trainer = quiet_trainer(callbacks=[table, SaveTable(table, tmp_path)], devices=3, strategy="ddp_fork")
    trainer.test(model(), datamodule=PointsData(), verbose=False)  # batches of 5 and 2: one process has a filler
    assert sorted(file.name for file in tmp_path.iterdir()) == ["none-1", "none-2", "table-0.parquet"]
    assert pa.parquet.read_table(tmp_path / "table-0.parquet").to_pydict() == answers(7)


def rows(number: int) -> pa.Table:
    """Every third prediction is right; losses rise with the number."""
    names = [f"text {count}" for count in range(number)]
    predictions = [name if count % 3 == 0 else '，\n"other"' for count, name in enumerate(names)]
    losses = pa.array([count / 10 for count in range(number)], pa.float32())
    return pa.table({"id": range(number), "target": names, "prediction": predictions, "loss": losses})


def test_the_worst_mistakes_come_first_and_right_predictions_not_at_all() -> None:
    assert worst_mistakes(rows(8))["id"].to_pylist() == [7, 5, 4, 2, 1]
    assert worst_mistakes(rows(1)).num_rows == 0
    many = worst_mistakes(rows(400))
    assert many.num_rows == NUM_WORST
    assert many["id"][0].as_py() == 398


def test_predictions_and_mistakes_are_written_into_the_runs_folder(tmp_path: Path) -> None:
    for _ in range(2):  # over what a run before an interruption wrote
        write_predictions(rows(8), tmp_path, SCORES, "accuracy")
    table = pa.parquet.read_table(tmp_path / "predictions" / "test.parquet")
    assert table.equals(rows(8))
    assert stored_scores(table) == (SCORES, "accuracy")
    mistakes = pa.csv.read_csv(
        tmp_path / "samples" / "worst_mistakes.csv", parse_options=pa.csv.ParseOptions(newlines_in_values=True)
    )
    assert mistakes["id"].to_pylist() == [7, 5, 4, 2, 1]
    assert mistakes["prediction"].to_pylist() == ['，\n"other"'] * 5
