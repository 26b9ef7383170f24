"""Vectors of words or characters that were trained elsewhere: word2vec and GloVe text, or a numpy array.

Shapes: V tokens of the vocabulary, P the vectors' size.
"""

import gzip
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lightning_modules.networks.encoder import FIRST_TOKEN
from project.errors import ConfigError, DataError

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class VectorsConfig:
    """Pretrained vectors. Freeze them with `optim.freeze: [.*embedding.vectors]`."""

    path: str | None
    """Text with a token and its numbers on each line, separated by spaces (word2vec's first line with two counts is
    skipped), perhaps .gz; or NAME.npy, an array [tokens, size], beside NAME.txt with a token a line. null in a
    checkpoint, which holds the vectors themselves."""
    size: int | None = None
    """Size of the vectors. null: as the file says, which must agree otherwise."""

    def build(self, vocabulary: Sequence[str]) -> nn.Embedding:
        """An embedding whose rows are the file's vectors, zero for tokens that it lacks.

        Raises: ConfigError, DataError when the file is missing or broken, or has none of the tokens.
        """
        if self.path is None:
            assert self.size is not None, "a checkpoint keeps the size"
            return nn.Embedding(FIRST_TOKEN + len(vocabulary), self.size)
        wanted = {token: number for number, token in enumerate(vocabulary, start=FIRST_TOKEN)}
        found = _read(Path(self.path).expanduser(), wanted)
        if not found:
            raise DataError(
                f"{self.path}: none of the {len(wanted)} tokens of the training split has a vector there. "
                f"Vectors must be of the same units (characters, words) and case as data.tokenizer makes."
            )
        size = len(next(iter(found.values())))
        if self.size not in (None, size):
            raise ConfigError(f"encoder.vectors.size is {self.size}, and {self.path} holds vectors of {size}.")
        rows = torch.zeros(FIRST_TOKEN + len(vocabulary), size)
        rows[list(found)] = torch.from_numpy(np.stack(list(found.values())))
        log.info("%s has vectors of %d for %d of %d tokens", self.path, size, len(found), len(wanted))
        return nn.Embedding.from_pretrained(rows, freeze=False)


def _read(path: Path, wanted: dict[str, int]) -> dict[int, NDArray[np.float32]]:
    """Vectors by the number of their token; of one that stands twice, the first."""
    if not path.is_file():
        raise ConfigError(f"encoder.vectors.path: {path}: no such file.")
    if path.suffix == ".npy":
        return _read_array(path, wanted)
    found: dict[int, NDArray[np.float32]] = {}
    size = 0
    for number, fields in _fields(path):
        if number == 1 and len(fields) == 2:
            continue  # word2vec: how many vectors, and their size
        size = size or len(fields) - 1
        token = " ".join(fields[: len(fields) - size])  # GloVe has tokens with a space inside
        if len(fields) <= size or not size:
            raise DataError(f"{path}:{number}: {len(fields) - 1} numbers, {size} expected. Fix or drop the line.")
        if token in wanted and wanted[token] not in found:
            found[wanted[token]] = _numbers(fields[-size:], path, number)
    return found


def _fields(path: Path) -> Iterator[tuple[int, list[str]]]:
    with _open(path) as stream:
        for number, line in enumerate(stream, 1):
            text = line.decode("utf-8", "replace").rstrip("\r\n ")  # a broken token is none that anybody looks up
            if text:
                yield number, text.removeprefix("\ufeff").split(" ")


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


def _numbers(fields: list[str], path: Path, number: int) -> NDArray[np.float32]:
    try:
        return np.array(fields, np.float32)
    except ValueError as error:
        raise DataError(
            f"{path}:{number}: {error}. A token and numbers are needed, separated by spaces."
        ) from error


def _read_array(path: Path, wanted: dict[str, int]) -> dict[int, NDArray[np.float32]]:
    names = path.with_suffix(".txt")
    if not names.is_file():
        raise ConfigError(f"encoder.vectors.path: beside {path} there is no {names.name} with a token on each line.")
    tokens = names.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise DataError(f"{path} is no array of numbers: {error}. Write it with numpy.save.") from error
    if array.ndim != 2 or len(array) != len(tokens):
        raise DataError(
            f"{path} has the shape {list(array.shape)}, and {names.name} {len(tokens)} lines. They must agree."
        )
    found: dict[int, NDArray[np.float32]] = {}
    for place, token in enumerate(tokens):
        if token.removesuffix("\r") in wanted:
            found.setdefault(wanted[token.removesuffix("\r")], np.asarray(array[place], np.float32))
    return found
