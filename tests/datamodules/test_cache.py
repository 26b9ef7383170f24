"""What is written is read, one process builds and the others wait, and nothing unfinished is taken for finished."""

import errno
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightrail.datamodules.cache import (
    CacheWriter,
    TokenisedSplit,
    build_once,
    cache_folder,
    digest_of,
    file_digest,
    splits,
)
from lightrail.datamodules.cache.splits import split_names
from lightrail.project.basics.errors import ConfigError
from tests.support.children import SECONDS_TO_HANG

INT64 = st.integers(-(2**63), 2**63 - 1)
ROWS = st.lists(st.tuples(st.lists(INT64 | st.integers(0, 300)), INT64 | st.integers(0, 3), st.text()), min_size=1)


def write(folder: Path, rows: list[tuple[list[int], int, str]], split: str = "train") -> TokenisedSplit:
    writer = CacheWriter(folder)
    for ids, label, text in rows:
        writer.add(split, {"ids": np.array(ids, np.int64), "label": label, "text": text})
    writer.close()
    return TokenisedSplit(folder, split)


@settings(deadline=None, max_examples=50)
@given(ROWS, st.sampled_from([1, 7, 2**18]))
def test_rows_come_back_as_they_were_written(rows: list[tuple[list[int], int, str]], values_per_flush: int) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(splits, "_VALUES_PER_FLUSH", values_per_flush),
    ):
        split = write(Path(folder, "cache"), rows)
        assert len(split) == len(rows)
        for index, (ids, label, text) in enumerate(rows):
            row = split.row(index)
            assert np.asarray(row["ids"]).tolist() == ids
            assert (row["label"], row["text"]) == (label, text)
        assert split.lengths("ids").tolist() == [len(ids) for ids, _, _ in rows]
        assert split.lengths("label").tolist() == [1] * len(rows)
        assert split.values("label").tolist() == [label for _, label, _ in rows]


@settings(deadline=None, max_examples=50)
@given(ROWS, st.integers(0, 5), st.sampled_from([1, 7, 2**18]))
def test_rows_written_together_are_rows_written_one_by_one(
    rows: list[tuple[list[int], int, str]], num_single: int, values_per_flush: int
) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(splits, "_VALUES_PER_FLUSH", values_per_flush),
    ):
        plain = [(ids, label) for ids, label, _ in rows]
        writers = [CacheWriter(Path(folder, name)) for name in ("single", "together")]
        for number, (ids, label) in enumerate(plain):
            for writer in writers[: 2 if number < num_single else 1]:
                writer.add("train", {"ids": np.array(ids, np.int64), "label": label})
        for part in (plain[num_single : num_single + 2], plain[num_single + 2 :]):
            values = np.array([own for row, _ in part for own in row], np.int64)
            lengths = np.array([len(row) for row, _ in part], np.int64)
            labels = np.array([label for _, label in part], np.int64)
            writers[1].extend("train", {"ids": (values, lengths), "label": (labels, None)})
        for writer in writers:
            writer.close()
        single, together = (TokenisedSplit(writer.folder, "train") for writer in writers)
        assert together.digest == single.digest
        assert len(together) == len(rows)
        for column in ("ids", "label"):
            assert together.values(column).tolist() == single.values(column).tolist()
            assert together.lengths(column).tolist() == single.lengths(column).tolist()


def test_rows_written_together_must_fit(tmp_path: Path) -> None:
    writer = CacheWriter(tmp_path / "cache")
    ids, lengths = np.arange(3), np.array([1, 2])
    with pytest.raises(ValueError, match=r"columns of train have \[2, 3\] rows"):
        writer.extend("train", {"ids": (ids, lengths), "label": (ids, None)})
    with pytest.raises(TypeError, match="'ids' of train takes integers"):
        writer.extend("train", {"ids": (ids, None), "label": (ids, None)})


@pytest.mark.parametrize(
    ("values", "dtype"),
    [([0, 255], "u1"), ([-100, 7], "i1"), ([256], "u2"), ([-1, 300], "i2"), ([65536], "i4"), ([2**31], "i8")],
)
def test_a_column_takes_the_narrowest_type_that_holds_it(tmp_path: Path, values: list[int], dtype: str) -> None:
    assert write(tmp_path / "cache", [(values, 0, "")]).values("ids").dtype == np.dtype(dtype)


def test_a_column_is_widened_when_later_rows_need_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "_VALUES_PER_FLUSH", 4)
    ids = [1, 2, 3, 4, 5, 6, 70_000, -1, 2**40]
    split = write(tmp_path / "cache", [([value], 0, "") for value in ids])
    assert split.values("ids").tolist() == ids
    assert sorted(path.name for path in (tmp_path / "cache" / "train").iterdir()) == [
        "ids.bin",
        "ids.offsets",
        "label.bin",
        "text.bin",
        "text.offsets",
    ]


def test_the_digest_is_of_content_and_order_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [([1, 2], 0, "a"), ([3], 1, "b")]
    digest = write(tmp_path / "one", rows).digest
    monkeypatch.setattr(splits, "_VALUES_PER_FLUSH", 1)
    assert write(tmp_path / "two", rows, split="test").digest == digest
    moved = [([1], 0, "a"), ([2, 3], 1, "b")]
    others = [rows[::-1], [*rows, rows[0]], moved, [([1, 2], 1, "a"), rows[1]], [([1, 2], 0, "ab"), ([3], 1, "")]]
    digests = {write(tmp_path / f"other{number}", other).digest for number, other in enumerate(others)}
    assert len(digests) == len(others)
    assert digest not in digests


def test_splits_are_kept_apart(tmp_path: Path) -> None:
    writer = CacheWriter(tmp_path)
    for split, label in (("train", 1), ("test", 2), ("train", 3)):
        writer.add(split, {"label": label})
    writer.close()
    assert split_names(tmp_path) == ["train", "test"]
    assert TokenisedSplit(tmp_path, "train").values("label").tolist() == [1, 3]
    with pytest.raises(ValueError, match="no split 'validation', only train, test"):
        TokenisedSplit(tmp_path, "validation")


def test_a_split_goes_to_a_worker_as_a_path(tmp_path: Path) -> None:
    split = write(tmp_path / "cache", [(list(range(10_000)), 5, "text")])
    pickled = pickle.dumps(split)
    assert len(pickled) < 1000
    assert pickle.loads(pickled).row(0)["label"] == 5


def test_rows_are_read_only_and_bounded(tmp_path: Path) -> None:
    split = write(tmp_path / "cache", [([1, 2], 5, "text")])
    with pytest.raises(ValueError, match="read-only"):
        np.asarray(split.row(0)["ids"])[0] = 9
    for index in (-1, 1):
        with pytest.raises(IndexError, match="of 1"):
            split.row(index)


def test_the_writer_keeps_no_hold_of_the_callers_buffer(tmp_path: Path) -> None:
    buffer = np.array([1, 2])
    writer = CacheWriter(tmp_path)
    writer.add("train", {"ids": buffer})
    buffer[:] = 9
    writer.close()
    assert TokenisedSplit(tmp_path, "train").values("ids").tolist() == [1, 2]


@pytest.mark.parametrize(
    ("row", "error", "message"),
    [
        ({"ids": np.array([0.5])}, TypeError, "takes integers"),
        ({"ids": 3}, TypeError, "takes integers, not 3"),
        ({"ids": np.array([2**63], np.uint64)}, OverflowError, "9223372036854775808"),
        ({"other": np.array([1])}, ValueError, r"has \['other'\]"),
    ],
)
def test_what_a_column_cannot_hold_is_an_error(
    tmp_path: Path, row: dict[str, Any], error: type[Exception], message: str
) -> None:
    writer = CacheWriter(tmp_path)
    writer.add("train", {"ids": np.array([1])})
    with pytest.raises(error, match=message):  # noqa: PT012 - a column is checked when its buffer is written
        writer.add("train", row)
        writer.close()


def test_a_damaged_cache_is_refused(tmp_path: Path) -> None:
    write(tmp_path, [([1, 2], 5, "text")])
    (tmp_path / "train" / "ids.bin").write_bytes(b"\1")
    with pytest.raises(ConfigError, match=r"ids.bin has 1 bytes instead of 2. Delete that folder"):
        TokenisedSplit(tmp_path, "train")


def add_one(writer: CacheWriter) -> None:
    writer.add("train", {"label": 1})


def must_not_build(_: CacheWriter) -> None:
    raise AssertionError("built a second time")


def test_a_finished_cache_is_not_built_again(tmp_path: Path) -> None:
    folder = build_once(tmp_path / "deep" / "cache", add_one)
    assert build_once(folder, must_not_build) == folder
    assert len(TokenisedSplit(folder, "train")) == 1


def test_a_failed_build_leaves_no_cache_and_the_next_starts_over(tmp_path: Path) -> None:
    def fail(writer: CacheWriter) -> None:
        add_one(writer)
        raise RuntimeError("broken row")

    with pytest.raises(RuntimeError, match="broken row"):
        build_once(tmp_path / "cache", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["cache.lock"]
    assert len(TokenisedSplit(build_once(tmp_path / "cache", add_one), "train")) == 1


BUILDER = """
import sys, time
from pathlib import Path
from lightrail.datamodules.cache import TokenisedSplit, build_once

def build(writer):
    with open(sys.argv[2], "a") as stream:
        stream.write("built\\n")
    for number in range(1000):
        writer.add("train", {"label": number})
    print("building", flush=True)
    time.sleep(float(sys.argv[3]))

print(len(TokenisedSplit(build_once(Path(sys.argv[1]), build), "train")))
"""


def start_builder(folder: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", BUILDER, str(folder / "cache"), str(folder / "log"), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_of_several_processes_one_builds_and_all_read(tmp_path: Path) -> None:
    builders = [start_builder(tmp_path, 0.2) for _ in range(4)]
    outputs = [builder.communicate(timeout=SECONDS_TO_HANG)[0].split()[-1] for builder in builders]
    assert outputs == ["1000"] * 4
    assert (tmp_path / "log").read_text() == "built\n"


def test_a_killed_builder_leaves_nothing_that_passes_for_a_cache(tmp_path: Path) -> None:
    builder = start_builder(tmp_path, SECONDS_TO_HANG)
    assert builder.stdout is not None
    assert builder.stdout.readline() == "building\n"
    builder.send_signal(signal.SIGKILL)
    builder.communicate(timeout=SECONDS_TO_HANG)
    assert not (tmp_path / "cache").exists()
    assert (tmp_path / "cache.unfinished").exists()
    assert len(TokenisedSplit(build_once(tmp_path / "cache", add_one), "train")) == 1
    assert not (tmp_path / "cache.unfinished").exists()


def test_a_folder_without_meta_is_no_cache(tmp_path: Path) -> None:
    write(tmp_path / "cache", [([1], 1, "")])
    (tmp_path / "cache" / "meta.json").unlink()
    assert len(TokenisedSplit(build_once(tmp_path / "cache", add_one), "train")) == 1


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_refused_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "_append", full_disk)
    with pytest.raises(ConfigError, match=r"No space left on device. Set LIGHTRAIL_CACHE"):
        build_once(tmp_path / "cache", add_one)
    assert [path.name for path in tmp_path.iterdir()] == ["cache.lock"]


def test_a_folder_that_cannot_be_made_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot write the cache .*File exists. Set LIGHTRAIL_CACHE"):
        build_once(tmp_path / "file" / "cache", add_one)


def test_the_environment_chooses_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTRAIL_CACHE", "/somewhere")
    assert cache_folder() == Path("/somewhere")
    monkeypatch.delenv("LIGHTRAIL_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "lightrail"


def test_digests_follow_content_and_settings(tmp_path: Path) -> None:
    for name, content in (("a", "same"), ("b", "same"), ("c", "other")):
        (tmp_path / name).write_text(content)
    first, second, third = (file_digest(tmp_path / name) for name in "abc")
    assert first == second != third
    assert digest_of({"file": first, "max_length": 8}) == digest_of({"max_length": 8, "file": second})
    different: list[Callable[[], str]] = [lambda: digest_of({"file": first, "max_length": 9}), lambda: digest_of([])]
    assert len({digest() for digest in different} | {digest_of({"file": first, "max_length": 8})}) == 3


FLOATS = st.floats(allow_nan=False)


@given(st.lists(st.tuples(FLOATS | st.integers(-9, 9), st.lists(FLOATS, max_size=4)), min_size=1, max_size=9))
def test_floating_point_numbers_come_back_as_they_were_written(rows: list[tuple[float, list[float]]]) -> None:
    first: tuple[float, list[float]] = (0.5, [])  # an array without a number does not decide what the column holds
    with tempfile.TemporaryDirectory() as folder:
        writer = CacheWriter(Path(folder) / "cache")
        for score, vector in [first, *rows]:
            writer.add("train", {"score": score, "vector": np.array(vector)})
        writer.close()
        read = TokenisedSplit(Path(folder) / "cache", "train")
        found = [
            (read.row(number)["score"], np.asarray(read.row(number)["vector"]).tolist()) for number in range(len(read))
        ]
    assert found == [first, *rows]
    assert read.lengths("score").tolist() == [1] * len(found)


def test_a_column_of_integers_takes_no_other_number_later(tmp_path: Path) -> None:
    writer = CacheWriter(tmp_path / "cache")
    writer.add("train", {"score": 1})
    with pytest.raises(TypeError, match=r"'score' of train takes integer, not 0\.5"):
        writer.add("train", {"score": 0.5})
