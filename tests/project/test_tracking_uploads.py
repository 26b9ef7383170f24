"""Files of a run on their way to an artifact store that is not a folder of this machine."""

import os
import threading
from pathlib import Path

import pytest

from lightrail.project.tracking.sender import Uploads
from lightrail.project.tracking.store import RunFolders
from tests.support.children import SECONDS_TO_HANG


class Store:
    """Takes files as MlflowClient does, from a disk; may be away, and may be held while it reads."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, str]] = []
        self.is_away = False
        self.reading, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def log_artifact(self, run_id: str, local_path: str, artifact_path: str | None = None) -> None:
        if self.is_away:
            raise ConnectionError("away")
        with Path(local_path).open() as first:
            start = first.read(2)
        self.reading.set()
        assert self.go_on.wait(SECONDS_TO_HANG)
        with Path(local_path).open() as second:  # large files are opened once for each part
            self.taken.append((f"{artifact_path or '.'}/{Path(local_path).name}", start + second.read()[2:]))


@pytest.fixture
def folders(tmp_path: Path) -> RunFolders:
    (tmp_path / "artifacts" / "checkpoints").mkdir(parents=True)
    return RunFolders(tmp_path / "artifacts", tmp_path / "metrics.jsonl", is_store=False)


@pytest.fixture
def last(folders: RunFolders) -> Path:
    file = folders.artifacts / "checkpoints" / "last.ckpt"
    file.write_text("one")
    return file


LAST = "checkpoints/last.ckpt"


def replace(file: Path, text: str) -> None:
    draft = file.with_name("last.ckpt.unfinished")
    draft.write_text(text)
    draft.replace(file)


def test_a_file_named_again_while_it_waits_is_sent_once_with_its_newest_content(
    folders: RunFolders, last: Path
) -> None:
    uploads, store = Uploads(folders), Store()
    uploads.request(LAST)
    replace(last, "two")
    uploads.request(LAST)
    uploads.send_requested(store, "run")
    assert store.taken == [(LAST, "two")]
    assert not uploads.has_requests


def test_what_the_store_does_not_take_is_sent_later(folders: RunFolders, last: Path) -> None:
    uploads, store = Uploads(folders), Store()
    uploads.request(LAST)
    store.is_away = True
    with pytest.raises(ConnectionError):
        uploads.send_requested(store, "run")
    assert uploads.has_requests
    store.is_away = False
    replace(last, "later")
    uploads.send_requested(store, "run")
    assert store.taken == [(LAST, "later")]


def test_a_file_replaced_while_it_is_sent_is_sent_as_it_was_and_then_as_it_is(folders: RunFolders, last: Path) -> None:
    uploads, store = Uploads(folders), Store()
    store.go_on.clear()
    uploads.request(LAST)
    sending = threading.Thread(target=uploads.send_requested, args=(store, "run"))
    sending.start()
    assert store.reading.wait(SECONDS_TO_HANG)
    assert uploads.is_busy
    replace(last, "TWO")
    uploads.request(LAST)
    store.go_on.set()
    sending.join(SECONDS_TO_HANG)
    assert store.taken == [(LAST, "one"), (LAST, "TWO")]
    assert not uploads.is_busy
    assert {path.name for path in folders.artifacts.parent.iterdir()} == {"artifacts", "uploaded.json"}


def test_all_files_are_sent_once_each_and_by_no_later_process_again(folders: RunFolders, last: Path) -> None:
    (folders.artifacts / "config.yaml").write_text("a: 1")
    (last.parent / "best.ckpt.unfinished").write_text("half")
    store = Store()
    assert Uploads(folders).send_all(store, "run") == 2
    assert store.taken == [("./config.yaml", "a: 1"), (LAST, "one")]
    assert Uploads(folders).send_all(store, "run") == 0
    replace(last, "two")
    assert Uploads(folders).send_all(store, "run") == 1
    assert store.taken[-1] == (LAST, "two")


def test_a_file_that_was_removed_is_passed_over(folders: RunFolders, last: Path) -> None:
    uploads, store = Uploads(folders), Store()
    uploads.request("checkpoints/worse.ckpt")
    uploads.request(LAST)
    uploads.send_requested(store, "run")
    assert store.taken == [(LAST, "one")]


def test_a_file_system_without_links_sends_the_file_itself(
    folders: RunFolders, last: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    store = Store()
    assert Uploads(folders).send_all(store, "run") == 1
    assert store.taken == [(LAST, "one")]


def test_where_the_folder_is_the_store_nothing_is_sent(folders: RunFolders, last: Path) -> None:
    uploads, store = Uploads(folders._replace(is_store=True)), Store()
    uploads.request(LAST)
    assert not uploads.has_requests
    assert uploads.send_all(store, "run") == 0
    assert store.taken == []
