"""A folder with an entry for each split is not read as one, whatever its splits are called."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightrail.datamodules.corpus.files import source_files
from lightrail.datamodules.image_classification import ImageClassificationData
from lightrail.datamodules.reading.image_files import image_files
from lightrail.datamodules.reading.rows import Row
from lightrail.datamodules.reading.sources import read_rows
from lightrail.project.basics.errors import DataError


def pictures(folder: Path, *labels: str) -> str:
    for label in labels:
        (folder / label).mkdir(parents=True)
        Image.fromarray(np.zeros((2, 2), np.uint8)).save(folder / label / "a.png")
    return str(folder)


@pytest.mark.parametrize(
    ("train", "other", "setting"),
    [
        ("train", "val", "validation_path"),
        ("Training", "VALID", "validation_path"),
        ("TRAIN", "validation", "validation_path"),
        ("train", "dev", "validation_path"),
        ("train_images", "test_images", "test_path"),
    ],
)
def test_folders_of_splits_are_no_labels(tmp_path: Path, train: str, other: str, setting: str) -> None:
    source = pictures(tmp_path, *(f"{split}/{label}" for split in (train, other) for label in ("cat", "dog")))
    with pytest.raises(DataError, match=rf"Set data\.path={source}/{train}, data\.{setting}={source}/{other}"):
        ImageClassificationData(source).prepare_data()
    assert len(image_files(source, has_labels=False)) == 4, "to predict, all are read"


def test_labels_that_sound_like_splits_are_labels(tmp_path: Path) -> None:
    assert len(image_files(pictures(tmp_path / "a", "train", "test", "car"), has_labels=True)) == 3
    assert len(image_files(pictures(tmp_path / "b", "cat/1", "cat/2", "dog/1"), has_labels=True)) == 3


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (("cat/train", "cat/test", "dog/train", "dog/test"), "cat holds a folder for each split"),
        (("cat/Training/1", "cat/val", "dog"), "cat holds a folder for each split"),
        (("train/cat", "train/dog", "holdout/cat"), "they are splits, not labels"),
    ],
)
def test_splits_inside_labels_or_of_other_names_are_refused(
    tmp_path: Path, labels: tuple[str, ...], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        image_files(pictures(tmp_path, *labels), has_labels=True)


def test_hidden_folders_are_no_labels(tmp_path: Path) -> None:
    source = pictures(tmp_path, "cat", "dog", ".ipynb_checkpoints", "__MACOSX/cat", "cat/.thumbnails")
    assert len(image_files(source, has_labels=True)) == 2


@pytest.mark.parametrize("labels", [("train", "test"), ("train/cat", "test/cat", "notes/cat")])
def test_splits_without_labels_or_beside_other_folders_are_refused(tmp_path: Path, labels: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match="an entry for each split"):
        image_files(pictures(tmp_path, *labels), has_labels=True)


def test_one_folder_around_the_labels_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds one folder, which holds folders\. Name .*/images"):
        image_files(pictures(tmp_path, "images/cat", "images/dog"), has_labels=True)


@pytest.mark.parametrize(
    ("names", "refused"),
    [
        (("train.txt", "valid.txt", "test.txt"), True),
        (("wiki.train.txt", "wiki.test.txt"), True),
        (("train-0-of-2.txt", "train-1-of-2.txt", "test-0-of-1.txt"), True),
        (("train/a.txt", "test/b.txt"), True),
        (("en/Train.txt", "en/dev.txt"), True),
        (("train journey.txt", "test.txt"), False),
        (("a.txt", "test.txt", "training.txt.bak"), False),
        (("train.txt", "trains.txt"), False),
    ],
)
def test_a_folder_of_texts_by_split_is_not_one_corpus(tmp_path: Path, names: tuple[str, ...], refused: bool) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text\n")
    if refused:
        with pytest.raises(DataError, match=r"an entry for each split, .*Set data\.path="):
            source_files(str(tmp_path))
    else:
        assert source_files(str(tmp_path))


def test_a_folder_of_tables_by_split_names_the_settings(tmp_path: Path) -> None:
    for name in ("train.csv", "dev.csv"):
        (tmp_path / name).write_text("text\na\n")
    with pytest.raises(DataError, match=r"Set data\.path=.*/train\.csv, data\.validation_path=.*/dev\.csv"):
        _: list[Row] = list(read_rows(str(tmp_path), columns=["text"]))
