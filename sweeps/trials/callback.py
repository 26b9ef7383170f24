"""The callback of a trial's training that reports validations to the sweep's driver and receives its decisions."""

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
from lightrail.project.tracking.processes import Terminated
from lightrail.project.tracking.run import GivenUp
from lightrail.project.training.divergence import StopWhenNotFinite
from lightrail.sweeps.trials.messages import Failed, Report, Started

GIVEN_UP_AT = "lightrail.pruned_step"
"""Tag of the run of a pruned trial: the optimizer step at which it was pruned."""
SECONDS_TO_DIE = 1.0
"""How long a process may take to end after its connections are closed."""
LOSSES = ("train/loss", "val/loss")
Decision = Literal["continue", "prune", "stop"]


class NonFinite(Exception):  # noqa: N818 - read by people: the name is never shown
    """A loss or an optimized metric is missing or not finite."""


class TrialReporter(Callback):
    """Reports each validation, and ends the trial on all processes at the same step when the driver decides so.

    It runs before the callbacks that write checkpoints: a validation that the driver did not receive is repeated.

    Args:
        connection: to the driver; None on every process but the first, which broadcasts the decision.
        metrics: the optimized metrics.
    """

    def __init__(self, connection: Connection | None, metrics: Sequence[str]) -> None:
        self.connection, self.metrics = connection, metrics
        self.killed: Failed | None = None
        """Set when another process of the trial was ended from outside: any exception here is a consequence."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Send the id of the MLflow run to the driver, and leave it to this callback to judge losses."""
        for own in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(own, StopWhenNotFinite):
                own.is_on = False
        if self.connection is not None:
            assert isinstance(trainer.logger, MlflowLogger)
            self.connection.send(Started(trainer.logger.run_id))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report a validation; raise GivenUp, NonFinite or Terminated if the trial is to end."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        fault = _first_non_finite(values, self.metrics)
        decision: Decision = "stop" if fault else self._ask(trainer.global_step, values)
        fault, decision = trainer.strategy.broadcast((fault, decision))
        is_over = trainer.global_step >= trainer.estimated_stepping_batches  # pruning would save nothing
        if decision == "continue" or (decision == "prune" and is_over):
            return
        if not trainer.is_global_zero:
            raise SystemExit(0)  # with another status Lightning kills the first process, which has to report the end
        raise _end(trainer, decision, fault)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Detect whether another process of the trial was killed, which other exceptions follow from."""
        if isinstance(exception, GivenUp | NonFinite):  # raised here, on all processes at once
            return
        launcher = trainer.strategy.launcher
        others = launcher.procs if isinstance(launcher, _SubprocessScriptLauncher) else []
        if isinstance(exception, Exception) and any(_was_killed(other) for other in others):
            self.killed = Failed("one of its processes was ended from outside", "killed")

    def _ask(self, step: int, values: Mapping[str, float]) -> Decision:
        """Report to the driver and receive its decision; its death is a request to stop."""
        if self.connection is None:
            return "continue"
        try:
            self.connection.send(Report(step, {name: values[name] for name in self.metrics}))
            return "continue" if self.connection.recv() else "prune"
        except (EOFError, OSError):
            return "stop"


def _was_killed(process: "subprocess.Popen[bytes]") -> bool:
    """Whether a signal ended the process."""
    with suppress(subprocess.TimeoutExpired):
        return process.wait(timeout=SECONDS_TO_DIE) < 0
    return False


def _first_non_finite(values: Mapping[str, float], metrics: Sequence[str]) -> str:
    """Name the first loss or metric that is missing or not finite; "" if there is none."""
    wanted = [*metrics, *(name for name in LOSSES if name in values)]
    wrong = next((name for name in wanted if not math.isfinite(values.get(name, math.nan))), "")
    return wrong and f"{wrong} is {values.get(wrong, 'not measured')}"


def _end(trainer: pl.Trainer, decision: Decision, fault: str) -> BaseException:
    if fault:
        return NonFinite(f"{fault} at step {trainer.global_step}")
    if decision == "stop":
        return Terminated()
    assert isinstance(trainer.logger, MlflowLogger)
    trainer.logger.log_tags({"lightrail.trial_state": "PRUNED", GIVEN_UP_AT: str(trainer.global_step)})
    return GivenUp(trainer.global_step)
