"""Pretrained vectors of words or characters: text of word2vec and GloVe, or a numpy array.

Shapes: V tokens of the vocabulary, P the vectors' size.
"""

import gzip
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lightrail.lightning_modules.networks.encoders.encoder import FIRST_TOKEN
from lightrail.project.basics.annotations import PositiveInt, Ranged
from lightrail.project.basics.errors import ConfigError, DataError
from lightrail.project.basics.reading import reading, regular_file, user_path

log = logging.getLogger(__name__)

_MOST_BYTES_OF_A_LINE = 2**24


@dataclass(frozen=True, kw_only=True)
class VectorsConfig(Ranged):
    """Pretrained vectors. Freeze them with `optim.freeze: [.*embedding.vectors]`."""

    path: str | None
    """Text with a token and its numbers on each line, separated by spaces or tabs (word2vec's first line with two
    counts is skipped), perhaps .gz; or NAME.npy, an array [tokens, size], beside NAME.txt with a token a line. null in
    a checkpoint, which holds the vectors themselves."""
    size: PositiveInt | None = None
    """Size of the vectors, with which the file must agree. null: that of the file."""

    def build(self, vocabulary: Sequence[str]) -> nn.Embedding:
        """Return an embedding, [V + 2, P], whose rows are the file's vectors, zero for tokens that it lacks.

        Raises: ConfigError, DataError when the file is missing or broken, or has none of the tokens.
        """
        if self.path is None:
            assert self.size is not None, "a checkpoint keeps the size"
            return nn.Embedding(FIRST_TOKEN + len(vocabulary), self.size)
        wanted = {token: number for number, token in enumerate(vocabulary, start=FIRST_TOKEN)}
        found = _read(user_path(self.path), wanted)
        if not found:
            raise DataError(
                f"{self.path}: none of the {len(wanted)} tokens of the training split has a vector there. "
                f"Vectors must be of the same tokens (characters, words) and case as data.tokenizer makes."
            )
        size = len(next(iter(found.values())))
        if self.size not in (None, size):
            raise ConfigError(f"encoder.vectors.size is {self.size}, and {self.path} holds vectors of {size}.")
        rows = torch.zeros(FIRST_TOKEN + len(vocabulary), size)
        rows[list(found)] = torch.from_numpy(np.stack(list(found.values())))
        log.info("%s has vectors of %d for %d of %d tokens", self.path, size, len(found), len(wanted))
        return nn.Embedding(len(rows), size, _weight=rows)


def _read(path: Path, wanted: dict[str, int]) -> dict[int, NDArray[np.float32]]:
    """Return vectors by token id; where a token occurs twice, the first."""
    regular_file(path, "encoder.vectors.path")
    with reading(f"encoder.vectors.path: {path}", "Copy or download it again.", refusal=DataError):
        return _read_array(path, wanted) if path.suffix == ".npy" else _read_text(path, wanted)


def _read_text(path: Path, wanted: dict[str, int]) -> dict[int, NDArray[np.float32]]:
    found: dict[int, NDArray[np.float32]] = {}
    size = 0
    for number, fields in _fields(path):
        if number == 1 and len(fields) == 2 and all(field.isdecimal() for field in fields):
            size = int(fields[1])  # word2vec: how many vectors, and their size
            continue
        size = size or len(fields) - 1
        if len(fields) <= size or not size:
            raise DataError(
                f"{path}:{number}: {len(fields) - 1} numbers after the token, {size or 'some'} expected. "
                "Fix or drop the line."
            )
        token = " ".join(fields[: len(fields) - size])  # GloVe has tokens with a space inside
        if token in wanted and wanted[token] not in found:
            found[wanted[token]] = _numbers(fields[-size:], f"{path}:{number}")
    return found


def _fields(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield number and fields of each line that is not blank."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
        for number, line in enumerate(iter(lambda: stream.readline(_MOST_BYTES_OF_A_LINE), b""), 1):
            if b"\0" in line or len(line) == _MOST_BYTES_OF_A_LINE:
                found = "a NUL byte" if b"\0" in line else f"a line of {_MOST_BYTES_OF_A_LINE // 2**20} MB or more"
                raise DataError(f"{path}:{number}: {found}: this is no text. Save word2vec's .bin as text.")
            text = line.decode("utf-8", "replace")  # a broken token is in no vocabulary
            text = text.replace("\t", " ").rstrip("\r\n ").removeprefix("\ufeff")
            if text:
                yield number, text.split(" ")


def _numbers(values: Sequence[str] | NDArray[Any], where: str) -> NDArray[np.float32]:
    try:
        numbers = np.asarray(values, np.float32)
    except ValueError as error:
        raise DataError(
            f"{where}: {error}. A token and numbers are needed, separated by spaces or tabs. Fix or drop the line."
        ) from error
    if not np.isfinite(numbers).all():
        raise DataError(f"{where}: not every number is finite. Fix or drop the line.")
    return numbers


def _read_array(path: Path, wanted: dict[str, int]) -> dict[int, NDArray[np.float32]]:
    names = path.with_suffix(".txt")
    if not names.is_file():
        raise ConfigError(f"encoder.vectors.path: beside {path} there is no {names.name} with a token on each line.")
    regular_file(names, "encoder.vectors.path")
    text = names.read_bytes().decode("utf-8", "replace").removeprefix("\ufeff")
    tokens = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    with reading(f"{path} is no array of numbers", "Write it with numpy.save.", refusal=DataError):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.ndim != 2 or len(array) != len(tokens) or array.dtype.kind not in "fiu":
        raise DataError(
            f"{path} holds {array.dtype} in the shape {list(array.shape)}, and {names.name} {len(tokens)} lines. "
            "An array of numbers with a row for each line is needed."
        )
    found: dict[int, NDArray[np.float32]] = {}
    for place, token in enumerate(tokens):
        if token in wanted and wanted[token] not in found:
            found[wanted[token]] = _numbers(array[place], f"{path}, row {place + 1} ({token})")
    return found
