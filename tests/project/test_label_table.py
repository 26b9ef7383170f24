"""The table of labels counts as scikit-learn does, and can be drawn."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support
from sklearn.preprocessing import MultiLabelBinarizer

from lightrail.lightning_modules.figures.figure import Bars
from lightrail.lightning_modules.heads.label_head import LabelHead
from lightrail.lightning_modules.heads.label_loss import LabelLossConfig
from lightrail.lightning_modules.metrics.scores import Columns
from lightrail.project.figures.draw import draw

pytestmark = pytest.mark.pictures

LABELS = ["a", "b", "c"]


def answers(*, has_many: bool) -> Columns:
    generator = np.random.default_rng(0)
    if has_many:
        sets = [[name for name in LABELS if generator.random() < 0.5] for _ in range(80)]
        names = ["|".join(own) for own in sets]
    else:
        names = generator.choice(LABELS[:2], 80).tolist()
    columns = {"prediction": names[:40], "target": names[40:]}
    return {name: np.array(own, object) for name, own in columns.items()} | {"score": np.full(40, 0.5)}


@pytest.mark.parametrize("has_many", [False, True])
def test_each_label_is_counted_as_sklearn_counts_it(has_many: bool) -> None:
    columns = answers(has_many=has_many)
    binarizer = MultiLabelBinarizer(classes=LABELS)
    targets, predicted = (
        binarizer.fit_transform([name.split("|") if name else [] for name in columns[column]])
        for column in ("target", "prediction")
    )
    expected = np.transpose(precision_recall_fscore_support(targets, predicted, average=None, zero_division=0))
    head = LabelHead(2, LABELS, [1, 1, 1], has_many=has_many, dropout=0.0, loss=LabelLossConfig())
    (bars,) = (own for own in head.figures(columns) if isinstance(own, Bars))
    assert bars.labels == LABELS
    found = np.transpose([*bars.values.values(), bars.counts])
    np.testing.assert_allclose(found, expected)
    assert bars.more == ({"threshold": [0.5, 0.5, 0.5]} if has_many else {})


def bars_of(labels: list[str], **values: list[float]) -> Bars:
    counts = [4, *[0] * (len(labels) - 1)]
    return Bars(name="labels", title="Labels", labels=labels, values=values, counts=counts, table="per_class")


def test_the_table_has_a_line_for_each_label(tmp_path: Path) -> None:
    bars = bars_of(["a, b", "c"], precision=[0.5, 0], recall=[1, 0], f1=[2 / 3, 0])
    draw(replace(bars, more={"threshold": [0.5, 0.25]}), tmp_path)
    with (tmp_path / "samples" / "per_class.csv").open(encoding="utf-8", newline="") as stream:
        lines = list(csv.reader(stream))
    assert lines == [
        ["label", "precision", "recall", "f1", "support", "threshold"],
        ["a, b", "0.5000", "1.0000", "0.6667", "4", "0.5000"],
        ["c", "0.0000", "0.0000", "0.0000", "0", "0.2500"],
    ]


@pytest.mark.parametrize("number", [1, 5, 200])
def test_any_number_of_labels_can_be_drawn(tmp_path: Path, number: int) -> None:
    labels = [f"标签 $ {place}" for place in range(number)]
    draw(bars_of(labels, precision=[0.9] * number, recall=[0.4] * number, f1=[0.6] * number), tmp_path)
    svg = (tmp_path / "figures" / "labels.svg").read_text("utf-8")
    assert svg.count(">标签 $ ") == min(number, 30)
