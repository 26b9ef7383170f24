"""How an input ended: refused or worked, or one of the ways in which it may not end."""

import re
import signal
import sqlite3
from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from benchmarks.fuzz.sandbox import LOG, NOT_PREPARED, Ended
from lightrail.project.basics.errors import MOST_CHARACTERS

GOOD = ("refused", "worked")
BAD = ("traceback", "long message", "hang", "memory", "left RUNNING", "not prepared")
OUTCOMES = (*GOOD, *BAD)
_FAILURE = re.compile(r"failed with (?P<type>\w+)(?P<message>[^\n]*)")
_PLACE = re.compile(r"\(at (?P<ours>[\w/.]+:\d+)\)|It comes from (?P<theirs>\S+) \(")
_MEMORY = ("There is not enough memory", "MemoryError", "not enough memory", "bad_alloc")
_UNSENT = re.compile(r"run (\w+) ended as \w+, but its store is incomplete")
_TRACEBACK = "Traceback (most recent call last)"
_STEP = re.compile(rb'"time": (\d+), "step": \d+, "metrics": \{"train/loss"')
SECONDS_OF_A_STEP = 30.0
"""Far more than a step of these tiny networks takes on a busy machine."""


@dataclass(frozen=True)
class Outcome:
    """The kind of an end, and what tells its cause from others."""

    kind: str
    signature: str = ""
    """Type of the exception and innermost place in lightrail; empty for good ends."""


def judge(folder: Path, ended: Ended, running_before: Collection[str]) -> Outcome:
    """Judge the end of an input's command by its status, what it wrote, and the runs in its folder.

    Args:
        running_before: runs that were RUNNING before the command.
    """
    text = (folder / LOG).read_text("utf-8", errors="replace") if (folder / LOG).exists() else ""
    if ended.status == NOT_PREPARED:
        return Outcome("not prepared", _last_line(text))
    if ended.is_late or ended.status == -signal.SIGXCPU:
        # Told to train for 2**31 steps, a command does so: what still makes steps when its time is over does not hang.
        return Outcome("worked") if _is_training(folder, ended.at) else Outcome("hang", "no end in time")
    if failure := _failure(text, ended):
        return failure
    longest = max(map(len, text.splitlines()), default=0) if ended.status == 2 else 0
    if longest > MOST_CHARACTERS + len("lightrail: error: "):
        return Outcome("long message", text[:60])
    # A store that a damage keeps from being written to is told what happened later, by `lightrail sync`.
    if left := running(folder) - {*running_before, *_UNSENT.findall(text)}:
        return Outcome("left RUNNING", f"{len(left)} after status {ended.status}")
    return Outcome("refused" if ended.status == 2 else "worked")


def _failure(text: str, ended: Ended) -> Outcome | None:
    found = _FAILURE.search(text)
    is_memory = found is not None or ended.status < 0
    if is_memory and any(sign in text for sign in _MEMORY):
        return Outcome("memory", f"{found['type'] if found else _signal(ended)}{_last_frame(text)}")
    if found is not None:
        place = _PLACE.search(text)
        where = (place["ours"] or place["theirs"]) if place else found["message"][:60]
        return Outcome("traceback", f"{found['type']} at {where}")
    if ended.status < 0:
        return Outcome("traceback", _signal(ended))
    return Outcome("traceback", f"shown: {_last_line(text)}") if _TRACEBACK in text else None


def _is_training(folder: Path, at: float) -> bool:
    """Whether a run in this folder recorded a training step shortly before `at`, in seconds since 1970."""
    journals = [file for file in folder.glob("mlruns/*/*/metrics.jsonl") if file.is_file()]
    steps = [found for file in journals for found in _STEP.findall(file.read_bytes())]
    return any(int(milliseconds) / 1000 > at - SECONDS_OF_A_STEP for milliseconds in steps)


def _signal(ended: Ended) -> str:
    return signal.Signals(-ended.status).name if ended.status < 0 else ""


def _last_frame(text: str) -> str:
    file = re.search(r"the traceback is in (\S+)", text)
    if file is None or not Path(file[1]).is_file():
        return ""
    frames = re.findall(
        r'File "[^"]*/(?:lightrail/)((?:project|datamodules|lightning_modules|sweeps)/[^"]+)", line (\d+)',
        Path(file[1]).read_text("utf-8"),
    )
    return f" at {frames[-1][0]}:{frames[-1][1]}" if frames else ""


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1][:80]


def running(folder: Path) -> set[str]:
    """Return the runs that the store of a folder says are RUNNING; none where it cannot be read."""
    if not (folder / "mlflow.db").is_file():  # a pipe in its place would never be opened
        return set()
    try:
        with closing(sqlite3.connect(f"file:{folder / 'mlflow.db'}?mode=ro", uri=True)) as database:
            return {str(run) for (run,) in database.execute("SELECT run_uuid FROM runs WHERE status = 'RUNNING'")}
    except (sqlite3.Error, UnicodeDecodeError):
        return set()
