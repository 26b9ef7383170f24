"""What nobody foresaw ends in one short line that says whose it is, and its traceback is in a file."""

import errno
import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lightrail.project import cli, last_resort
from lightrail.project.basics import catalogue
from lightrail.project.basics.errors import ConfigError, Refusal
from lightrail.project.basics.tables import aligned
from lightrail.project.tracking.store import state_folder

Fails = Callable[[BaseException], tuple[str, str]]
"""Calls a command that raises; returns its line, and the traceback from its file."""


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Call a function in the place of `lightrail fit`, and return what it writes to standard error."""

    def called(function: Callable[[], object], *arguments: str, status: int = 1) -> str:
        module = SimpleNamespace(run=lambda _: function())
        monkeypatch.setitem(sys.modules, "lightrail.project.commands.fit", module)
        assert cli.main(["fit", *arguments]) == status
        return capsys.readouterr().err

    return called


def raising(error: BaseException) -> Callable[[], object]:
    def fail() -> object:
        raise error

    return fail


def test_a_bug_is_one_line_with_its_place_and_a_file(call: Callable[..., str]) -> None:
    shown = call(lambda: aligned([["a"], 3]))  # type: ignore[list-item]
    match = re.fullmatch(
        r"lightrail: error: `lightrail fit` failed with TypeError: .*?int.*?\. This is a bug in lightrail "
        r"\(at project/basics/tables\.py:\d+\): please report it; the traceback is in (.*)\n",
        shown,
    )
    assert match is not None, shown
    text = Path(match[1]).read_text("utf-8")
    assert text.startswith("lightrail fit\n\nTraceback (most recent call last):")
    assert "in aligned" in text
    assert text.rstrip().splitlines()[-1].startswith("TypeError: ")


def test_the_traceback_is_shown_on_request(call: Callable[..., str]) -> None:
    shown = call(raising(KeyError("lr")), "--traceback").splitlines()
    assert shown[0] == "Traceback (most recent call last):"
    assert shown[-2] == "KeyError: 'lr'"
    assert shown[-1].startswith("lightrail: error: `lightrail fit` failed with KeyError: 'lr'. ")
    assert not list(state_folder().rglob("*.txt"))


def test_the_option_is_no_argument_of_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--traceback", "list", "--traceback"]) == 0
    assert "--traceback" not in capsys.readouterr().out
    assert cli.main(["--help"]) == 0
    assert "--traceback" in capsys.readouterr().out


def test_a_state_folder_that_cannot_be_written_leaves_standard_error(call: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "state").write_text("in the way")
    shown = call(raising(KeyError("lr")))
    assert shown.startswith("Traceback (most recent call last):")
    assert "the traceback is above" in shown.splitlines()[-1]


@pytest.mark.parametrize("is_installed", [False, True])
def test_what_the_code_of_a_user_raises_names_its_file_and_line(
    call: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_installed: bool
) -> None:
    folder = tmp_path / "site-packages" if is_installed else tmp_path
    folder.mkdir(exist_ok=True)
    name = f"own_callback_{is_installed}"
    (folder / f"{name}.py").write_text("import json\n\ndef on_fit_start():\n    json.loads('{')\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(catalogue, "IMPORTED", set())
    monkeypatch.setattr(last_resort, "IMPORTED", catalogue.IMPORTED)
    catalogue.import_allowed([name])
    shown = call(importlib.import_module(name).on_fit_start)
    assert f"It comes from {folder}/{name}.py:4 (on_fit_start), which is not part of lightrail; the trace" in shown
    assert "bug" not in shown


def test_compiled_code_of_a_library_is_not_taken_for_the_code_of_a_user(call: Callable[..., str]) -> None:
    library: dict[str, Callable[[], object]] = {}
    exec(compile("def check_status():\n    raise OSError('Invalid column')", "pyarrow/error.pxi", "exec"), library)
    shown = call(library["check_status"])
    assert "OSError: Invalid column. It comes from " in shown
    assert f"{Path(__file__)}:" in shown, "the function that called it"
    assert "error.pxi" not in shown


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (MemoryError(), "MemoryError: no message. There is not enough memory: "),
        (torch.OutOfMemoryError("CUDA out of memory."), "There is not enough memory: "),
        (RuntimeError("DefaultCPUAllocator: not enough memory"), "There is not enough memory: "),
        (OSError(errno.EMFILE, "Too many open files"), "check its disk space"),
    ],
)
def test_what_the_machine_refuses_is_no_bug(call: Callable[..., str], error: Exception, hint: str) -> None:
    shown = call(raising(error))
    assert hint in shown
    assert "bug" not in shown


class Unshowable(Exception):  # noqa: N818
    def __str__(self) -> str:
        raise ValueError


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a\nb" * 10**6),
        ValueError("\x1b[2J\ud800\u202e"),
        ValueError(10**5000),
        Unshowable(),
        type("PanicException", (BaseException,), {})("of a library in Rust"),
    ],
    ids=["long", "control characters", "a number", "no text", "a panic"],
)
@pytest.mark.parametrize("arguments", [[], ["--traceback"]])
def test_any_exception_is_short_and_printable(call: Callable[..., str], error: Exception, arguments: list[str]) -> None:
    shown = call(raising(error), *arguments)
    line = shown.splitlines()[-1]
    assert line.startswith("lightrail: error: `lightrail fit` failed with ")
    assert len(line) <= 1000
    assert line.isprintable()
    shown.encode()


def test_only_the_last_tracebacks_are_kept(call: Callable[..., str]) -> None:
    for _ in range(last_resort.NUM_KEPT + 2):
        call(raising(KeyError()))
    assert len(list((state_folder() / "tracebacks").iterdir())) == last_resort.NUM_KEPT


def test_a_refusal_is_cut_in_its_middle_and_harmless(call: Callable[..., str]) -> None:
    shown = call(raising(ConfigError(f"data.path: 'a\x1b]0;x\ud800 {'x' * 10**6}'. Name a file.")), status=2)
    assert shown.startswith("lightrail: error: data.path: 'a\\x1b]0;x\\ud800 xxx")
    assert shown.endswith("x'. Name a file.\n")
    assert len(shown) < 1030
    assert "x [...] x" in shown
    kept = "你\u3000好\u00a0: é\n\tnext"
    assert call(raising(ConfigError(kept)), status=2) == f"lightrail: error: {kept}\n"


def test_advice_is_not_cut(call: Callable[..., str]) -> None:
    command = "pip install " + "x" * 2000
    assert call(raising(Refusal("changed.", advice=f"\n{command}")), status=2).endswith(f"changed.\n{command}\n")


def test_characters_that_standard_output_cannot_write_are_no_bug(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    module = SimpleNamespace(run=lambda _: sys.stdout.write("a \ud800\n") and 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "lightrail.project.commands.fit", module)
        assert cli.main(["fit"]) == 0
    assert capfdbinary.readouterr().out == b"a \\ud800\n"
