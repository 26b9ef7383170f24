"""What the base does for every task: checkpoints that need no trust, steps that wait for nothing, true curves."""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils._python_dispatch import TorchDispatchMode

from lightrail.lightning_modules.base import TaskModule
from lightrail.lightning_modules.checkpoint import read_checkpoint
from lightrail.lightning_modules.metrics.evaluation import ScoreSums
from lightrail.lightning_modules.metrics.scores import Columns, Score
from lightrail.lightning_modules.networks.encoders.transformer import TransformerConfig
from lightrail.lightning_modules.optimization import OptimConfig
from lightrail.lightning_modules.text_classification import TextClassifier
from lightrail.project.basics.errors import ConfigError
from lightrail.testing.resuming import Curves
from tests.support.tiny import Points, Signs, fit, points_loader, quiet_trainer

STILL = OptimConfig(optimizer="sgd", lr=1e-12, warmup_fraction=0)
"""Weights stay as they are, so that every loss can be computed by hand."""


@final
class Intruder:
    """What a pickle runs when it is trusted."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("intruder-was-here"),))


def losses_by_hand(model: Signs, number: int) -> np.ndarray:
    points = Points(number)
    with torch.no_grad():
        logits = model.head(torch.from_numpy(points.points))
        return F.cross_entropy(logits, torch.from_numpy(points.labels), reduction="none").numpy()


def kept(folder: Path, model: TaskModule | None = None, **arguments: Any) -> Path:
    """A checkpoint that Lightning wrote after two steps."""
    each = ModelCheckpoint(folder, filename="{step}", save_top_k=-1, every_n_train_steps=1)
    model = model or Signs(width=2, dropout=0.25, optim=OptimConfig(lr=0.1))
    fit(model, max_steps=2, callbacks=[each], enable_checkpointing=True, **arguments)
    return folder / "step=2.ckpt"


def test_a_checkpoint_builds_its_task_again_with_no_arguments(tmp_path: Path) -> None:
    model = Signs(width=2, dropout=0.25, optim=OptimConfig(lr=0.1, freeze=["nothing"][:0]))
    restored = Signs.load_from_checkpoint(kept(tmp_path, model))
    assert (restored.dropout.p, restored.optim) == (0.25, model.optim)
    for name, value in model.state_dict().items():
        assert torch.equal(restored.state_dict()[name], value)


def test_a_checkpoint_of_another_task_is_refused(tmp_path: Path) -> None:
    checkpoint = kept(tmp_path)
    with pytest.raises(ConfigError, match=r"step=2\.ckpt is a checkpoint of Signs, not of TextClassifier"):
        TextClassifier.load_from_checkpoint(checkpoint)


def test_a_damaged_or_missing_checkpoint_is_refused(tmp_path: Path) -> None:
    content = kept(tmp_path).read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"no checkpoint at all"):
        (tmp_path / "damaged.ckpt").write_bytes(damaged)
        with pytest.raises(ConfigError, match=r"damaged\.ckpt is not a checkpoint that can be read"):
            Signs.load_from_checkpoint(tmp_path / "damaged.ckpt")
    with pytest.raises(ConfigError, match=r"gone\.ckpt: no such checkpoint\. Name a file, or runs:/RUN_ID"):
        Signs.load_from_checkpoint(tmp_path / "gone.ckpt")
    with pytest.raises(ConfigError, match=r"holds no exported model: lightrail\.json cannot be read"):
        Signs.load_from_checkpoint(tmp_path)


@pytest.mark.parametrize("content", [{"state_dict": {}}, [1, 2], torch.zeros(2)])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(ConfigError, match=r"other\.ckpt is not a checkpoint of a lightrail task"):
        read_checkpoint(tmp_path / "other.ckpt")


def test_a_checkpoint_holds_nothing_that_must_be_trusted(tmp_path: Path) -> None:
    model = TextClassifier(["a"], ["x", "y"], [1, 1], encoder=TransformerConfig(width=8, depth=1, num_heads=2))
    path = tmp_path / "model.ckpt"
    trainer = quiet_trainer()
    trainer.strategy.connect(model)
    trainer.save_checkpoint(path)
    stored = torch.load(path, weights_only=True)
    assert stored["task"] == "lightrail.lightning_modules.text_classification.TextClassifier"
    assert TextClassifier.load_from_checkpoint(path).hparams["encoder"].width == 8


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_nothing_in_a_checkpoint_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"task": "x", "surprise": Intruder()}, "bad.ckpt")
    Path("plain.ckpt").write_bytes(pickle.dumps({"task": "x", "surprise": Intruder()}))
    for name in ("bad.ckpt", "plain.ckpt"):
        with pytest.raises(ConfigError, match=rf"{name} is not a checkpoint that can be read: .* never done\."):
            Signs.load_from_checkpoint(name)
    assert not Path("intruder-was-here").exists()


def test_settings_out_of_range_are_refused_when_a_task_is_built() -> None:
    with pytest.raises(ConfigError, match=r"OptimConfig\.lr: expected a number above 0, found -1"):
        Signs(optim=OptimConfig(lr=-1))


class Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes each operation that must wait for the device, since the host asks for a value or for how many there are."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "repeat_interleave")

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        selects = "index" in name and any(place is not None and place.dtype == torch.bool for place in args[1])
        if selects or any(waiting in name for waiting in self.WAITING):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@contextmanager
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Note what waits for the device, through torch's dispatcher or past it."""
    with monkeypatch.context() as patch, Reads() as reads:
        for name in ("tolist", "numpy", "item", "__float__", "__int__", "__bool__", "__array__"):
            original = getattr(torch.Tensor, name)

            def noted(self: torch.Tensor, *args: Any, _name: str = name, _original: Any = original) -> Any:
                reads.found.append(_name)
                return _original(self, *args)

            patch.setattr(torch.Tensor, name, noted)
        yield reads.found


class Watch(pl.Callback):
    """Watches each training batch from before its step to after its optimizer's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        self.found: list[list[str]] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.context = watched(self.monkeypatch)
        self.found.append(self.context.__enter__())

    def on_train_batch_end(self, *_: Any) -> None:
        self.context.__exit__(None, None, None)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_training_step_waits_for_no_value(monkeypatch: pytest.MonkeyPatch, accumulation: int) -> None:
    watch = Watch(monkeypatch)
    rare: dict[str, Any] = {"accumulate_grad_batches": accumulation, "log_every_n_steps": 100}
    fit(Signs(dropout=0.1), points_loader(16), max_steps=4, callbacks=[watch], **rare)
    assert watch.found == [[]] * 4 * accumulation


def test_what_waits_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    value = torch.ones(2)
    with watched(monkeypatch) as found:
        float(value[0])
        value.tolist()
        value[value > 0]
        bool(value.any())
    assert found == ["__float__", "_local_scalar_dense", "tolist", "index", "__bool__", "_local_scalar_dense"]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_logged_training_loss_is_the_mean_over_all_targets_since_the_last_point(accumulation: int) -> None:
    model, curves = Signs(optim=STILL), Curves()
    losses = losses_by_hand(model, 10)  # batches of 4, 4 and 2: their means must not be averaged
    every: dict[str, Any] = {"log_every_n_steps": 2, "accumulate_grad_batches": accumulation}
    fit(model, points_loader(10), max_epochs=3, logger=curves, **every)
    if accumulation == 1:  # steps of 4, 4, 2, 4, 4, 2, ... examples
        expected = {2: losses[:8], 4: np.append(losses[8:], losses[:4]), 6: losses[4:], 8: losses[:8]}
    else:  # of 8 and 2
        expected = dict.fromkeys((2, 4, 6), losses)
    assert curves.of("train/loss") == pytest.approx({step: own.mean() for step, own in expected.items()})


def test_the_learning_rate_is_logged_with_the_step_that_uses_it() -> None:
    curves = Curves()
    optim = OptimConfig(optimizer="sgd", lr=0.5, warmup_fraction=0)
    fit(Signs(optim=optim), max_steps=4, logger=curves)
    assert curves.of("train/learning_rate") == pytest.approx({1: 0.5, 2: 0.375, 3: 0.25, 4: 0.125})


def test_evaluation_counts_every_example_once() -> None:
    model, curves = Signs(optim=STILL), Curves()
    model.is_tracked = True
    losses = losses_by_hand(model, 10)
    points = Points(10)
    with torch.no_grad():
        accuracy = (model.head(torch.from_numpy(points.points)).argmax(-1).numpy() == points.labels).mean()
    trainer = fit(model, max_epochs=2, logger=curves, num_sanity_val_steps=2, limit_val_batches=1.0)
    assert curves.of("val/loss") == pytest.approx({3: losses.mean(), 6: losses.mean()})  # and none of the sanity check
    assert curves.of("val/accuracy") == pytest.approx({3: accuracy, 6: accuracy})
    trainer.test(model, points_loader(10, size=3), verbose=False)
    assert trainer.callback_metrics["test/loss"] == pytest.approx(losses.mean())
    assert trainer.callback_metrics["test/accuracy"] == pytest.approx(accuracy)


def test_a_filler_counts_for_nothing() -> None:
    model, trainer = Signs(), quiet_trainer()
    trainer.strategy.connect(model)
    model.trainer = trainer
    batch = {**next(iter(points_loader())), "is_filler": True}
    model.training_step(batch, 0)
    assert (model.num_targets, model.loss_window.num_targets, float(model.loss_window.total)) == (0, 0, 0.0)
    assert model.test_step(batch, 0) == {}
    assert model.predict_step(batch, 0) == {}
    assert not model.test_loss.num_targets
    assert model.test_step({**batch, "is_filler": False}, 0)["id"] == batch["id"]
    assert model.test_loss.num_targets == 4


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_the_curve_of_a_resumed_run_is_that_of_one_that_was_not_interrupted(tmp_path: Path) -> None:
    def points(resume_from: Path | None) -> list[tuple[int, dict[str, float]]]:
        curves = Curves()
        each = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=1)
        arguments: dict[str, Any] = {"max_steps": 9, "log_every_n_steps": 3, "enable_checkpointing": True}
        torch.manual_seed(0)
        model = Signs(optim=OptimConfig(lr=0.1))
        fit(model, callbacks=[each], logger=curves, resume_from=resume_from, **arguments)
        return curves.points

    whole = points(None)
    assert [step for step, _ in whole] == [3, 6, 9]
    for step in range(1, 9):
        resumed = points(tmp_path / f"step={step}.ckpt")
        assert resumed == whole[step // 3 :], step


def test_processes_that_share_the_memory_of_a_task_add_up_losses_of_their_own() -> None:
    model = Signs()
    shared: torch.Tensor = model.loss_window.total.share_memory_()  # type: ignore[no-untyped-call]  # as torch does with the tensors of what it sends to a process
    fit(model, max_steps=1, log_every_n_steps=2)
    assert float(model.loss_window.total) > 0
    assert float(shared) == 0


def test_metrics_of_an_evaluation_are_logged_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """NCCL reduces no tensor of the CPU."""
    model, logged = Signs(), {}
    model.trainer = quiet_trainer(max_steps=1)
    model.val_loss.update(torch.tensor(1.0), 1)
    monkeypatch.setattr(Signs, "device", torch.device("meta"))
    monkeypatch.setattr(model, "log_dict", lambda values, **_: logged.update(values))
    model.on_validation_epoch_end()
    assert logged["val/accuracy"].device == torch.device("meta")
    assert logged["val/accuracy"].dtype == torch.float64


def test_sums_of_a_score_are_exact_whatever_its_rows_are() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Total(Score):
        def statistics(self, columns: Columns) -> Any:
            return columns["x"].astype(np.float32)[:, None]

        def value(self, sums: Any) -> Any:
            return sums[..., 0]

    sums = ScoreSums({"total": Total()})
    sums.update({"x": [2.0**24]})
    for _ in range(10):
        sums.update({"x": [1.0]})
    assert sums.compute() == {"total": 2.0**24 + 10}
