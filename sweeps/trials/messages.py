"""Messages between a trial's process and its driver, and the first failure among the processes of a trial.

A trial does not use Optuna: it reports to the driver, and receives whether to continue.
"""

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

HALVED_TAG = "lightrail.halved"
"""Tag of a run that trains with half the batch size of its trial's settings."""
FailureKind = Literal["pruned", "interrupted", "killed", "memory", "error"]


@dataclass(frozen=True)
class Started:
    """Message of a trial: its MLflow run exists."""

    run_id: str


@dataclass(frozen=True)
class Report:
    """Message of a trial: a validation took place. The driver replies True to continue, False to prune the trial."""

    step: int
    values: dict[str, float]
    """The optimized metrics."""


@dataclass(frozen=True)
class Finished:
    """Message of a trial: the run is trained, and tested if it is to be."""

    metrics: dict[str, float]


@dataclass(frozen=True)
class Failed:
    """Message of a trial: the run ended early, with the reason."""

    reason: str
    kind: FailureKind


Message = Started | Report | Finished | Failed


@dataclass(frozen=True)
class Assignment:
    """Everything that a trial's process needs to train."""

    values: dict[str, Any]
    """The complete configuration."""
    run_id: str | None
    """The MLflow run of an earlier process of this trial, to be resumed."""
    has_begun: bool
    """Whether an earlier process may have started a run without having reported its id."""
    tags: dict[str, str]
    metrics: list[str]
    log: str
    """File for the standard output and error of the process."""
    devices: list[str]
    """The GPUs that the trial owns; empty on a CPU."""
    threads: int
    """Number of threads of each of its processes."""
    tests: bool
    """Whether to test the run, also one that is trained."""


def record_failure(log: str, failure: Failed) -> None:
    """Record why this process ends, unless another process of the trial has: the first failure is the cause.

    Args:
        log: the trial's log; the record is a file in the same folder.
    """
    first = _failure_file(log)
    own = first.with_name(f"{first.name}.{os.getpid()}")
    own.write_text(json.dumps(asdict(failure)), encoding="utf-8")
    with suppress(FileExistsError):  # another process was first
        os.link(own, first)  # atomic: the file is whole, or does not exist
    own.unlink()


def first_failure(log: str) -> Failed | None:
    """Return the first failure that was recorded; None if no further process of the trial has recorded one."""
    first = _failure_file(log)
    return Failed(**json.loads(first.read_text(encoding="utf-8"))) if first.exists() else None


def clear_failure(log: str) -> None:
    """Remove the recorded failure of an earlier attempt: a resumed trial uses the same files."""
    _failure_file(log).unlink(missing_ok=True)


def _failure_file(log: str) -> Path:
    return Path(log).with_suffix(".failure")
