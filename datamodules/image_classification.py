"""Images with one label each."""

import base64
import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, final

import numpy as np
import torch
from annotated_types import Len
from numpy.typing import NDArray

from lightrail.datamodules.base import DataModule, Facts, ReadingConfig, Split, SplitConfig
from lightrail.datamodules.batches.batching import Batch, BatchConfig
from lightrail.datamodules.cache import digest_of, file_digest
from lightrail.datamodules.checking.facts import Inspected
from lightrail.datamodules.reading import ReadingNotes, Row, read_rows
from lightrail.datamodules.reading.files import existing_file
from lightrail.datamodules.reading.image_files import (
    LINES,
    SUFFIXES,
    Channels,
    PictureForm,
    given_image,
    image_files,
    labels_beside,
    read_idx,
    read_image_files,
    read_image_rows,
    resized,
)
from lightrail.datamodules.reading.label_names import LabelNumbers, plain_label
from lightrail.datamodules.reading.sources import EMBEDDED_PREFIX, GIVEN
from lightrail.project.basics.annotations import PositiveInt, check_arguments
from lightrail.project.basics.did_you_mean import first_names
from lightrail.project.basics.errors import ConfigError, DataError, shown
from lightrail.project.basics.reading import user_path

_LABELS_SETTING = {"train": "labels_path", "validation": "validation_labels_path", "test": "test_labels_path"}


@final
class ImageClassificationData(DataModule):
    """Images in idx files, in a folder for each label, or embedded; all of one size.

    Args:
        path: training data: an idx file of images (train-images-idx3-ubyte.gz), a folder with a sub-folder of images
            for each label, or embedded:digits. To predict: images without labels, an idx file, a folder of images, one
            image, or JSON Lines of paths (`image`) or gray values (`pixels`).
        labels_path, validation_labels_path, test_labels_path: idx files of the labels. null: in the folder of the
            images, under the standard name (train-labels-idx1-ubyte.gz).
        label_names: names of the labels 0, 1, ... of idx files and of embedded sets; empty: these numbers.
        size: height and width that every image is stretched to. null: their own size, which must be the same.
        channels: 1 converts images to grayscale, 3 to colour; auto: their own channels, to predict those of the model.
    """

    length_columns, length_unit, is_cut = ("pixels",), "pixels", False
    structured, optional = ("pixels",), ("image", "pixels")

    def __init__(
        self,
        path: str,
        *,
        validation_path: str | None = None,
        test_path: str | None = None,
        labels_path: str | None = None,
        validation_labels_path: str | None = None,
        test_labels_path: str | None = None,
        label_names: list[str] | None = None,
        size: Annotated[list[PositiveInt], Len(2, 2)] | None = None,
        channels: Channels = "auto",
        split: SplitConfig = SplitConfig(),
        batch: BatchConfig = BatchConfig(),
    ) -> None:
        super().__init__(
            path=path,
            validation_path=validation_path,
            test_path=test_path,
            split=split,
            reading=ReadingConfig(),
            batch=batch,
        )
        self.labels_paths = {"train": labels_path, "validation": validation_labels_path, "test": test_labels_path}
        for name, own in (("validation", validation_path), ("test", test_path)):
            if self.labels_paths[name] and not own:
                raise ConfigError(f"data.{_LABELS_SETTING[name]} is given and data.{name}_path is not. Give both.")
        self.label_names, self.size, self.channels = label_names or [], size, channels
        self._label_numbers = LabelNumbers()
        check_arguments(self)

    def columns(self, split: Split) -> Sequence[str]:
        return ["image", "pixels"] if split == "predict" else ["pixels", "label"]

    def settings(self) -> Mapping[str, Any]:
        return {"label_names": self.label_names, "size": self.size, "channels": self.channels}

    def digest(self, source: str, split: Split) -> str:
        path = user_path(source)
        if self.labels_paths[split] and (source.startswith(EMBEDDED_PREFIX) or path.is_dir()):
            raise ConfigError(f"data: {source} has labels of its own. Remove {_LABELS_SETTING[split]}.")
        if source.startswith(EMBEDDED_PREFIX):
            return super().digest(source, split)
        if path.is_dir():
            files = image_files(source, has_labels=True)
            return digest_of([[str(file.relative_to(path)), file_digest(file)] for file in files])
        images = existing_file(source)
        return digest_of([file_digest(images), file_digest(existing_file(self._labels_file(source, split)))])

    def read(self, source: str, split: Split, notes: ReadingNotes) -> Iterator[Row]:
        """Yield each image as `pixels` [H, W, C], with its label or None."""
        for row in self._read(source, split):
            notes.num_rows += 1
            pixels = resized(row.values["pixels"], self._form())
            label = None if split == "predict" else self._named(row)
            yield Row({"pixels": pixels, "label": label}, row.file, row.line)

    def given(self, inputs: Sequence[Any]) -> Iterator[Row]:
        """Yield images, each as `pixels` [H, W, C]; see `given_image`."""
        for number, own in enumerate(inputs, 1):
            pixels = given_image(own, f"{GIVEN}:{number}", self._form())
            yield Row({"pixels": pixels, "label": None}, GIVEN, number)

    def image_shape(self) -> tuple[int, int, int]:
        """Return channels, height and width of the images that the model reads."""
        channels, height, width = self.facts()["image_shape"]
        return channels, height, width

    def examples(self, row: Row, split: Split) -> Iterator[Row]:
        pixels = np.ascontiguousarray(np.moveaxis(row.values["pixels"], -1, 0))  # [C, H, W]
        content = pixels.tobytes()
        values = {
            "text": hashlib.blake2b(content, digest_size=16).hexdigest(),
            "pixels": base64.b64encode(content).decode("ascii"),
            "shape": list(pixels.shape),
            "label": row.values["label"],
        }
        yield Row(values, row.file, row.line)

    def labels_of(self, example: Row) -> list[str]:
        label = example.values["label"]
        return [] if label is None else [label]

    def learn(self, train: Iterator[Row]) -> Facts:
        counts: Counter[str] = Counter()
        shape: list[int] = []
        sums = np.zeros((2, 1), np.int64)
        for example in train:
            counts[plain_label(example.values["label"])] += 1
            shape = shape or example.values["shape"]
            channels = _pixels(example, shape).reshape(shape[0], -1).astype(np.int64)
            sums = sums + np.stack([channels.sum(1), (channels**2).sum(1)])  # [2, C]
        if len(counts) < 2:
            raise DataError(
                f"{self.path}: the training split has one label only ({first_names(list(counts))}). Give images of two."
            )
        labels = self._in_order(counts)
        mean, mean_square = sums / (counts.total() * math.prod(shape[1:]))
        return {
            "labels": labels,
            "label_counts": [counts[label] for label in labels],
            "image_shape": shape,
            "pixel_mean": (mean / 255).tolist(),
            "pixel_std": (np.sqrt(np.maximum(mean_square - mean**2, 1)) / 255).tolist(),  # 1: pixels may be equal
        }

    def encode(self, example: Row, facts: Facts) -> Mapping[str, Any]:
        label = example.values["label"]
        row = {
            "pixels": _pixels(example, facts["image_shape"]),
            "text": example.values["text"],
            "name": _name(example, is_whole=label is None),
        }
        if label is None:
            return row
        if self._label_numbers.labels is not facts["labels"]:
            self._label_numbers = LabelNumbers(facts["labels"])
        where = f"{example.file}:{example.line}"
        return {**row, "label": self._label_numbers.number(label, where, rows="images")}

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """Stack: `pixels` are [B, C, H, W] bytes, `labels` (absent to predict) [B], `image` a list of B names."""
        pixels = np.stack([row["pixels"] for row in rows])
        batch = {
            "id": [row["id"] for row in rows],
            "pixels": torch.from_numpy(pixels).view(len(rows), *self.facts()["image_shape"]),
            "image": [row["name"] for row in rows],
            "num_tokens": pixels.size,
            "num_targets": len(rows),
        }
        return {**batch, "labels": torch.tensor([row["label"] for row in rows])} if "label" in rows[0] else batch

    def inspect(self, row: Mapping[str, Any]) -> Inspected:
        label = self.facts()["labels"][row["label"]]
        return Inspected(length=len(row["pixels"]), target=label, labels=(label,))

    def _read(self, source: str, split: Split) -> Iterator[Row]:
        has_labels = split != "predict"
        path = user_path(source)
        if source.startswith(EMBEDDED_PREFIX):
            yield from map(_square, read_rows(source, columns=self.columns("train")))
        elif path.suffix.lower() in LINES and not has_labels:
            yield from read_image_rows(source, self._form())
        elif path.is_dir() or (path.suffix.lower() in SUFFIXES and not has_labels):
            yield from read_image_files(source, self._form(), has_labels=has_labels)
        else:
            yield from read_idx(source, self._labels_file(source, split) if has_labels else None)

    def _form(self) -> PictureForm:
        channels = self.channels
        if channels == "auto" and self._is_adopted:
            channels = self.facts()["image_shape"][0]
        return PictureForm(None if self.size is None else (self.size[0], self.size[1]), channels)

    def _labels_file(self, source: str, split: Split) -> str:
        if Path(source).suffix.lower() in SUFFIXES:
            raise DataError(f"{source} is one image. Name a folder that has a sub-folder of images for each label.")
        return self.labels_paths[split] or labels_beside(source)

    def _named(self, row: Row) -> str:
        """The name of an image's label."""
        label: str = row.values["label"]
        if not self.label_names:
            return label
        if not label.isdecimal() or int(label) >= len(self.label_names):
            raise DataError(
                f"{row.file}:{row.line}: label {shown(label)} has no name: data.label_names names 0 to "
                f"{len(self.label_names) - 1}. Name all labels there, or none."
            )
        return self.label_names[int(label)]

    def _in_order(self, counts: Counter[str]) -> list[str]:
        if self.label_names:
            return [label for label in dict.fromkeys(map(plain_label, self.label_names)) if label in counts]
        return sorted(counts, key=lambda label: (not label.isdecimal(), int(label) if label.isdecimal() else 0, label))


def _square(row: Row) -> Row:
    """An embedded image, whose gray values are stored as one row, as [H, W, 1]."""
    grays = np.array(row.values["pixels"], np.uint8)
    side = math.isqrt(len(grays))
    return Row({**row.values, "pixels": grays.reshape(side, side, 1)}, row.file, row.line)


def _name(example: Row, *, is_whole: bool) -> str:
    """The name of an image: `FILE:NUMBER` in an idx file, else its file with its folder, or with all folders."""
    file = Path(example.file)
    if file.suffix.lower() not in SUFFIXES:
        return f"{file.name}:{example.line}"
    return example.file if is_whole else f"{file.parent.name}/{file.name}"


def _pixels(example: Row, shape: list[int]) -> NDArray[np.uint8]:
    """The bytes of an image, [C * H * W]. Raises: DataError when its shape differs from that of the others."""
    if example.values["shape"] != shape:
        (channels, height, width), (wanted, *size) = example.values["shape"], shape
        raise DataError(
            f"{example.file}:{example.line}: {height} x {width} pixels with {channels} channels, where others have "
            f"{size[0]} x {size[1]} with {wanted}. Set data.size=[{size[0]},{size[1]}] and data.channels={wanted}."
        )
    return np.frombuffer(base64.b64decode(example.values["pixels"]), np.uint8)
