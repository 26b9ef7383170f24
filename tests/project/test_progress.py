"""A person sees where a run is, without the run waiting for it."""

import fcntl
import io
import logging
import os
import pty
import re
import struct
import termios
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pyte
import pytest
from lightning.pytorch import Callback

from lightrail.lightning_modules.base import TaskModule
from lightrail.lightning_modules.optimization import OptimConfig
from lightrail.project.basics import logs
from lightrail.project.training.progress import TrainingProgress
from tests.support.tiny import Signs, fit, points_loader


class Clock(Callback):
    """A batch takes ten seconds."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def on_train_batch_start(self, *_: Any) -> None:
        self.seconds += 10


def lines(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, progress: TrainingProgress, **arguments: Any
) -> list[str]:
    """What is said of 6 steps of 4 points."""
    clock = Clock()
    monkeypatch.setattr("lightrail.project.training.progress.time", SimpleNamespace(monotonic=lambda: clock.seconds))
    with caplog.at_level(logging.INFO, logger="lightrail.project.training.progress"):
        fit(Signs(), callbacks=[clock, progress], enable_progress_bar=True, max_epochs=2, **arguments)
    return [record.getMessage() for record in caplog.records if record.name == "lightrail.project.training.progress"]


def plain() -> TrainingProgress:
    progress = TrainingProgress()
    progress.is_terminal = False
    return progress


def on_terminal() -> TrainingProgress:
    progress = TrainingProgress()
    progress.is_terminal = True
    return progress


def test_without_a_terminal_a_line_comes_now_and_then(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(TaskModule, "recent_loss", 0.5)
    assert lines(monkeypatch, caplog, plain()) == [
        "training 6 parameters, steps: 6",
        "step 2 of 6, loss 0.500, 40 s to go",
        "step 4 of 6, loss 0.500, 20 s to go",
        "step 6 of 6, loss 0.500, 0 s to go",
    ]


def test_the_loss_is_read_no_more_often_than_shown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reads = []

    def read(_: TaskModule) -> float:
        reads.append(1)
        return 0.5

    monkeypatch.setattr(TaskModule, "recent_loss", property(read))
    monkeypatch.setattr("lightrail.project.training.progress.SECONDS_BETWEEN_LINES", 35)
    lines(monkeypatch, caplog, plain())
    assert len(reads) == 1  # of six steps in sixty seconds


def test_a_run_without_an_end_shows_how_long_it_has_taken(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Stop(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            trainer.should_stop = trainer.global_step == 4

    clock, endless = Clock(), OptimConfig(schedule="constant", warmup_fraction=0)
    monkeypatch.setattr("lightrail.project.training.progress.time", SimpleNamespace(monotonic=lambda: clock.seconds))
    with caplog.at_level(logging.INFO, logger="lightrail.project.training.progress"):
        callbacks = [clock, plain(), Stop()]
        fit(Signs(optim=endless), callbacks=callbacks, max_epochs=-1, enable_progress_bar=True)
    said = [record.getMessage() for record in caplog.records if record.name == "lightrail.project.training.progress"]
    assert said[0] == "training 6 parameters, steps: unlimited"
    assert said[1].startswith("step 2 of ?, loss ")
    assert said[1].endswith(", 20 s so far")


def test_metrics_of_an_evaluation_are_shown(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    said = lines(monkeypatch, caplog, plain(), limit_val_batches=1.0, num_sanity_val_steps=1)
    shown = [line for line in said if "val/" in line]
    assert [line.split(":")[0] for line in shown] == ["step 3", "step 6"]  # and not of the sanity check
    assert all("val/accuracy 0." in line or "val/accuracy 1." in line for line in shown)
    assert all("val/loss " in line for line in shown)


def test_other_processes_show_nothing(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    progress = plain()
    progress.disable()
    assert lines(monkeypatch, caplog, progress, limit_val_batches=1.0) == []
    progress = on_terminal()
    progress.disable()
    assert lines(monkeypatch, caplog, progress) == []


def test_on_a_terminal_a_bar_is_drawn_on_standard_error_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    said = lines(monkeypatch, caplog, on_terminal())
    drawn = capsys.readouterr()
    assert said == ["training 6 parameters, steps: 6"]
    assert drawn.out == ""
    assert "6/6" in drawn.err


class Broken(Callback):
    def on_train_batch_end(self, *_: Any) -> None:
        raise ZeroDivisionError


def test_the_bar_is_taken_down_when_a_run_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    progress = on_terminal()
    monkeypatch.setattr("sys.stderr", io.StringIO())
    with pytest.raises(ZeroDivisionError):
        fit(Signs(), points_loader(), callbacks=[progress, Broken()], max_epochs=1, enable_progress_bar=True)
    assert progress._bar is None


def test_whether_there_is_a_terminal_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stderr", terminal)
    assert TrainingProgress().is_terminal
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert not TrainingProgress().is_terminal


class Terminal:
    """A terminal of 24 lines at standard error, and what a person sees on it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.stream = os.fdopen(theirs, "w")
        monkeypatch.setattr("sys.stderr", self.stream)
        monkeypatch.setenv("TERM", "xterm-256color")
        for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
            monkeypatch.delenv(name, raising=False)
        self._screen = pyte.Screen(columns, 24)

    def lines(self) -> list[str]:
        """Close the terminal, and return what is left on the screen."""
        self.stream.close()
        stream, shown = pyte.ByteStream(self._screen), b""
        try:
            while part := os.read(self._ours, 65536):
                shown += part
        except OSError:  # at the end: nobody holds the other side
            pass
        os.close(self._ours)
        stream.feed(shown)
        return [line.rstrip() for line in self._screen.display if line.strip()]


@pytest.fixture
def log_handler() -> Iterator[logging.Logger]:
    """The package's log, which writes to the terminal as a command does."""
    logger = logging.getLogger("lightrail")
    level = logger.level
    logger.setLevel(logging.INFO)
    yield logger
    logger.setLevel(level)
    for handler in [*logger.handlers]:
        logger.removeHandler(handler)


@pytest.mark.parametrize("columns", [80, 120])
def test_log_lines_and_bar_share_the_screen(
    monkeypatch: pytest.MonkeyPatch, log_handler: logging.Logger, columns: int
) -> None:
    screen = Terminal(monkeypatch, columns)
    log_handler.addHandler(logs._handler())
    monkeypatch.setattr(TaskModule, "recent_loss", 0.5)

    fit(Signs(), callbacks=[TrainingProgress()], enable_progress_bar=True, max_epochs=2, limit_val_batches=1.0)

    first, *validations, bar = screen.lines()
    assert first[8:] == " INFO     training 6 parameters, steps: 6"
    shown = re.compile(r"\d\d:\d\d:\d\d INFO     step (\d): val/loss \d\.\d{4}, val/accuracy \d\.\d{4}")
    assert [match[1] for line in validations if (match := shown.fullmatch(line))] == ["3", "6"]
    assert len(validations) == 2
    assert bar.startswith("training ━━━━")
    assert " 6/6 " in bar
