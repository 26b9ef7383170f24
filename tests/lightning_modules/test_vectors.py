"""Pretrained vectors: the files people have, what is wrong with some, and what a checkpoint keeps of them."""

import gzip
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lightrail.lightning_modules.networks.encoders.convolutional import TextCnnConfig
from lightrail.lightning_modules.networks.encoders.embedding import TokenEmbedding
from lightrail.lightning_modules.networks.encoders.recurrent import LstmConfig
from lightrail.lightning_modules.networks.encoders.vectors import VectorsConfig
from lightrail.lightning_modules.optimization import OptimConfig
from lightrail.lightning_modules.text_classification import TextClassifier
from lightrail.project.basics.errors import ConfigError, DataError

VOCABULARY = ["the", "好", "new york", "cat"]
ROWS = [[0, 0], [0, 0], [1, 2], [3, -4], [5e-1, 6], [0, 0]]
"""Of padding, of unknown, and of the vocabulary's tokens, of which the last has no vector."""
LINES = ["dog 9 9", "the 1 2", "好 3 -4", "new york 0.5 6", "the 8 8"]


def vectors(path: Path | None, size: int | None = None, vocabulary: list[str] = VOCABULARY) -> list[list[float]]:
    rows: list[list[float]] = VectorsConfig(path=str(path), size=size).build(vocabulary).weight.tolist()
    return rows


def write(path: Path, lines: list[str], end: str = "\n") -> Path:
    path.write_bytes(end.join([*lines, ""]).encode())
    return path


@pytest.mark.parametrize(
    "lines",
    [
        LINES,
        ["5 2", *LINES],  # word2vec's header
        [*LINES[:2], "", *LINES[2:], ""],
        ["5 2", LINES[3], *LINES],  # the size is known before the first token, which has a space
        [f"{line} " for line in LINES],  # word2vec ends its lines so
        [line.replace(" ", "\t") if not line.startswith("new") else "new york\t0.5\t6" for line in LINES],
        [f"\ufeff{LINES[0]}", *LINES[1:]],
        [*LINES, "a\u2028b 1 2", "c\u0085d 1 2"],  # no ends of lines
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_token_gets_its_vector_and_zeros_if_it_has_none(tmp_path: Path, lines: list[str], end: str) -> None:
    assert vectors(write(tmp_path / "vectors.txt", lines, end)) == ROWS


def test_a_token_that_is_white_space_is_found(tmp_path: Path) -> None:
    path = write(tmp_path / "vectors.txt", ["\u3000 1 2", "\u00a0 3 4"])
    assert vectors(path, vocabulary=["\u00a0", "\u3000"])[2:] == [[3, 4], [1, 2]]


def test_a_token_of_broken_bytes_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "vectors.txt"
    path.write_bytes(b"\xff\xfe 7 7\nthe 1 2\n")
    assert vectors(path, vocabulary=["the"])[2:] == [[1, 2]]


def test_a_compressed_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "vectors.vec.gz"
    path.write_bytes(gzip.compress("\n".join(LINES).encode()))
    assert vectors(path) == ROWS


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int32])
def test_an_array_is_read_beside_its_tokens(tmp_path: Path, dtype: type) -> None:
    np.save(tmp_path / "vectors.npy", np.array([[9, 9], [1, 2], [3, -4], [8, 8]], dtype))
    (tmp_path / "vectors.txt").write_bytes("\ufeffdog\r\nthe\r\n好\r\nthe\r\n".encode())
    assert vectors(tmp_path / "vectors.npy", vocabulary=["the", "好"])[2:] == [[1, 2], [3, -4]]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["the 1 2 3", "cat 1 2"], r"vectors\.txt:2: 2 numbers after the token, 3 expected\. Fix or drop the line"),
        (["5 3", "", "the 1 2"], r"vectors\.txt:3: 2 numbers after the token, 3 expected"),
        (["the", "cat 1"], r"vectors\.txt:1: 0 numbers after the token, some expected"),
        (["dog 1 2", "the 1 x"], r"vectors\.txt:2: .*'x'.* A token and numbers are needed, separated by spaces"),
        (["dog 1 2", "the 1 nan"], r"vectors\.txt:2: not every number is finite"),
        (["dog 1 2", "the 1 \0"], r"vectors\.txt:2: a NUL byte: this is no text\. Save word2vec's \.bin as text"),
        (["The 1 2", "CAT 3 4"], r"vectors\.txt: none of the 4 tokens of the training split has a vector .* and case"),
        ([], r"vectors\.txt: none of the 4 tokens"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        vectors(write(tmp_path / "vectors.txt", lines))


@pytest.mark.parametrize("cut", [1, 9, 40])
def test_a_compressed_file_that_is_cut_short_is_refused(tmp_path: Path, cut: int) -> None:
    rng = np.random.default_rng(0)
    lines = [f"the{number} {rng.random()} {rng.random()}" for number in range(100)]
    path = tmp_path / "vectors.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode())[:-cut])
    with pytest.raises(DataError, match=r"vectors\.gz: .*\. Copy or download it again"):
        vectors(path, vocabulary=["the0"])


def test_a_file_that_only_says_that_it_is_compressed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"vectors\.gz: Not a gzipped file .*\. Copy or download it again"):
        vectors(write(tmp_path / "vectors.gz", LINES))


def test_a_missing_file_a_folder_and_another_size_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    for path, found in (("none.txt", "No such file"), (".", "is a folder"), ("pipe.txt", "is a pipe")):
        with pytest.raises(ConfigError, match=rf"encoder\.vectors\.path: .*{found}"):
            vectors(tmp_path / path)
    with pytest.raises(ConfigError, match=r"encoder\.vectors\.size is 3, and .*vectors\.txt holds vectors of 2"):
        vectors(write(tmp_path / "vectors.txt", LINES), size=3)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 2)), r"holds float64 in the shape \[3, 2\], and vectors\.txt 2 lines"),
        (np.zeros(2), r"holds float64 in the shape \[2\]"),
        (np.array([["a", "b"], ["c", "d"]]), r"holds <U1 in the shape \[2, 2\]"),
        (np.array([[np.inf, 1], [1, 1]]), r"vectors\.npy, row 1 \(the\): not every number is finite"),
    ],
)
def test_an_array_that_does_not_fit_its_tokens_is_refused(tmp_path: Path, array: NDArray[Any], message: str) -> None:
    np.save(tmp_path / "vectors.npy", array)
    write(tmp_path / "vectors.txt", ["the", "cat"])
    with pytest.raises(DataError, match=message):
        vectors(tmp_path / "vectors.npy")


@pytest.mark.parametrize("keep", [0, 60, 129])
def test_a_file_that_is_no_whole_array_is_refused(tmp_path: Path, keep: int) -> None:
    np.save(tmp_path / "whole.npy", np.ones((2, 2)))
    (tmp_path / "vectors.npy").write_bytes((tmp_path / "whole.npy").read_bytes()[:keep])
    write(tmp_path / "vectors.txt", ["the", "cat"])
    with pytest.raises(DataError, match=r"vectors\.npy is no array of numbers: .*\. Write it with numpy\.save"):
        vectors(tmp_path / "vectors.npy")


def test_objects_in_an_array_are_not_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "vectors.npy", np.array([["the", 1]], dtype=object), allow_pickle=True)
    write(tmp_path / "vectors.txt", ["the"])
    with pytest.raises(DataError, match=r"is no array of numbers: .*Python objects"):
        vectors(tmp_path / "vectors.npy")


def test_an_array_without_its_tokens_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "vectors.npy", np.ones((2, 2)))
    with pytest.raises(ConfigError, match=r"beside .*vectors\.npy there is no vectors\.txt"):
        vectors(tmp_path / "vectors.npy")


def test_a_position_is_told_its_tokens_vector(tmp_path: Path) -> None:
    path = write(tmp_path / "vectors.txt", LINES)
    embedding = TokenEmbedding(VOCABULARY, LstmConfig(width=2, vectors=VectorsConfig(path=str(path)))).eval()
    assert embedding.projection is not None
    with torch.no_grad():
        embedding.tokens.weight.zero_()
        embedding.projection.weight.copy_(torch.eye(2))
    assert embedding(torch.tensor([[4, 2, 0, 5]])).tolist() == [[[0.5, 6], [1, 2], [0, 0], [0, 0]]]


@pytest.mark.parametrize("freeze", [[], [".*embedding.vectors"]])
def test_vectors_are_trained_unless_they_are_frozen(tmp_path: Path, freeze: list[str]) -> None:
    path = write(tmp_path / "vectors.txt", LINES)
    encoder = TextCnnConfig(width=4, num_filters=3, vectors=VectorsConfig(path=str(path)))
    model = TextClassifier(VOCABULARY, ["a", "b"], [1, 1], encoder=encoder, optim=OptimConfig(freeze=freeze))
    model.configure_model()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert ("encoder.embedding.vectors.weight" in trained) == (not freeze)
    assert "encoder.embedding.projection.weight" in trained


def test_a_checkpoint_holds_the_vectors_and_is_loaded_when_the_file_is_gone(tmp_path: Path) -> None:
    path = write(tmp_path / "vectors.txt", LINES)
    encoder = LstmConfig(width=4, vectors=VectorsConfig(path=str(path), size=2))
    model = TextClassifier(VOCABULARY, ["a", "b"], [1, 1], encoder=encoder)
    with torch.no_grad():
        model.get_parameter("encoder.embedding.vectors.weight").add_(1)  # as training does
    checkpoint: dict[str, Any] = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "model.ckpt")
    path.unlink()
    restored = TextClassifier.load_from_checkpoint(tmp_path / "model.ckpt")
    assert restored.get_parameter("encoder.embedding.vectors.weight").tolist() == (np.array(ROWS) + 1).tolist()
