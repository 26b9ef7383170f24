"""Reads images in the formats that Pillow knows, in a folder for each label, and idx files, the format of MNIST.

Source of the latter: Y. LeCun, C. Cortes and C. Burges, "The MNIST database of handwritten digits".
"""

import gzip
import logging
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from lightrail.datamodules.reading.lines import open_bytes
from lightrail.datamodules.reading.rows import Row
from lightrail.project.basics.errors import DataError

log = logging.getLogger(__name__)

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm"})
Channels = Literal[1, 3, "auto"]


@dataclass(frozen=True)
class PictureForm:
    """What every picture is turned into."""

    size: tuple[int, int] | None
    """Height and width. None: as it is."""
    channels: Channels
    """1 for grays, 3 for colours; auto: what the picture has."""


def image_files(folder: str, *, has_labels: bool) -> list[Path]:
    """Give the pictures in a folder, in a fixed order: of its sub-folders, each being a label, or all, however deep; or
    the one picture that is named instead of a folder.

    Raises: DataError when there is none, or one lies outside the folders of labels.
    """
    root = Path(folder).expanduser()
    if root.is_file():
        return [root]
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.name.startswith("."))
    found = [path for path in files if path.suffix.lower() in SUFFIXES]
    if not found:
        listing = ", ".join(sorted(path.name for path in root.iterdir())[:5]) or "nothing"
        raise DataError(
            f"{folder} holds no pictures ({', '.join(sorted(SUFFIXES))}); found: {listing}. Name a folder that has "
            f"them in it, or an idx file."
        )
    if len(found) < len(files):
        log.warning("%s: %d files that are no pictures are left out", folder, len(files) - len(found))
    outside = next((path for path in found if path.parent == root), None)
    if has_labels and outside is not None:
        raise DataError(f"{outside} has no label. Put it into a sub-folder of {folder} that is called like its label.")
    return found


def read_image_files(folder: str, form: PictureForm, *, has_labels: bool) -> Iterator[Row]:
    """Yield each picture of a folder as `pixels` [H, W, C], with the name of its sub-folder as `label` or with None."""
    root = Path(folder).expanduser()
    for path in image_files(folder, has_labels=has_labels):
        label = path.relative_to(root).parts[0] if has_labels else None
        yield Row({"pixels": read_image(str(path), form), "label": label}, str(path), 1)


def read_image(file: str, form: PictureForm) -> NDArray[np.uint8]:
    """Give a picture's bytes, [H, W, C]; its first frame if it moves, upright, on white where it is transparent.

    Raises: DataError naming the file when it cannot be read, or has more than 8 bits a channel.
    """
    try:
        with Image.open(Path(file).expanduser()) as image:
            return _pixels(file, ImageOps.exif_transpose(image), form)
    except DataError:
        raise
    except Exception as error:  # each of Pillow's formats has errors of its own
        raise DataError(f"{file} is no picture that can be read ({error}). Replace it or take it away.") from error


def resized(pixels: NDArray[np.uint8], form: PictureForm) -> NDArray[np.uint8]:
    """Stretch to the size that is wanted, [H, W, C], if it is another."""
    if form.size is None or pixels.shape[:2] == form.size:
        return pixels
    image = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
    height, width = form.size
    stretched = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    return stretched.reshape(height, width, -1)


def _pixels(file: str, image: Image.Image, form: PictureForm) -> NDArray[np.uint8]:
    if image.mode.startswith(("I", "F")):
        raise DataError(f"{file} has more than 8 bits a channel (mode {image.mode}). Save it with 8.")
    is_gray = form.channels == 1 or (form.channels == "auto" and image.mode in ("1", "L", "LA", "La"))
    if image.has_transparency_data:
        upper = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", upper.size, "white"), upper)
    pixels = np.asarray(image.convert("L" if is_gray else "RGB"))
    return resized(pixels.reshape(*pixels.shape[:2], -1), form)


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
