"""Reads idx files, the format of MNIST and of what came after it: one array of bytes, with its sizes before it.

Source: Y. LeCun, C. Cortes and C. Burges, "The MNIST database of handwritten digits", section on file formats.
"""

import gzip
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from lightrail.datamodules.reading.lines import open_bytes
from lightrail.datamodules.reading.rows import Row
from lightrail.project.basics.errors import DataError

_BYTES = 8
"""Third byte of a file whose values are bytes without a sign."""
_KINDS = {1: "labels", 3: "images"}


def read_idx(images: str, labels: str | None) -> Iterator[Row]:
    """Yield each image as `pixels` [H, W, 1] with the number that is its `label`, or None without a file of labels.

    Raises: DataError when a file is no idx file, is cut short, or the two do not hold equally many.
    """
    with _records(images, 3) as (shape, records):
        numbers = None if labels is None else _labels(labels, images, shape[0])
        for number, pixels in enumerate(records, 1):
            label = None if numbers is None else str(numbers[number - 1])
            yield Row({"pixels": pixels.reshape(*shape[1:], 1), "label": label}, images, number)


def labels_beside(images: str) -> str:
    """Give the file of labels that belongs to a file of images, by the names that MNIST's files have.

    Raises: DataError when it is not there, or the file of images is called otherwise.
    """
    path = Path(images).expanduser()
    name = path.name.replace("images", "labels").replace("idx3", "idx1")
    if name == path.name:
        raise DataError(
            f"{images} is not called like an idx file of images (train-images-idx3-ubyte), so that its labels could be "
            f"found beside it (train-labels-idx1-ubyte). Set data.labels_path (validation_labels_path, "
            f"test_labels_path) to an idx file of labels, or name a folder of pictures."
        )
    plain = path.with_name(name.removesuffix(".gz"))
    for candidate in (path.with_name(name), plain, plain.with_name(f"{plain.name}.gz")):
        if candidate.is_file():
            return str(candidate)
    raise DataError(f"{images}: its labels are not beside it ({path.with_name(name)}). Put them there, or name them.")


def _labels(source: str, images: str, num_images: int) -> NDArray[np.uint8]:
    with _records(source, 1) as (shape, records):
        if shape[0] != num_images:
            raise DataError(
                f"{source} holds {shape[0]:,} labels and {images} {num_images:,} images. "
                f"Give files that belong together."
            )
        return np.concatenate([np.empty(0, np.uint8), *records])  # [N]


@contextmanager
def _records(source: str, num_dimensions: int) -> Iterator[tuple[list[int], Iterator[NDArray[np.uint8]]]]:
    """Open a file; give the size of each dimension, and the records one by one."""
    with open_bytes(source) as stream:
        try:
            shape = _header(source, stream, num_dimensions)
            yield shape, _values(source, stream, shape)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(f"{source}: the compressed file is cut short or damaged. Copy or download it again.") from (
                error
            )


def _header(source: str, stream: IO[bytes], num_dimensions: int) -> list[int]:
    magic = stream.read(4)
    expected = bytes([0, 0, _BYTES, num_dimensions])
    if magic != expected:
        other = _KINDS.get(magic[3]) if magic[:3] == expected[:3] and len(magic) == 4 else None
        found = f"is an idx file of {other}" if other else f"begins with the bytes {magic.hex(' ') or '(none)'}"
        raise DataError(
            f"{source} {found}; an idx file of {_KINDS[num_dimensions]} begins with {expected.hex(' ')}. "
            f"Name the file of {_KINDS[num_dimensions]}."
        )
    sizes = stream.read(4 * num_dimensions)
    if len(sizes) < 4 * num_dimensions:
        raise DataError(f"{source}: cut short inside its header. Copy or download it again.")
    shape = np.frombuffer(sizes, ">u4").tolist()
    if 0 in shape:
        raise DataError(f"{source} says that it holds {' x '.join(map(str, shape))} values. Give a file with some.")
    return list(shape)


def _values(source: str, stream: IO[bytes], shape: list[int]) -> Iterator[NDArray[np.uint8]]:
    size = math.prod(shape[1:])
    for number in range(shape[0]):
        record = stream.read(size)
        if len(record) < size:
            raise DataError(
                f"{source}:{number + 1}: cut short: {shape[0]:,} records of {size:,} bytes were promised. "
                f"Copy or download it again."
            )
        yield np.frombuffer(record, np.uint8)
    if stream.read(1):
        raise DataError(f"{source}: more bytes than the {shape[0]:,} records promised. Copy or download it again.")
