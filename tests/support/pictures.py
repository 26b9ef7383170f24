"""Pictures written by the tests: bars of any brightness, as idx files or in folders."""

import gzip
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def bars(number: int, height: int = 6, width: int = 5) -> NDArray[np.uint8]:
    """Pictures that all differ, [number, height, width]: one bright row each on a ground that gets brighter."""
    images = np.zeros((number, height, width), np.uint8)
    for place, image in enumerate(images):
        image += np.uint8(place % 50)
        image[place % height] = 200 + place % 50
    return images


def write_idx(path: Path, images: NDArray[np.uint8], labels: Sequence[int] | None) -> None:
    """Write images, and their labels beside them under the standard name; compressed if the name ends in .gz."""
    _write(path, images)
    if labels is not None:
        write_labels(path.with_name(path.name.replace("images-idx3", "labels-idx1")), labels)


def write_labels(path: Path, labels: Sequence[int]) -> None:
    _write(path, np.array(labels, np.uint8))


def write_folder(folder: Path, pictures: Mapping[str, NDArray[np.uint8]]) -> None:
    for name, pixels in pictures.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)


def _write(path: Path, values: NDArray[np.uint8]) -> None:
    content = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
