"""A file that is replaced is the new one or the one before, whatever happens in between."""

import errno
import os
import signal
from pathlib import Path

import pytest

from lightrail.project.basics.durable import (
    UNFINISHED,
    put_in_place,
    read_note,
    remove_unfinished,
    replacing,
    sync,
    write_whole,
)
from lightrail.project.basics.errors import ConfigError


def test_a_text_takes_the_place_of_the_one_before_and_leaves_nothing_else(tmp_path: Path) -> None:
    for text in ("one\n", "二\r\n"):
        write_whole(tmp_path / "note.txt", text)
        assert (tmp_path / "note.txt").read_bytes() == text.encode()
    assert os.listdir(tmp_path) == ["note.txt"]


def test_an_error_on_the_way_leaves_the_content_before(tmp_path: Path) -> None:
    write_whole(tmp_path / "note.txt", "one")

    def write_half() -> None:
        with replacing(tmp_path / "note.txt") as stream:
            stream.write(b"half of t")
            raise KeyError

    with pytest.raises(KeyError):
        write_half()
    assert (tmp_path / "note.txt").read_text() == "one"
    assert os.listdir(tmp_path) == ["note.txt"]


@pytest.mark.parametrize("name", ["note.txt", f"note.txt{UNFINISHED}"])
def test_a_folder_where_a_file_is_to_be_is_named_and_stays(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(ConfigError, match=f"{name} is a folder, and a file is to be written there"):
        write_whole(tmp_path / "note.txt", "one")
    remove_unfinished(tmp_path)
    assert os.listdir(tmp_path) == [name]


def test_a_note_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    write_whole(tmp_path / "note", "one")
    assert [read_note(tmp_path / name) for name in ("pipe", "note", "none")] == ["", "one", ""]


@pytest.mark.parametrize("is_synced", [True, False])
def test_file_and_folder_are_synced_around_the_renaming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_synced: bool
) -> None:
    done: list[str] = []
    replace = Path.replace

    def renamed(own: Path, target: Path) -> Path:
        done.append("renamed")
        return replace(own, target)

    monkeypatch.setattr(os, "fsync", lambda number: done.append(os.readlink(f"/proc/self/fd/{number}")))
    monkeypatch.setattr(Path, "replace", renamed)
    write_whole(tmp_path / "note.txt", "one", is_synced=is_synced)
    assert done == ([f"{tmp_path}/note.txt{UNFINISHED}", "renamed", str(tmp_path)] if is_synced else ["renamed"])


def test_a_disk_that_is_found_full_by_the_sync_leaves_the_content_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_whole(tmp_path / "note.txt", "one")
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "note.txt", "two")
    assert (tmp_path / "note.txt").read_text() == "one"
    assert os.listdir(tmp_path) == ["note.txt"]


def test_what_a_killed_process_left_is_known_by_its_name_and_removed(tmp_path: Path) -> None:
    write_whole(tmp_path / "note.txt", "one")
    process = os.fork()
    if process == 0:
        with replacing(tmp_path / "note.txt") as stream:
            stream.write(b"half of t")
            stream.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitpid(process, 0)[1] == signal.SIGKILL
    assert (tmp_path / "note.txt").read_text() == "one"
    assert sorted(os.listdir(tmp_path)) == ["note.txt", f"note.txt{UNFINISHED}"]
    remove_unfinished(tmp_path)
    assert os.listdir(tmp_path) == ["note.txt"]


def test_a_folder_is_put_in_place_as_a_file_is(tmp_path: Path) -> None:
    (tmp_path / "written").mkdir()
    (tmp_path / "written" / "note.txt").write_text("one")
    sync(tmp_path / "written")
    put_in_place(tmp_path / "written", tmp_path / "cache")
    assert [path.name for path in tmp_path.rglob("*")] == ["cache", "note.txt"]
