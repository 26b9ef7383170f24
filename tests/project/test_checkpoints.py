"""A checkpoint is there whole or as it was before, and the best is the best."""

import errno
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from lightrail.lightning_modules.optimization import OptimConfig
from lightrail.project.basics.durable import remove_unfinished
from lightrail.project.basics.errors import ConfigError
from lightrail.project.tracking.settings import CheckpointConfig
from lightrail.project.training.checkpoints import (
    DurableCheckpointIO,
    LastCheckpoint,
    best_checkpoint,
    checkpoint_callbacks,
    place_checkpoints,
)
from tests.support.tiny import Signs, fit, quiet_trainer

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
CONFIGURATION = {"seed_everything": 3, "model": {"class_path": "Signs", "init_args": {"width": 2}}}
OFTEN = CheckpointConfig(every_minutes=0)
STILL = OptimConfig(optimizer="sgd", lr=1e-12, warmup_fraction=0)


def writer() -> DurableCheckpointIO:
    return DurableCheckpointIO(CONFIGURATION)


def stored(path: Path) -> dict[str, Any]:
    checkpoint: dict[str, Any] = torch.load(path, weights_only=True)
    return checkpoint


def test_each_checkpoint_carries_its_configuration(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.ckpt"
    writer().save_checkpoint({"epoch": 2}, path)
    assert stored(path) == {"epoch": 2, "configuration": CONFIGURATION, "run": {}}
    assert writer().load_checkpoint(path, weights_only=True) == stored(path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ConfigError, match=r"a\.ckpt is not a checkpoint that can be read: .*Restore it"):
        writer().load_checkpoint(path, weights_only=True)


def write_half(content: Any, stream: Any) -> None:
    stream.write(b"half a checkpoint")
    raise KeyboardInterrupt


def run_out_of_space(content: Any, stream: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(("failure", "error"), [(write_half, KeyboardInterrupt), (run_out_of_space, OSError)])
def test_what_goes_wrong_while_writing_leaves_the_file_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Any, error: type[BaseException]
) -> None:
    path = tmp_path / "last.ckpt"
    writer().save_checkpoint({"epoch": 1}, path)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", failure)
        with pytest.raises(error):
            writer().save_checkpoint({"epoch": 2}, path)
    assert stored(path)["epoch"] == 1
    assert os.listdir(tmp_path) == ["last.ckpt"]


def test_a_disk_that_is_found_full_at_the_end_leaves_the_file_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.ckpt"
    writer().save_checkpoint({"epoch": 1}, path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: run_out_of_space(None, None))
        with pytest.raises(OSError, match="No space left"):
            writer().save_checkpoint({"epoch": 2}, path)
    assert stored(path)["epoch"] == 1
    assert os.listdir(tmp_path) == ["last.ckpt"]


def test_a_process_killed_while_writing_leaves_the_file_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.ckpt"
    writer().save_checkpoint({"epoch": 1}, path)

    def write_half_and_die(content: Any, stream: Any) -> None:
        stream.write(b"half a checkpoint")
        stream.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    process = os.fork()
    if process == 0:
        monkeypatch.setattr(torch, "save", write_half_and_die)
        writer().save_checkpoint({"epoch": 2}, path)
        os._exit(0)
    assert os.waitpid(process, 0)[1] == signal.SIGKILL
    assert stored(path)["epoch"] == 1
    assert sorted(os.listdir(tmp_path)) == ["last.ckpt", "last.ckpt.unfinished"]
    remove_unfinished(tmp_path)
    assert os.listdir(tmp_path) == ["last.ckpt"]
    writer().save_checkpoint({"epoch": 3}, path)
    assert stored(path)["epoch"] == 3
    assert os.listdir(tmp_path) == ["last.ckpt"]


class Script(Callback):
    """Sets the weights of each epoch: 1 tells every point right, -1 every point wrong."""

    def __init__(self, *qualities: float) -> None:
        self.qualities = qualities

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Signs)
        direction = self.qualities[trainer.current_epoch] * torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
        with torch.no_grad():
            pl_module.head.weight.copy_(direction)
            pl_module.head.bias.zero_()


def fit_script(folder: Path, *qualities: float, given: list[Callback] | None = None, **more: Any) -> Trainer:
    model, given = Signs(optim=STILL), given or []
    callbacks = [Script(*qualities), *given, *checkpoint_callbacks(model, given, OFTEN)]
    own_writer = writer()
    own_writer.run = {"id": "a", "folder": str(folder)}
    arguments: dict[str, Any] = {
        "enable_checkpointing": True,
        "limit_val_batches": 1.0,
        "plugins": [own_writer],
        **more,
    }
    place_checkpoints(quiet_trainer(callbacks=callbacks, enable_checkpointing=True), folder)
    return fit(model, max_epochs=len(qualities), callbacks=callbacks, **arguments)


def quality(path: Path) -> float:
    return round(float(stored(path)["state_dict"]["head.weight"][0, 0]), 3)


@pytest.mark.parametrize(
    ("qualities", "best"), [((-1.0, 1.0, -2.0), 1.0), ((1.0, -1.0), 1.0), ((-1.0, -2.0, 3.0), 3.0)]
)
def test_the_best_and_the_last_checkpoint_are_kept(tmp_path: Path, qualities: tuple[float, ...], best: float) -> None:
    trainer = fit_script(tmp_path, *qualities)
    assert sorted(os.listdir(tmp_path)) == ["best.ckpt", "last.ckpt"]
    assert quality(tmp_path / "best.ckpt") == best
    assert quality(tmp_path / "last.ckpt") == qualities[-1]
    assert stored(tmp_path / "last.ckpt")["epoch"] == len(qualities) - 1
    kept = best_checkpoint(trainer.callbacks)  # type: ignore[attr-defined]
    assert kept is not None
    assert kept.best_model_path == str(tmp_path / "best.ckpt")
    assert kept.best_model_score == 1.0


def test_the_last_checkpoint_can_be_resumed_from_and_the_best_can_be_loaded(tmp_path: Path) -> None:
    fit_script(tmp_path, 1.0, -1.0)
    assert {"optimizer_states", "lr_schedulers", "loops"} <= stored(tmp_path / "last.ckpt").keys()
    assert "optimizer_states" not in stored(tmp_path / "best.ckpt")
    for name in ("best", "last"):
        assert stored(tmp_path / f"{name}.ckpt")["configuration"] == CONFIGURATION
        Signs.load_from_checkpoint(tmp_path / f"{name}.ckpt")


def test_a_given_checkpoint_with_a_metric_decides_what_is_best(tmp_path: Path) -> None:
    given = ModelCheckpoint(filename="own", monitor="val/loss", mode="min")
    trainer = fit_script(tmp_path, 0.5, 2.0, -1.0, given=[EarlyStopping("val/loss", patience=9), given])
    assert sorted(os.listdir(tmp_path)) == ["last.ckpt", "own.ckpt"]
    assert quality(tmp_path / "own.ckpt") == 2.0
    assert best_checkpoint(trainer.callbacks) is given  # type: ignore[attr-defined]


def test_a_given_checkpoint_without_a_metric_decides_nothing() -> None:
    periodic = ModelCheckpoint(filename="{step}", every_n_train_steps=5, save_top_k=-1)
    assert best_checkpoint([EarlyStopping("val/loss"), periodic]) is None
    assert kinds_of(checkpoint_callbacks(Signs(), [periodic], OFTEN)) == [ModelCheckpoint, LastCheckpoint]


def kinds_of(callbacks: Sequence[Callback]) -> list[type]:
    return [type(callback) for callback in callbacks]


def test_checkpoints_go_to_the_runs_folder_unless_they_have_one(tmp_path: Path) -> None:
    own, other = ModelCheckpoint(), ModelCheckpoint(dirpath=tmp_path / "elsewhere", monitor="val/loss")
    last = LastCheckpoint(OFTEN)
    trainer = quiet_trainer(callbacks=[own, other, last], enable_checkpointing=True)
    place_checkpoints(trainer, tmp_path / "run")
    assert (own.dirpath, other.dirpath) == (str(tmp_path / "run"), str(tmp_path / "elsewhere"))
    assert last.path == tmp_path / "run" / "last.ckpt"


def test_a_resumed_run_knows_which_callback_kept_which_checkpoint(tmp_path: Path) -> None:
    def newest() -> ModelCheckpoint:
        return ModelCheckpoint(filename="own-{epoch}")

    fit_script(tmp_path, -1.0, 1.0, given=[newest()])
    fit_script(tmp_path, 0.0, 0.0, 2.0, given=[newest()], resume_from=tmp_path / "last.ckpt")
    assert sorted(os.listdir(tmp_path)) == ["best.ckpt", "last.ckpt", "own-epoch=2.ckpt"]
    assert quality(tmp_path / "last.ckpt") == 2.0


def test_a_state_is_written_at_the_given_steps_and_times(tmp_path: Path) -> None:
    def states(config: CheckpointConfig) -> list[int]:
        found: list[int] = []
        model, last = Signs(optim=STILL), LastCheckpoint(config)
        place_checkpoints(quiet_trainer(callbacks=[last], enable_checkpointing=True), tmp_path)
        last.after_saving = lambda: found.append(stored(tmp_path / "last.ckpt")["global_step"])
        fit(model, max_steps=8, max_epochs=-1, callbacks=[last], enable_checkpointing=True, plugins=[writer()])
        return found

    assert states(CheckpointConfig(every_minutes=60)) == [8], "the end is always kept"
    assert states(CheckpointConfig(every_minutes=60, every_steps=4)) == [4, 8]
    assert states(CheckpointConfig(every_minutes=0)) == list(range(1, 9))


def test_a_best_score_is_not_forgotten_when_the_run_has_moved(tmp_path: Path) -> None:
    fit_script(tmp_path / "here", -1.0, 1.0)
    checkpoint = stored(tmp_path / "here" / "last.ckpt")
    assert checkpoint["run"] == {"id": "a", "folder": str(tmp_path / "here")}
    (tmp_path / "here").rename(tmp_path / "there")
    fit_script(tmp_path / "there", 0.0, 0.0, -1.0, resume_from=tmp_path / "there" / "last.ckpt")
    assert quality(tmp_path / "there" / "best.ckpt") == 1.0, "a worse one has taken its place"
    assert quality(tmp_path / "there" / "last.ckpt") == -1.0
    assert not (tmp_path / "here").exists()
