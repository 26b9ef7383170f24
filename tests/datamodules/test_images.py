"""Pictures become bytes and label numbers, whatever they come from; what cannot is refused by its file."""

import gzip
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from lightrail.datamodules.base import SplitConfig
from lightrail.datamodules.cache.building import text_digest
from lightrail.datamodules.image_classification import ImageClassificationData
from lightrail.datamodules.reading.image_files import PictureForm, read_image, read_image_rows
from lightrail.project.basics.errors import ConfigError, DataError
from tests.support.pictures import bars, write_folder, write_idx, write_labels

IDX = "train-images-idx3-ubyte"


def ready(data: ImageClassificationData) -> ImageClassificationData:
    data.prepare_data()
    data.setup("fit")
    return data


def sources(folder: Path, images: str = IDX, **settings: Any) -> ImageClassificationData:
    """Data of an idx file for training and a good one for validation and test."""
    write_idx(folder / "other-images-idx3-ubyte", bars(3), [0, 1, 0])
    other = str(folder / "other-images-idx3-ubyte")
    return ImageClassificationData(
        str(folder / images), validation_path=other, test_path=other, **{"label_names": ["low", "high"], **settings}
    )


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_idx_files_hold_what_was_written_into_them(tmp_path: Path, ending: str) -> None:
    images = bars(4)
    write_idx(tmp_path / f"{IDX}{ending}", images, [1, 0, 1, 1])
    data = ready(sources(tmp_path, f"{IDX}{ending}"))
    rows = [data.rows("train").row(number) for number in range(4)]
    assert [row["label"] for row in rows] == [1, 0, 1, 1]
    assert np.array_equal(np.stack([row["pixels"] for row in rows]), images.reshape(4, -1))
    facts = data.facts()
    assert (facts["labels"], facts["label_counts"], facts["image_shape"]) == (["low", "high"], [1, 3], [1, 6, 5])
    assert facts["pixel_mean"] == pytest.approx([images.mean() / 255])
    assert facts["pixel_std"] == pytest.approx([images.std() / 255])


def test_a_batch_is_bytes_with_names(tmp_path: Path) -> None:
    images = bars(4)
    write_idx(tmp_path / IDX, images, [1, 0, 1, 1])
    data = ready(sources(tmp_path))
    batch = data.collate([{**data.rows("train").row(number), "id": number} for number in (3, 1)])
    assert str(batch["pixels"].dtype) == "torch.uint8"
    assert np.array_equal(batch["pixels"].numpy(), images[[3, 1], None])
    assert batch["labels"].tolist() == [1, 0]
    assert batch["image"] == [f"{IDX}:4", f"{IDX}:2"]
    assert (batch["id"], batch["num_tokens"], batch["num_targets"]) == ([3, 1], 60, 2)


def header(*numbers: int, kind: int = 8) -> bytes:
    return struct.pack(f">HBB{len(numbers)}I", 0, kind, len(numbers), *numbers)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x89PNG\r\n", r"begins with the bytes 89 50 4e 47; an idx file of images begins with 00 00 08 03"),
        (b"", r"begins with the bytes \(none\)"),
        (header(4), "is an idx file of labels; an idx file of images begins with"),
        (header(4, 6, 5, kind=13), "begins with the bytes 00 00 0d 03"),
        (header(4, 6, 5)[:9], "truncated inside its header"),
        (header(0, 6, 5), "is empty: its header has 0 x 6 x 5 values"),
        (header(2, 6, 5) + bytes(59), r"idx3-ubyte:2: truncated: its header has 2 records of 30 bytes"),
        (header(2, 6, 5) + bytes(61), "more bytes than the 2 records of its header"),
        (gzip.compress(header(2, 6, 5) + bytes(60), mtime=0)[:-9], "the file is truncated or damaged"),
        (header(3, 6, 5) + bytes(90), r"holds 2 labels and .* 3 images"),
    ],
)
def test_an_idx_file_that_is_none_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / IDX).write_bytes(content)
    write_labels(tmp_path / "train-labels-idx1-ubyte", [0, 1])
    with pytest.raises(DataError, match=message):
        sources(tmp_path).prepare_data()


def test_labels_are_found_by_their_standard_name_or_by_a_setting(tmp_path: Path) -> None:
    write_idx(tmp_path / IDX, bars(2), [0, 1])
    beside = tmp_path / "train-labels-idx1-ubyte"
    named = beside.rename(tmp_path / "answers")
    with pytest.raises(DataError, match=r"its file of labels is missing .*train-labels-idx1-ubyte"):
        sources(tmp_path).prepare_data()
    assert len(ready(sources(tmp_path, labels_path=str(named))).rows("train")) == 2
    (tmp_path / IDX).rename(tmp_path / "pictures")
    with pytest.raises(DataError, match=r"not named like an idx file of images .* Set data\.labels_path"):
        sources(tmp_path, "pictures").prepare_data()


def test_a_file_of_labels_for_what_has_its_own_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", {"a/1.png": bars(1)[0]})
    with pytest.raises(ConfigError, match=r"has labels of its own\. Remove labels_path"):
        sources(tmp_path, "train", labels_path="x").prepare_data()
    with pytest.raises(ConfigError, match=r"test_labels_path is given and data\.test_path is not"):
        ImageClassificationData("x", test_labels_path="y")


@pytest.mark.parametrize(("size", "found"), [([1], r"\[1\]"), ([0, 3], r"\[0, 3\]")])
def test_a_size_that_is_none_is_refused(size: list[int], found: str) -> None:
    with pytest.raises(ConfigError, match=rf"Data\.size: expected a list .* of length 2 or more .* found {found}"):
        ImageClassificationData("x", size=size)


def test_a_label_without_a_name_is_refused(tmp_path: Path) -> None:
    write_idx(tmp_path / IDX, bars(3), [0, 1, 2])
    with pytest.raises(DataError, match=rf"{IDX}:3: label '2' has no name: data.label_names names 0 to 1"):
        sources(tmp_path).prepare_data()


def test_labels_that_are_numbers_stand_in_the_order_of_numbers(tmp_path: Path) -> None:
    write_idx(tmp_path / IDX, bars(12), list(range(12)))
    write_idx(tmp_path / "other-images-idx3-ubyte", bars(3), [0, 1, 0])
    data = ready(sources(tmp_path, label_names=[]))
    assert data.facts()["labels"] == [str(number) for number in range(12)]


def folder_data(folder: Path, pictures: Mapping[str, NDArray[np.uint8]], **settings: Any) -> ImageClassificationData:
    write_folder(folder / "train", pictures)
    write_folder(folder / "test", {"a/9.png": bars(9)[8], "b/9.png": bars(8)[7]})
    test = str(folder / "test")
    return ImageClassificationData(str(folder / "train"), validation_path=test, test_path=test, **settings)


def test_a_folder_is_read_with_its_sub_folders_as_labels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, second, third = bars(3)
    data = folder_data(tmp_path, {"b/1.png": first, "a/deep/2.bmp": second, "a/3.PGM": third})
    (tmp_path / "train/a/notes.txt").write_text("none")
    (tmp_path / "train/.DS_Store").write_text("none")
    ready(data)
    rows = [data.rows("train").row(number) for number in range(3)]
    assert [(row["name"], row["label"]) for row in rows] == [("a/3.PGM", 0), ("deep/2.bmp", 0), ("b/1.png", 1)]
    assert np.array_equal(np.asarray(rows[0]["pixels"]).reshape(6, 5), third)
    assert "skipped 1 files that are not images" in caplog.text


def test_the_same_pictures_elsewhere_are_the_same_data(tmp_path: Path) -> None:
    pictures = {"a/1.png": bars(1)[0], "b/2.png": bars(2)[1]}
    one, other = folder_data(tmp_path / "one", pictures), folder_data(tmp_path / "other", pictures)
    changed = folder_data(tmp_path / "changed", {**pictures, "b/2.png": bars(3)[2]})
    digests = [data.digest(data.path, "train") for data in (one, other, changed)]
    assert digests[0] == digests[1] != digests[2]
    stored = [ready(data).summaries()[0].digest for data in (one, other, changed)]
    assert stored[0] == stored[1] != stored[2]


def test_broken_and_misplaced_pictures_are_refused_by_their_file(tmp_path: Path) -> None:
    data = folder_data(tmp_path, {"a/1.png": bars(1)[0], "b/2.png": bars(2)[1]})
    whole = (tmp_path / "train/b/2.png").read_bytes()
    (tmp_path / "train/b/2.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"train/b/2\.png is not a readable image"):
        data.prepare_data()
    (tmp_path / "train/b/2.png").write_text("no picture")
    with pytest.raises(DataError, match=r"train/b/2\.png is not a readable image"):
        data.prepare_data()
    (tmp_path / "train/b/2.png").rename(tmp_path / "train/2.png")
    with pytest.raises(DataError, match=r"train/2\.png has no label\. Put it into a sub-folder"):
        data.prepare_data()
    with pytest.raises(DataError, match=r"2\.png is one image\. Name a folder"):
        next(ImageClassificationData(str(tmp_path / "train/2.png")).read(str(tmp_path / "train/2.png"), "train", None))  # type: ignore[arg-type]


def test_a_folder_without_pictures_and_one_label_alone_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "x.txt").write_text("x")
    with pytest.raises(DataError, match=r"empty holds no images .* found: x\.txt"):
        sources(tmp_path, "empty").prepare_data()
    with pytest.raises(DataError, match=r"one label only \(a\)"):
        folder_data(tmp_path, {"a/1.png": bars(1)[0]}).prepare_data()
    with pytest.raises(DataError, match="no such file"):
        sources(tmp_path, "missing-images-idx3-ubyte").prepare_data()


def test_pictures_of_other_sizes_are_refused_or_stretched(tmp_path: Path) -> None:
    pictures = {"a/1.png": bars(1)[0], "b/2.png": np.full((12, 10), 7, np.uint8)}
    message = r"b/2\.png:1: 12 x 10 pixels with 1 channels, where others have 6 x 5 with 1\. Set data\.size=\[6,5\]"
    with pytest.raises(DataError, match=message):
        folder_data(tmp_path, pictures).prepare_data()
    data = ready(folder_data(tmp_path, pictures, size=[4, 3]))
    assert data.facts()["image_shape"] == [1, 4, 3]
    assert np.asarray(data.rows("train").row(1)["pixels"]).tolist() == [7] * 12
    colours = ready(folder_data(tmp_path, pictures, size=[4, 3], channels=3))
    assert colours.facts()["image_shape"] == [3, 4, 3]
    assert len(colours.facts()["pixel_mean"]) == 3


def test_a_label_that_training_never_shows_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "test", {"c/1.png": bars(1)[0]})
    data = folder_data(tmp_path, {"a/1.png": bars(1)[0], "b/2.png": bars(2)[1]})
    with pytest.raises(DataError, match=r"test/c/1\.png:1: label 'c' is none of the 2 of .*\(a, b\)"):
        data.prepare_data()


@pytest.mark.parametrize(
    ("mode", "colour", "channels", "expected"),
    [
        ("L", 9, "auto", [9]),
        ("1", 1, "auto", [255]),
        ("RGB", (9, 8, 7), "auto", [9, 8, 7]),
        ("RGB", (9, 9, 9), 1, [9]),
        ("L", 9, 3, [9, 9, 9]),
        ("RGBA", (9, 8, 7, 0), "auto", [255, 255, 255]),
        ("LA", (9, 0), "auto", [255]),
        ("LA", (9, 255), "auto", [9]),
        ("P", 0, "auto", [0, 0, 0]),
    ],
)
def test_every_kind_of_colour_becomes_bytes(
    tmp_path: Path, mode: str, colour: Any, channels: Any, expected: list[int]
) -> None:
    image = Image.new(mode, (2, 3), colour)
    if mode == "P":
        image.putpalette([0, 0, 0, 255, 255, 255])
    image.save(tmp_path / "x.png")
    pixels = read_image(str(tmp_path / "x.png"), PictureForm(None, channels))
    assert pixels.shape == (3, 2, len(expected))
    assert pixels[0, 0].tolist() == expected


def test_a_photograph_stands_upright(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 255]], np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: turn right to show it
    image.save(tmp_path / "x.png", exif=exif)
    pixels = read_image(str(tmp_path / "x.png"), PictureForm(None, "auto"))
    assert pixels[..., 0].tolist() == [[0], [255]]


def test_more_than_8_bits_are_refused_and_not_cut_off(tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 2), 300, np.uint16)).save(tmp_path / "x.png")
    with pytest.raises(DataError, match=r"x\.png has more than 8 bits a channel \(mode I;16\)"):
        read_image(str(tmp_path / "x.png"), PictureForm(None, "auto"))


def test_the_embedded_digits_are_those_of_scikit_learn() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    data = ready(ImageClassificationData("embedded:digits"))
    bunch = datasets.load_digits()
    expected = {text_digest(str(np.round(image * 255 / 16).astype(int).tolist())) for image in bunch.images}
    found, targets = set(), []
    for split in ("train", "validation", "test"):
        rows = data.rows(split)
        for number in range(len(rows)):
            row = rows.row(number)
            found.add(text_digest(str(np.asarray(row["pixels"]).reshape(8, 8).tolist())))
            targets.append((row["line"], data.facts()["labels"][row["label"]]))
    assert found == expected
    assert [int(label) for _, label in sorted(targets)] == bunch.target.tolist()


def test_a_repeated_picture_under_another_label_is_reported(tmp_path: Path) -> None:
    first, second = bars(2)
    page = ready(folder_data(tmp_path, {"a/1.png": first, "b/2.png": second, "b/3.png": first})).report().render()
    assert "give an earlier text another label" in " ".join(page.split())
    assert "b/3.png:1" in page
    assert "cut at" not in page


def test_equal_pictures_fall_into_the_same_split_and_repeats_are_dropped(tmp_path: Path) -> None:
    images = np.concatenate([bars(40), bars(40)])
    write_idx(tmp_path / IDX, images, [number % 2 for number in range(80)])
    data = ready(ImageClassificationData(str(tmp_path / IDX)))
    texts = [{data.rows(name).row(n)["text"] for n in range(len(data.rows(name)))} for name in ("train", "test")]
    assert not texts[0] & texts[1]
    assert sum(summary.num_rows for summary in data.summaries()) == 80
    dropped = ready(ImageClassificationData(str(tmp_path / IDX), split=SplitConfig(drop_repeats=True)))
    assert sum(summary.num_rows for summary in dropped.summaries()) == 40


def test_pictures_to_predict_need_no_labels_and_take_the_form_the_model_knows(tmp_path: Path) -> None:
    facts = {"labels": ["a", "b"], "label_counts": [1, 1], "image_shape": [1, 6, 5], "pixel_mean": [0.5]}
    write_folder(tmp_path / "new", {"x.png": np.stack([bars(1)[0]] * 3, -1), "deep/y.png": bars(2)[1]})
    write_idx(tmp_path / IDX, bars(2), None)
    lines = [{"pixels": bars(2)[0].tolist()}, {"image": str(tmp_path / "new/x.png")}]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    for path, names in (
        (tmp_path / "rows.jsonl", ["rows.jsonl:1", str(tmp_path / "new/x.png")]),
        (tmp_path / "new", [str(tmp_path / "new/deep/y.png"), str(tmp_path / "new/x.png")]),
        (tmp_path / "new/x.png", [str(tmp_path / "new/x.png")]),
        (tmp_path / IDX, [f"{IDX}:1", f"{IDX}:2"]),
    ):
        data = ImageClassificationData(str(path))
        data.adopt({**facts, "pixel_std": [0.5]})
        data.setup("predict")
        rows = data.rows("predict")
        batch = data.collate([{**rows.row(number), "id": number} for number in range(len(rows))])
        assert batch["image"] == names
        assert "labels" not in batch
        assert batch["pixels"].shape[1:] == (1, 6, 5)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"rows\.jsonl:1 is no image: Expecting property name"),
        ("[1]", r"rows\.jsonl:1 is no image: "),
        ("{}", r"has neither the path `image` nor `pixels`, or both"),
        ('{"pixels": [[1]], "image": "x"}', r"has neither the path `image` nor `pixels`, or both"),
        ('{"pixels": [[1, 2], [3]]}', r"rows\.jsonl:1 is no image: "),
        ('{"pixels": [["a"]]}', r"rows\.jsonl:1 is no image: its pixels are "),
        ('{"pixels": [[0.5]]}', r"a pixel is no whole number from 0 to 255"),
        ('{"pixels": [[-1]]}', r"a pixel is no whole number from 0 to 255"),
        ('{"image": "nowhere.png"}', r"nowhere\.png"),
    ],
)
def test_a_line_that_is_no_image_is_refused(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "rows.jsonl").write_text(f"{line}\n")
    with pytest.raises(DataError, match=message) as refused:
        list(read_image_rows(str(tmp_path / "rows.jsonl"), PictureForm(None, "auto")))
    assert "\n" not in str(refused.value)


def test_images_of_a_label_in_another_unicode_form_and_of_a_rare_label_can_be_trained(tmp_path: Path) -> None:
    names = [f"{label}/{number}.png" for number in range(20) for label in ("a", "cafe\u0301")]
    images = bars(len(names) + 1)
    write_folder(tmp_path / "train", dict(zip([*names, "rare/1.png"], images, strict=True)))
    write_folder(tmp_path / "test", {"a/1.png": images[0], "caf\u00e9/1.png": images[1]})
    for seed in range(3):
        split = SplitConfig(validation_fraction=0.5, seed=seed)
        data = ImageClassificationData(str(tmp_path / "train"), test_path=str(tmp_path / "test"), split=split)
        data.setup("fit")
        assert data.facts()["labels"] == ["a", "caf\u00e9", "rare"]
        assert data.rows("test").values("label").tolist() == [0, 1]
