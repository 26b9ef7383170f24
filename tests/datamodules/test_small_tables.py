"""A small table is divided so that each split has an example, where that is possible at all."""

import json
from pathlib import Path

import pytest

from lightrail.datamodules.base import SplitConfig
from lightrail.datamodules.text_classification import TextClassificationData
from lightrail.project.basics.errors import DataError

SMALL = SplitConfig(validation_fraction=0.02, test_fraction=0.02)


def texts_of(path: Path, labels: list[str], split: SplitConfig = SMALL) -> dict[str, list[str]]:
    """The texts of each split of a table with these labels."""
    rows = [{"text": f"room {number} was fine", "label": label} for number, label in enumerate(labels)]
    (path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = TextClassificationData(str(path / "t.jsonl"), split=split)
    data.setup("fit")
    return {name: [str(row["text"]) for row in map(own.row, range(len(own)))] for name, own in data._rows.items()}


@pytest.mark.parametrize("number", [4, 6, 20, 60])
def test_each_split_gets_an_example(tmp_path: Path, number: int) -> None:
    found = texts_of(tmp_path, ["+", "-"] * (number // 2))

    assert min(map(len, found.values())) >= 1
    assert len({text for own in found.values() for text in own}) == number == sum(map(len, found.values()))


def test_the_test_set_does_not_depend_on_the_validation_fraction(tmp_path: Path) -> None:
    found = texts_of(tmp_path, ["+", "-"] * 15)
    other = texts_of(tmp_path, ["+", "-"] * 15, SplitConfig(validation_fraction=0.3, test_fraction=0.02))

    assert found["test"] == other["test"]
    assert set(found["validation"]) < set(other["validation"])


def test_no_label_leaves_the_training_split(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no validation examples"):
        texts_of(tmp_path, ["a", "b", "c", "d"])
    found = texts_of(tmp_path, ["a", "b", "b", "b", "b", "c"])
    assert {"room 0 was fine", "room 5 was fine"} <= set(found["train"])


def test_two_texts_are_too_few_for_three_splits(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no validation examples \(\d train, 0 validation, \d test\)"):
        texts_of(tmp_path, ["+", "+"])


def test_a_large_table_is_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightrail.datamodules.corpus.division.FEW_ROWS", 10)
    with pytest.raises(DataError, match=r"no (test|validation) examples"):
        texts_of(tmp_path, ["+", "-"] * 10, SplitConfig(validation_fraction=0.0001, test_fraction=0.0001))
