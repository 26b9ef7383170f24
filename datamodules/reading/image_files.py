"""Reads pictures in the formats that Pillow knows, one file each, in a folder for each label."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

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
