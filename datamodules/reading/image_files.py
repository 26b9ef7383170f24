"""Reading of images in the formats of Pillow, in a folder for each label, and of idx files, the format of MNIST.

Source of idx files: Y. LeCun, C. Cortes and C. Burges, "The MNIST database of handwritten digits".
"""

import base64
import io
import json
import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from lightrail.datamodules.reading.files import open_bytes
from lightrail.datamodules.reading.rows import Row
from lightrail.datamodules.reading.split_folders import SPLIT_NAMES, refuse_splits
from lightrail.project.basics.errors import DataError, shown
from lightrail.project.basics.reading import reading, regular_file, user_path

log = logging.getLogger(__name__)

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm"})
LINES = frozenset({".jsonl", ".ndjson"})
"""Endings of files of JSON Lines that images to predict may come in."""
Channels = Literal[1, 3, "auto"]


@dataclass(frozen=True)
class PictureForm:
    """Size and channels that every image is converted to."""

    size: tuple[int, int] | None
    """Height and width. None: its own."""
    channels: Channels
    """1 for grayscale, 3 for colour; auto: its own."""


def image_files(folder: str, *, has_labels: bool) -> list[Path]:
    """List the images in a folder at any depth, sorted by path; or the single image that is named instead.

    Raises: DataError when there is none, or one is outside of the sub-folders of labels.
    """
    root = user_path(folder)
    if root.is_file():
        return [root]
    files = sorted(path for path in root.rglob("*") if path.is_file() and not _is_hidden(path.relative_to(root)))
    found = [path for path in files if path.suffix.lower() in SUFFIXES]
    if not found:
        listing = ", ".join(sorted(path.name for path in root.iterdir())[:5]) or "nothing"
        raise DataError(
            f"{folder} holds no images ({', '.join(sorted(SUFFIXES))}); found: {listing}. Name a folder of images, "
            f"or an idx file."
        )
    if len(found) < len(files):
        log.warning("%s: skipped %d files that are not images", folder, len(files) - len(found))
    outside = next((path for path in found if path.parent == root), None)
    if has_labels and outside is not None:
        raise DataError(f"{outside} has no label. Put it into a sub-folder of {folder} named after its label.")
    if has_labels:
        _check_label_folders(folder, root, found)
    return found


def _is_hidden(path: Path) -> bool:
    """Whether a file or one of its folders is hidden, such as .ipynb_checkpoints, or made by an archiver."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def _check_label_folders(folder: str, root: Path, files: list[Path]) -> None:
    """Refuse folders of splits, and one folder around those of labels, instead of a folder for each label."""
    names = {path.relative_to(root).parts[0] for path in files}
    nested = names - {path.parent.name for path in files if path.parent.parent == root}
    refuse_splits(folder, nested)
    if all(name.lower() in SPLIT_NAMES for name in names):
        refuse_splits(folder, names)
    inside: dict[str, set[str]] = {}
    for own in (path.relative_to(root).parts for path in files):
        inside.setdefault(own[0], set()).update(own[1:-1][:1])
    for name, own_names in inside.items():
        found = {SPLIT_NAMES.get(own_name.lower()) for own_name in own_names} - {None}
        if "train" in found and len(found) > 1:
            raise DataError(
                f"{root / name} holds a folder for each split, which must not be mixed. Move them above the labels "
                f"(train/{shown(name)[1:-1]}), and name them as data.path, data.validation_path and data.test_path."
            )
        is_split = nested == names and name.lower() in SPLIT_NAMES
        if is_split and any(own_names & inside[other] for other in names - {name}):
            raise DataError(
                f"{folder} holds folders with the same sub-folders, one of them {shown(name)}: they are splits, not "
                f"labels. Name one as data.path, and others as data.validation_path and data.test_path."
            )
    if nested == names and len(names) == 1:
        raise DataError(f"{folder} holds one folder, which holds folders. Name {root / names.pop()}, if it has labels.")
    unprintable = next((name for name in names if not name.isprintable()), None)
    if unprintable is not None:
        raise DataError(f"{folder}: the label folder {shown(unprintable)} has no printable name. Rename it.")


def read_image_files(folder: str, form: PictureForm, *, has_labels: bool) -> Iterator[Row]:
    """Yield each image of a folder as `pixels` [H, W, C], with the name of its sub-folder as `label`, or None."""
    root = user_path(folder)
    for path in image_files(folder, has_labels=has_labels):
        label = path.relative_to(root).parts[0] if has_labels else None
        yield Row({"pixels": read_image(str(path), form), "label": label}, str(path), 1)


def read_image(file: str, form: PictureForm) -> NDArray[np.uint8]:
    """Read an image as bytes, [H, W, C]: the first frame of an animation, upright, transparency on white.

    Raises: DataError naming the file when it cannot be read, or has more than 8 bits a channel.
    """
    with (
        reading(f"{file} is not a readable image", "Replace or remove it.", refusal=DataError),
        Image.open(regular_file(user_path(file), "data", refusal=DataError)) as image,
    ):
        return _pixels(file, ImageOps.exif_transpose(image), form)


FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
"""Pillow's names of the formats of `SUFFIXES`: reading others may start programs, as EPS does."""
MOST_PIXELS = 2**24


def given_image(value: Any, where: str, form: PictureForm) -> NDArray[np.uint8]:
    """Return an image that a caller gives as bytes, [H, W, C].

    Args:
        value: the content of a file in base64, also as a data URL; or lists of integers from 0 to 255, [H, W] of gray
            values or [H, W, C]; either of them also under the key `image` or `pixels`.
        where: what to call it in messages.

    Raises: DataError for anything else, and for an image of more than 16 million pixels.
    """
    if isinstance(value, Mapping):
        value = value.get("image", value.get("pixels"))
    if isinstance(value, list):
        with reading(f"{where}: its lists are no image", "Give integers from 0 to 255, row by row.", refusal=DataError):
            listed = Image.fromarray(_bytes_of(value))
        return _pixels(where, listed, form)
    if not isinstance(value, str):
        raise DataError(f"{where}: expected an image in base64, or lists of its pixels, found {shown(value, 40)}.")
    with reading(f"{where} is not a readable image", "Give the bytes of a PNG in base64.", refusal=DataError):
        content = base64.b64decode(value.partition(",")[2] if value.startswith("data:") else value, validate=True)
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if math.prod(image.size) > MOST_PIXELS:
                raise ValueError(f"it has {math.prod(image.size):,} pixels, more than {MOST_PIXELS:,}")
            return _pixels(where, ImageOps.exif_transpose(image), form)


def read_image_rows(source: str, form: PictureForm) -> Iterator[Row]:
    """Yield the image of each line of JSON Lines, as `pixels` [H, W, C].

    A line has `image`, the path of a file, or `pixels`: rows of gray values from 0 to 255, [H, W] or [H, W, 1], or of
    red, green and blue, [H, W, 3].

    Raises: DataError naming file and line.
    """
    fix = 'Write {"image": "FILE"} or {"pixels": [[0, 255], [255, 0]]} on each line.'
    with open_bytes(source) as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            place = f"{source}:{number}"
            with reading(f"{place} is no image", fix, refusal=DataError):
                record = json.loads(line)
                file, given = record.get("image"), record.get("pixels")
                if (file is None) == (given is None) or not isinstance(file, str | None):
                    raise ValueError("it has neither the path `image` nor `pixels`, or both")
                image = None if given is None else Image.fromarray(_bytes_of(given))
            pixels = read_image(str(file), form) if image is None else _pixels(place, image, form)
            yield Row({"pixels": pixels, "label": None}, source if file is None else file, number)


def _bytes_of(given: object) -> NDArray[np.uint8]:
    """Return pixels of JSON as an array, [H, W] or [H, W, 3]. Raises: ValueError for others."""
    pixels = np.array(given)
    pixels = pixels.squeeze(-1) if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels
    if pixels.dtype.kind not in "iuf" or not (pixels.ndim == 2 or pixels.shape[2:] == (3,)) or not pixels.size:
        raise ValueError(f"its pixels are {shown(given)}")
    if not ((pixels >= 0) & (pixels <= 255) & (pixels == np.floor(pixels))).all():
        raise ValueError("a pixel is no whole number from 0 to 255")
    return pixels.astype(np.uint8)


def resized(pixels: NDArray[np.uint8], form: PictureForm) -> NDArray[np.uint8]:
    """Stretch an image to the requested size, [H, W, C], if its own differs."""
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
"""Third byte of an idx file of unsigned bytes."""
_KINDS = {1: "labels", 3: "images"}


def read_idx(images: str, labels: str | None) -> Iterator[Row]:
    """Yield each image of an idx file as `pixels` [H, W, 1], with its `label`, or None without a file of labels.

    Raises: DataError when a file is not an idx file, is truncated, or the two differ in number.
    """
    with _records(images, 3) as (shape, records):
        numbers = None if labels is None else _labels(labels, images, shape[0])
        for number, pixels in enumerate(records, 1):
            label = None if numbers is None else str(numbers[number - 1])
            yield Row({"pixels": pixels.reshape(*shape[1:], 1), "label": label}, images, number)


def labels_beside(images: str) -> str:
    """Return the file of labels for a file of images, by the naming of MNIST's files.

    Raises: DataError when it does not exist, or the file of images has another name.
    """
    path = user_path(images)
    name = path.name.replace("images", "labels").replace("idx3", "idx1")
    if name == path.name:
        raise DataError(
            f"{images} is not named like an idx file of images (train-images-idx3-ubyte), so that its file of labels "
            f"(train-labels-idx1-ubyte) is unknown. Set data.labels_path (validation_labels_path, test_labels_path) "
            f"to an idx file of labels, or name a folder of images."
        )
    plain = path.with_name(name.removesuffix(".gz"))
    for candidate in (path.with_name(name), plain, plain.with_name(f"{plain.name}.gz")):
        if candidate.is_file():
            return str(candidate)
    raise DataError(f"{images}: its file of labels is missing ({path.with_name(name)}). Add it, or set its path.")


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
    """Open an idx file; the target is the size of each dimension, and an iterator of records."""
    damaged = f"{source}: the file is truncated or damaged"
    with open_bytes(source) as stream, reading(damaged, "Copy or download it again.", refusal=DataError):
        shape = _header(source, stream, num_dimensions)
        # Before memory is reserved. Bytes compressed by gzip are at most 1,032 times as many.
        if math.prod(shape) > 1032 * user_path(source).stat().st_size:
            raise DataError(
                f"{source}: truncated: its header has {' x '.join(map(str, shape))} values, more than the file can "
                f"hold. Copy or download it again."
            )
        yield shape, _values(source, stream, shape)


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
        raise DataError(f"{source}: truncated inside its header. Copy or download it again.")
    shape = np.frombuffer(sizes, ">u4").tolist()
    if 0 in shape:
        raise DataError(f"{source} is empty: its header has {' x '.join(map(str, shape))} values. Give another file.")
    return list(shape)


def _values(source: str, stream: IO[bytes], shape: list[int]) -> Iterator[NDArray[np.uint8]]:
    size = math.prod(shape[1:])
    for number in range(shape[0]):
        record = stream.read(size)
        if len(record) < size:
            raise DataError(
                f"{source}:{number + 1}: truncated: its header has {shape[0]:,} records of {size:,} bytes. "
                f"Copy or download it again."
            )
        yield np.frombuffer(record, np.uint8)
    if stream.read(1):
        raise DataError(f"{source}: more bytes than the {shape[0]:,} records of its header. Copy or download it again.")
