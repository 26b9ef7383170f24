"""A cache that is not as it was written is never used: it is set aside, said in one line, and made again."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest

from lightrail.datamodules.cache import CacheWriter, TokenisedSplit, build_once, checksums
from lightrail.project.basics.errors import ConfigError


def add_one(writer: CacheWriter) -> None:
    writer.add("train", {"label": 1})


def must_not_build(_: CacheWriter) -> None:
    raise AssertionError("built a second time")


@pytest.mark.parametrize("file", ["meta.json", "train/label.bin", "train/text.bin", "train/text.offsets", "about.json"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "removed", "empty", "a pipe", "a device"])
def test_a_damaged_cache_is_set_aside_and_made_again(
    tmp_path: Path, file: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    def build(writer: CacheWriter) -> None:
        writer.add("train", {"label": 1, "text": "some text"})
        (writer.folder / "about.json").write_text("{}")

    path = build_once(tmp_path / "cache", build) / file
    whole = path.read_bytes()
    if damage in ("removed", "a pipe", "a device"):
        path.unlink()
    if damage == "a pipe":
        os.mkfifo(path)
    elif damage == "a device":
        path.symlink_to("/dev/zero")
    elif damage != "removed":
        path.write_bytes({"flipped": bytes([whole[0] ^ 1]) + whole[1:], "cut": whole[:-1], "empty": b""}[damage])
    build_once(tmp_path / "cache", build)
    assert path.read_bytes() == whole
    is_unfinished = file == "meta.json" and damage in ("removed", "a pipe", "a device")
    assert [record.getMessage()[:28] for record in caplog.records] == (
        [] if is_unfinished else ["set a damaged cache aside as"]
    )
    build_once(tmp_path / "cache", must_not_build)


def test_a_pipe_in_place_of_the_lock_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "cache.lock")
    with pytest.raises(ConfigError, match=r"cache\.lock is a pipe"):
        build_once(tmp_path / "cache", add_one)


def test_a_large_file_is_read_again_only_when_it_was_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checksums, "_BYTES_ALWAYS_READ", 0)
    folder = build_once(tmp_path / "cache", add_one)
    with mock.patch.object(checksums, "file_digest") as digest:
        build_once(folder, must_not_build)
    assert not digest.called
    (folder / "train" / "label.bin").touch()
    build_once(folder, must_not_build)
    (folder / "train" / "label.bin").write_bytes(b"\2")
    assert TokenisedSplit(build_once(folder, add_one), "train").values("label").tolist() == [1]


@pytest.mark.parametrize(
    ("name", "value"),
    [("dtype", "|O"), ("dtype", 7), ("dtype", "<u8"), ("kind", "object"), ("num_values", 2.0), ("num_values", -2)],
)
def test_the_metadata_of_an_earlier_version_is_checked_before_it_is_used(
    tmp_path: Path, name: str, value: object
) -> None:
    folder = build_once(tmp_path / "cache", add_one)
    (tmp_path / "cache.lock").write_text("")  # no checksums
    meta = json.loads((folder / "meta.json").read_text())
    meta["splits"]["train"]["columns"]["label"][name] = value
    (folder / "meta.json").write_text(json.dumps(meta))
    assert len(TokenisedSplit(build_once(folder, add_one), "train")) == 1
    assert (tmp_path / "cache.damaged").is_dir()


def test_what_is_written_beside_the_rows_is_checked_too(tmp_path: Path) -> None:
    folder = build_once(tmp_path / "cache", add_one)

    def check(own: Path) -> None:
        if own == folder and not (tmp_path / "cache.damaged").exists():
            raise KeyError("facts")

    build_once(folder, add_one, check)
    assert (tmp_path / "cache.damaged").is_dir()


def test_a_full_disk_and_a_source_that_fails_are_told_apart(tmp_path: Path) -> None:
    def fail(number: int) -> Callable[[CacheWriter], None]:
        def build(_: CacheWriter) -> None:
            raise OSError(number, os.strerror(number))

        return build

    with pytest.raises(ConfigError, match=r"cannot write the cache .*No space left.*Set LIGHTRAIL_CACHE"):
        build_once(tmp_path / "cache", fail(errno.ENOSPC))
    with pytest.raises(OSError, match="Input/output"):
        build_once(tmp_path / "cache", fail(errno.EIO))
    assert [path.name for path in tmp_path.iterdir()] == ["cache.lock"]
