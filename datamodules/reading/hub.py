"""Rows of a Hugging Face data set: from the hub, from a folder of data files, or from a `save_to_disk` folder."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lightrail.datamodules.reading.rows import Columns, Row
from lightrail.project.basics.errors import DataError, shown
from lightrail.project.basics.reading import from_hub, reading, user_path

if TYPE_CHECKING:
    from datasets import Dataset

PREFIX = "hub:"
_ROWS_PER_BATCH = 1024
_SOURCE = re.compile(r"hub:(?P<name>[^@]+?)(:(?P<config>[^:@/]+))?@(?P<split>[^@]+)")


def read_hub(source: str, columns: Columns) -> Iterator[Row]:
    """Yield the records of `hub:OWNER/NAME[:CONFIG]@SPLIT`, with class labels by name."""
    dataset = load_hub(source)
    columns.require(source, dataset.column_names)
    dataset = dataset.select_columns(columns.names)
    features = dataset.features
    number = 0
    for batch in _batches(source, dataset):
        for values in zip(*(batch[name] for name in columns.names), strict=True):
            number += 1
            where = f"{source}:{number}"
            record = {
                name: _label_names(value, features[name], where)
                for name, value in zip(columns.names, values, strict=True)
            }
            yield Row(columns.values(record, where), source, number)


def _batches(source: str, dataset: "Dataset") -> Iterator[dict[str, list[object]]]:
    """Yield the columns of successive rows. Values are read from the disk, where they may be damaged, only now."""
    with reading(f"{source}: damaged Arrow data", "Save or download the data set again.", refusal=DataError):
        for batch in dataset.with_format("arrow").iter(batch_size=_ROWS_PER_BATCH):
            batch.validate(full=True)
            yield dataset.features.decode_batch(batch.to_pydict())


def load_hub(source: str) -> "Dataset":
    """Load the one split that the source names, downloading it into the Hugging Face cache if need be."""
    match = _SOURCE.fullmatch(source)
    if match is None:
        raise DataError(f"{source}: write hub:OWNER/NAME@SPLIT or hub:OWNER/NAME:CONFIG@SPLIT, such as hub:imdb@train.")
    folder = user_path(match["name"])
    fix = "Check the name, the configuration and the split."
    from datasets import load_dataset  # before the block: it reads once whether the hub may be asked

    with from_hub(shown(source, 200).strip("'"), match["name"], fix, refusal=DataError):
        if (folder / "state.json").exists() or (folder / "dataset_dict.json").exists():
            return _saved_split(source, folder, match["split"])
        name = str(folder) if folder.is_dir() else match["name"]
        return load_dataset(name, match["config"], split=match["split"])


def _saved_split(source: str, folder: Path, split: str) -> "Dataset":
    """Load a split of a `save_to_disk` folder without its format (`set_format`), whose package need not be installed.

    `load_from_disk` restores the format: values would be tensors, arrays or data frames.
    """
    from datasets import Dataset, concatenate_datasets

    listing = folder / "dataset_dict.json"
    if listing.exists():
        names = json.loads(listing.read_text("utf-8"))["splits"]
        if split not in names:
            raise DataError(f"{source}: no split {split!r}. Splits found: {', '.join(names)}.")
        folder = folder / split
    state = json.loads((folder / "state.json").read_text("utf-8"))
    if not listing.exists() and split not in ("train", state["_split"]):
        raise DataError(f"{source}: this folder holds one split, {state['_split'] or 'train'}. Write @train.")
    if not state["_data_files"]:
        raise DataError(f"{source} holds no rows. Give a split with at least one.")
    return concatenate_datasets([Dataset.from_file(str(folder / file["filename"])) for file in state["_data_files"]])


def _label_names(value: object, feature: object, where: str) -> object:
    """Replace indices of class labels, single or one for each token, by their names."""
    from datasets import ClassLabel

    if isinstance(value, list):
        item = getattr(feature, "feature", None)
        return [_label_names(number, item, where) for number in value] if isinstance(item, ClassLabel) else value
    if not isinstance(feature, ClassLabel) or not isinstance(value, int):
        return value
    if value < 0:
        raise DataError(f"{where}: label {value}, which marks unlabelled rows. Choose a split that has labels.")
    if value >= len(feature.names):
        raise DataError(
            f"{where}: label {value} has no name: the data set names 0 to {len(feature.names) - 1}. Correct its "
            f"features, or the label."
        )
    name: str = feature.names[value]
    return name
