"""What a trial's process and its driver tell each other, and why one ended.

A trial asks nothing of Optuna: it reports, and is told whether to go on.
"""

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

HALVED_TAG = "lightrail.halved"
"""Of a run whose batches are half as large as its trial's settings say."""
FailureKind = Literal["pruned", "interrupted", "killed", "memory", "error"]


@dataclass(frozen=True)
class Started:
    """The trial has its MLflow run."""

    run_id: str


@dataclass(frozen=True)
class Report:
    """A validation took place. The driver answers: True to go on, False to give the trial up."""

    step: int
    values: dict[str, float]
    """Each metric that trials are judged by."""


@dataclass(frozen=True)
class Finished:
    """The run is trained and tested."""

    metrics: dict[str, float]


@dataclass(frozen=True)
class Failed:
    """The run ended otherwise."""

    reason: str
    kind: FailureKind


Message = Started | Report | Finished | Failed


@dataclass(frozen=True)
class Assignment:
    """What a trial's process is to do."""

    values: dict[str, Any]
    """The complete configuration."""
    run_id: str | None
    """The MLflow run that an earlier process of this trial began, which is to be gone on with."""
    has_begun: bool
    """Whether an earlier process may have begun a run without having said which."""
    tags: dict[str, str]
    metrics: list[str]
    log: str
    """File for what the process writes to its standard output and error."""
    devices: list[str]
    """The GPUs that the trial owns; empty on a CPU."""
    threads: int
    """Of each of its processes."""


def note_cause(log: str, failure: Failed) -> None:
    """Say why this process ends, before it does. The first one to say so is the cause, and the others' ends follow.

    Args:
        log: the trial's, beside which this is kept.
    """
    cause = _cause(log)
    own = cause.with_name(f"{cause.name}.{os.getpid()}")
    own.write_text(json.dumps(asdict(failure)), encoding="utf-8")
    with suppress(FileExistsError):  # another one was earlier
        os.link(own, cause)  # whole, or not at all
    own.unlink()


def cause_in_others(log: str) -> Failed | None:
    """Give what `note_cause` was told first; None when the further processes of the trial have nothing to say."""
    cause = _cause(log)
    return Failed(**json.loads(cause.read_text(encoding="utf-8"))) if cause.exists() else None


def forget_cause(log: str) -> None:
    """Begin anew: a trial that goes on writes to the same files."""
    _cause(log).unlink(missing_ok=True)


def _cause(log: str) -> Path:
    return Path(log).with_suffix(".cause")
