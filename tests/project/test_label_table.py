"""The table of labels counts as scikit-learn does, and can be drawn."""

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import precision_recall_fscore_support
from sklearn.preprocessing import MultiLabelBinarizer

from lightrail.project.figures.label_table import LabelRow, draw_label_rows, label_rows, write_label_rows

pytestmark = pytest.mark.pictures

LABELS = ["a", "b", "c"]


def predictions(*, has_many: bool) -> pa.Table:
    generator = np.random.default_rng(0)
    if has_many:
        sets = [[name for name in LABELS if generator.random() < 0.5] for _ in range(80)]
        names = ["|".join(own) for own in sets]
    else:
        names = generator.choice(LABELS[:2], 80).tolist()
    return pa.table({"prediction": names[:40], "target": names[40:]})


@pytest.mark.parametrize("has_many", [False, True])
def test_each_label_is_counted_as_sklearn_counts_it(has_many: bool) -> None:
    table = predictions(has_many=has_many)
    binarizer = MultiLabelBinarizer(classes=LABELS)
    targets, predicted = (
        binarizer.fit_transform([name.split("|") if name else [] for name in table[column].to_pylist()])
        for column in ("target", "prediction")
    )
    expected = np.transpose(precision_recall_fscore_support(targets, predicted, average=None, zero_division=0))
    rows = label_rows(table, LABELS, "|" if has_many else None)
    assert [row.label for row in rows] == LABELS
    found = [(row.precision, row.recall, row.f1, row.support) for row in rows]
    np.testing.assert_allclose(found, expected)


def test_the_table_has_a_line_for_each_label(tmp_path: Path) -> None:
    rows = [LabelRow("a, b", 0.5, 1, 2 / 3, 4), LabelRow("c", 0, 0, 0, 0)]
    write_label_rows(rows, {"threshold": [0.5, 0.25]}, tmp_path / "samples" / "per_class.csv")
    with (tmp_path / "samples" / "per_class.csv").open(encoding="utf-8", newline="") as stream:
        lines = list(csv.reader(stream))
    assert lines == [
        ["label", "precision", "recall", "f1", "support", "threshold"],
        ["a, b", "0.5000", "1.0000", "0.6667", "4", "0.5000"],
        ["c", "0.0000", "0.0000", "0.0000", "0", "0.2500"],
    ]


@pytest.mark.parametrize("number", [1, 5, 200])
def test_any_number_of_labels_can_be_drawn(tmp_path: Path, number: int) -> None:
    rows = [LabelRow(f"标签 $ {place}", 0.9, 0.4, 0.6, place) for place in range(number)]
    draw_label_rows(rows, tmp_path / "labels.png")
    assert (tmp_path / "labels.png").read_bytes().startswith(b"\x89PNG")
