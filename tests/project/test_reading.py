"""The boundary for files: any exception of a library becomes one short line, and only regular files are opened."""

import os
import socket
from pathlib import Path

import pytest

from lightrail.datamodules.corpus.files import source_files
from lightrail.datamodules.reading.hub import load_hub
from lightrail.project.basics.errors import ConfigError, DataError, first_line, shown
from lightrail.project.basics.reading import reading, regular_file, user_path


def test_the_home_of_nobody_is_a_path_to_nothing() -> None:
    assert user_path("~/x") == Path.home() / "x"
    assert user_path("~nobody-here/x") == Path("~nobody-here/x")
    for read, name in ((source_files, "~nobody-here/x"), (load_hub, "hub:~nobody-here/x@train")):
        with pytest.raises(DataError, match="~nobody-here/x"):
            read(name)


def nested(depth: int) -> list[object]:
    value: list[object] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    ["x" * 10**6, b"x" * 10**6, "\ud800", "\x1b[31m\r\n\x00", 10**5000, nested(2000), {"a": "b" * 900}],
    ids=["text", "bytes", "surrogate", "control characters", "integer", "nesting", "mapping"],
)
def test_a_quoted_value_is_one_short_line_that_any_terminal_can_print(value: object) -> None:
    text = shown(value, 60)

    assert text.encode()
    assert len(text) <= 60
    assert text.isprintable()


@pytest.mark.parametrize(
    "error", [ValueError("a\x1b[31m" * 999), KeyError(10**5000), RuntimeError(), OSError("\ud800")]
)
def test_the_first_line_of_an_error_is_printable(error: Exception) -> None:
    text = first_line(error)

    assert text.encode()
    assert text.isprintable()
    assert len(text) <= 900


def test_whatever_a_library_raises_becomes_one_line() -> None:
    message = r"^table.parquet: Couldn't read. Write it anew\.$"

    with pytest.raises(DataError, match=message), reading("table.parquet", "Write it anew.", refusal=DataError):
        raise MemoryError("Couldn't read.\nat offset 7")


def test_a_refusal_passes_unchanged() -> None:
    with pytest.raises(DataError, match=r"^already said$"), reading("x", "fix"):
        raise DataError("already said")


def test_an_interruption_is_no_damaged_file() -> None:
    with pytest.raises(KeyboardInterrupt), reading("x", "fix"):
        raise KeyboardInterrupt


def test_only_regular_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the address of a socket is at most about 100 characters long
    os.mkfifo("pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        for path, kind in [(".", "a folder"), ("pipe", "a pipe"), ("/dev/null", "a device"), ("socket", "a socket")]:
            with pytest.raises(ConfigError, match=f"^data.path: .* is {kind}; a file is needed"):
                regular_file(Path(path), "data.path")


@pytest.mark.parametrize("name", ["missing", "x" * 5000, "a\x00b"])
def test_a_file_that_is_not_there_is_named_in_a_short_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read") as refused:
        regular_file(tmp_path / name, "data.path")

    assert len(str(refused.value)) < 400


def test_a_file_is_measured_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.truncate(10**12)

    with pytest.raises(ConfigError, match="1,000,000,000,000 bytes; at most 1,000 make sense"):
        regular_file(path, "settings", most_bytes=1000)
    assert regular_file(path, "settings") == path
