"""The part of a training that tells a sweep's driver how it does, and stops when it is told to."""

import math
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Literal

import lightning.pytorch as pl
from lightning.pytorch import Callback
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from lightrail.project.tracking.logger import MlflowLogger
from lightrail.project.tracking.run import GivenUp, Terminated
from lightrail.sweeps.trials.messages import Failed, Report, Started

GIVEN_UP_AT = "lightrail.pruned_step"
"""Tag of the run of a trial that was given up: the optimizer step at which it was."""
SECONDS_TO_DIE = 1.0
"""How long a process whose connections are closed may take to have ended."""
LOSSES = ("train/loss", "val/loss")
Decision = Literal["go on", "give up", "stop"]


class Spoilt(Exception):  # noqa: N818 - read by people: the name is never shown
    """A number that a training is judged by is none."""


class TrialReporter(Callback):
    """Reports each validation, and ends the trial on all processes at the same step when it is told to.

    It comes before what writes checkpoints: a validation of which the driver did not hear takes place again.

    Args:
        connection: to the driver; None on every process but the first, whose answer they are told.
        metrics: what the trial is judged by.
    """

    def __init__(self, connection: Connection | None, metrics: Sequence[str]) -> None:
        self.connection, self.metrics = connection, metrics
        self.killed: Failed | None = None
        """Set when another process of the trial was ended from outside: what is raised here then came of it."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.connection is not None:
            assert isinstance(trainer.logger, MlflowLogger)
            self.connection.send(Started(trainer.logger.run_id))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        spoilt = _first_spoilt(values, self.metrics)
        decision: Decision = "stop" if spoilt else self._ask(trainer.global_step, values)
        spoilt, decision = trainer.strategy.broadcast((spoilt, decision))
        is_over = trainer.global_step >= trainer.estimated_stepping_batches  # there is nothing left to be saved
        if decision == "go on" or (decision == "give up" and is_over):
            return
        if not trainer.is_global_zero:
            raise SystemExit(0)  # with another status Lightning kills the first process, which has the end to write
        raise _end(trainer, decision, spoilt)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if isinstance(exception, GivenUp | Spoilt):  # raised here, on all processes at once
            return
        launcher = trainer.strategy.launcher
        others = launcher.procs if isinstance(launcher, _SubprocessScriptLauncher) else []
        if isinstance(exception, Exception) and any(_was_killed(other) for other in others):
            self.killed = Failed("one of its processes was ended from outside", "killed")

    def _ask(self, step: int, values: Mapping[str, float]) -> Decision:
        """What the driver says; its death is a request to stop."""
        if self.connection is None:
            return "go on"
        try:
            self.connection.send(Report(step, {name: values[name] for name in self.metrics}))
            return "go on" if self.connection.recv() else "give up"
        except (EOFError, OSError):
            return "stop"


def _was_killed(process: "subprocess.Popen[bytes]") -> bool:
    """Whether a signal ended it."""
    with suppress(subprocess.TimeoutExpired):
        return process.wait(timeout=SECONDS_TO_DIE) < 0
    return False


def _first_spoilt(values: Mapping[str, float], metrics: Sequence[str]) -> str:
    """Name a metric that is missing or no number; "" when there is none."""
    wanted = [*metrics, *(name for name in LOSSES if name in values)]
    wrong = next((name for name in wanted if not math.isfinite(values.get(name, math.nan))), "")
    return wrong and f"{wrong} is {values.get(wrong, 'not measured')}"


def _end(trainer: pl.Trainer, decision: Decision, spoilt: str) -> BaseException:
    if spoilt:
        return Spoilt(f"{spoilt} at step {trainer.global_step}")
    if decision == "stop":
        return Terminated()
    assert isinstance(trainer.logger, MlflowLogger)
    trainer.logger.log_tags({"lightrail.trial_state": "PRUNED", GIVEN_UP_AT: str(trainer.global_step)})
    return GivenUp(trainer.global_step)
