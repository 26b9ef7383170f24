"""A signal stops training where nothing is lost, and a second one at once."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from lightrail.lightning_modules.optimization import OptimConfig
from lightrail.project.tracking.processes import Terminated
from lightrail.project.tracking.settings import CheckpointConfig
from lightrail.project.training.checkpoints import LastCheckpoint, place_checkpoints
from lightrail.project.training.stopping import SECONDS_OF_ONE_SIGNAL, StopRequest, slurm_job
from tests.support.tiny import Signs, fit, quiet_trainer

RARELY = CheckpointConfig(every_minutes=60)


class At(Callback):
    """Does something at the end of a training or validation batch."""

    def __init__(self, step: int, action: Callable[[], Any], *, in_validation: bool = False) -> None:
        self.step, self.action, self.in_validation = step, action, in_validation

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step and not self.in_validation:
            self.action()

    def on_validation_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step and self.in_validation:
            self.action()


def send(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def stop_at(folder: Path, *actions: Callback, **arguments: Any) -> int:
    """Train, and give the step of the last checkpoint."""
    last = LastCheckpoint(RARELY)
    callbacks = [*actions, last]
    trainer: dict[str, Any] = {"max_steps": 12, "max_epochs": -1, "enable_checkpointing": True, **arguments}
    place_checkpoints(quiet_trainer(callbacks=callbacks, enable_checkpointing=True), folder)
    try:
        fit(Signs(optim=OptimConfig(lr=0.1)), callbacks=callbacks, **trainer)
    finally:
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, "the handlers must be given back"
        path = folder / "last.ckpt"
        step = torch.load(path, weights_only=True)["global_step"] if path.exists() else 0
        (folder / "step").write_text(str(step))
    return int(step)


def step_in(folder: Path) -> int:
    return int((folder / "step").read_text())


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGTERM, Terminated), (signal.SIGHUP, Terminated), (signal.SIGINT, SystemExit)]
)
def test_a_signal_stops_after_its_step_with_a_checkpoint(
    tmp_path: Path, number: int, raised: type[BaseException]
) -> None:
    with pytest.raises(raised):
        stop_at(tmp_path, At(5, send(number)))
    assert step_in(tmp_path) == 5


def test_without_a_signal_training_ends_at_its_end(tmp_path: Path) -> None:
    assert stop_at(tmp_path) == 12


def test_a_signal_in_the_middle_of_a_step_waits_for_the_step(tmp_path: Path) -> None:
    seen: list[int] = []

    def count() -> None:
        seen.append(1)
        if len(seen) == 2:
            send(signal.SIGTERM)()

    with pytest.raises(Terminated):
        stop_at(tmp_path, At(0, count), accumulate_grad_batches=3)
    assert len(seen) == 2, "the signal came before the third batch, which ends the step"
    assert step_in(tmp_path) == 1


def test_a_signal_in_a_validation_waits_for_its_end(tmp_path: Path) -> None:
    ends: list[int] = []

    class Ends(Callback):
        def on_validation_end(self, trainer: Any, *_: Any) -> None:
            ends.append(trainer.global_step)

    validate = {"limit_val_batches": 1.0, "val_check_interval": 2, "check_val_every_n_epoch": None}
    with pytest.raises(Terminated):
        stop_at(tmp_path, At(4, send(signal.SIGTERM), in_validation=True), Ends(), **validate)
    assert (ends, step_in(tmp_path)) == ([2, 4], 4)


def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    def twice() -> None:
        send(signal.SIGTERM)()
        time.sleep(SECONDS_OF_ONE_SIGNAL * 1.1)
        send(signal.SIGTERM)()
        pytest.fail("still going on")

    with pytest.raises(Terminated):
        stop_at(tmp_path, At(5, twice))
    assert step_in(tmp_path) == 0


def test_one_signal_delivered_twice_is_one() -> None:
    stop = StopRequest()
    stop.listen()
    try:
        for _ in range(3):
            send(signal.SIGTERM)()
        assert stop.number == signal.SIGTERM
    finally:
        stop.ignore()


def test_a_process_forked_this_moment_leaves_signals_to_training(capfd: pytest.CaptureFixture[str]) -> None:
    """A worker of a loader, until it has set how it takes signals itself."""
    stop = StopRequest()
    stop.listen()
    try:
        worker = os.fork()
        if not worker:
            for number in (signal.SIGINT, signal.SIGTERM):
                send(number)()
            os._exit(int(stop.number))
        assert os.waitpid(worker, 0)[1] == 0
    finally:
        stop.ignore()
    assert capfd.readouterr().err == ""


def test_slurms_warning_signal_queues_the_job_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = tmp_path / "scontrol"
    command.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "417")
    with pytest.raises(Terminated):
        stop_at(tmp_path, At(5, send(signal.SIGUSR1)))
    assert step_in(tmp_path) == 5
    assert (tmp_path / "asked").read_text() == "requeue 417\n"


def test_an_array_job_is_queued_again_by_its_own_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "500")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "417")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert slurm_job() == "417_3"
