"""Tests that hold for every task: derive a class from `TaskContract` and say with which settings.

For another network, or other settings, of the same task derive from `NetworkContract`, which resumes from fewer states
of a run. Processes are forked (gloo): that tests what several processes compute, in tenths of a second.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightrail.datamodules.batches.batching import Batch, row_for_batch
from lightrail.lightning_modules.base import TaskModule
from lightrail.lightning_modules.checkpoint import read_checkpoint
from lightrail.lightning_modules.metrics.evaluation import ScoreSums
from lightrail.lightning_modules.networks.decoders.generation import GenerationConfig, TextWriter
from lightrail.lightning_modules.transfer.exported import load_exported
from lightrail.project.configuration import parse
from lightrail.project.exporting.writing import export
from lightrail.project.figures.run_figures import write_figures
from lightrail.project.library.predictor import load
from lightrail.project.models.generating import text_model
from lightrail.project.models.predictions import stored_scores, write_predictions
from lightrail.project.models.stored_model import StoredModel
from lightrail.project.running.build import Experiment, build
from lightrail.project.training.checkpoints import place_checkpoints
from lightrail.testing.resuming import BY_BATCHES, BY_EPOCHS, EVERY_STEP, check_every_state

WITHOUT_VALIDATION = ["--trainer.limit_val_batches=0"]
PRECISIONS = {"bf16-mixed": torch.float32, "bf16-true": torch.bfloat16, "64-true": torch.float64}
"""Value of `trainer.precision` to the format of the weights."""


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")  # a resumed run's own
class Contract(ABC):
    """Tests of a task with the settings of a tiny network, and rows written by the test.

    All are run in a temporary folder, with a cache of their own, on one thread.
    """

    expected_failures: ClassVar[Mapping[str, str]] = {}
    """Tests that the task cannot pass, by name, and the reason of each. They are run, and have to fail."""

    _checkpoint: ClassVar[Path]
    _whole: ClassVar[TaskModule]

    def __init_subclass__(cls) -> None:
        if unknown := [name for name in cls.expected_failures if not hasattr(cls, name)]:
            raise TypeError(f"{cls.__name__}.expected_failures names {unknown[0]}, which is no test of the contract")

    @pytest.fixture(autouse=True)
    def _alone(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("LIGHTRAIL_CACHE", str(tmp_path / "cache"))
        torch.set_num_threads(1)
        if reason := self.expected_failures.get(request.node.originalname):
            request.applymarker(pytest.mark.xfail(reason=reason, strict=True))

    @abstractmethod
    def settings(self, folder: Path) -> list[str]:
        """Write data into `folder` and return arguments, as for `lightrail fit`.

        The data has 8 training rows of different lengths, 11 test and 5 validation rows; dropout is above 0, batches
        are limited by `data.batch.size`.
        """

    def experiment(self, folder: Path, *more: str, checkpoint: Path | None = None) -> Experiment:
        """Build the experiment of these settings and `more`, on the CPU in float32."""
        quiet = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.precision=32-true"]
        configuration = parse(
            [*self.settings(folder), *quiet, "--data.batch.max_tokens=null", "--data.batch.size=8", *more]
        )
        return build(configuration, "test" if checkpoint else "fit", checkpoint)

    def fit(self, folder: Path, *more: str, keep: Path | None = None) -> TaskModule:
        """Train, keeping a checkpoint of each step in `keep`, if given; return the model with its last weights."""
        kept = [] if keep is None else [ModelCheckpoint(keep, filename="{step}", save_top_k=-1, every_n_train_steps=1)]
        own = ["--trainer.enable_checkpointing=false"] if keep is None else []
        experiment = self.experiment(folder, *more, *own)
        place_checkpoints(experiment.trainer, folder / "checkpoints")
        experiment.trainer.callbacks += kept  # type: ignore[attr-defined]
        experiment.trainer.fit(experiment.model, datamodule=experiment.data, weights_only=True)
        return experiment.model

    def test_every_trained_parameter_gets_a_gradient(self, tmp_path: Path) -> None:
        experiment = self.experiment(tmp_path, "--trainer.max_steps=1", "--data.batch.size=8")
        assert not without_gradient(experiment.model, experiment)

    def test_padding_changes_no_prediction(self, tmp_path: Path) -> None:
        experiment = self.experiment(tmp_path, "--trainer.max_steps=1")
        model, data = experiment.model.eval(), experiment.data
        rows = [row_for_batch(data.dataset("test"), number) for number in range(len(data.dataset("test")))]
        together = decoded(model, data.collate(rows))
        alone = [decoded(model, data.collate([row])) for row in rows]
        assert self.answers(together) == [self.answers(own)[0] for own in alone]
        if "loss" in together:  # with a joint head it depends on the other examples
            assert together["loss"] == pytest.approx([own["loss"][0] for own in alone], rel=1e-4)

    def test_a_checkpoint_restores_the_same_outputs_with_no_arguments(self, tmp_path: Path) -> None:
        trained = self.fit(tmp_path, "--trainer.max_steps=2", "--data.batch.size=4", keep=tmp_path / "kept").eval()
        restored = type(trained).load_from_checkpoint(tmp_path / "kept" / "step=2.ckpt").eval()
        batch = first_batch(self.experiment(tmp_path, "--trainer.max_steps=1"))
        assert decoded(restored, batch) == decoded(trained, batch)

    def test_an_exported_model_gives_the_same_outputs(self, tmp_path: Path) -> None:
        trained = self.fit(tmp_path, "--trainer.max_steps=2", "--data.batch.size=4", keep=tmp_path / "kept").eval()
        checkpoint = tmp_path / "kept" / "step=2.ckpt"
        export(StoredModel(read_checkpoint(checkpoint), str(checkpoint)), tmp_path / "exported", "safetensors")
        experiment = self.experiment(tmp_path, "--trainer.max_steps=1")
        batch = first_batch(experiment)
        assert decoded(load_exported(tmp_path / "exported"), batch) == decoded(trained, batch)
        moved = (tmp_path / "exported").rename(tmp_path / "elsewhere")
        modules = [type(own).__module__ for own in (experiment.model, experiment.data)]
        data = Path(experiment.data.test_path or experiment.data.path)
        found, expected = (load(path, allow_modules=modules)(data) for path in (moved, checkpoint))
        assert found
        assert found == expected
        assert str(tmp_path) not in (moved / "lightrail.json").read_text(encoding="utf-8")

    def test_a_run_that_starts_from_another_one_begins_with_its_outputs(self, tmp_path: Path) -> None:
        """Where the data is the same; `model.init_from`."""
        checkpoint = self.checkpoint(tmp_path)
        experiment = self.experiment(tmp_path, "--trainer.max_steps=1", f"--model.init_from={checkpoint}")
        before, batch = type(experiment.model).load_from_checkpoint(checkpoint).eval(), first_batch(experiment)
        assert decoded(experiment.model.eval(), batch) == decoded(before, batch)

    def test_eight_examples_can_be_learned(self, tmp_path: Path) -> None:
        arguments = ["--trainer.max_steps=80", "--model.optim.lr=0.01", *WITHOUT_VALIDATION]
        model = self.fit(tmp_path, *arguments).eval()
        experiment = self.experiment(tmp_path, *arguments)
        columns = decoded(model, first_batch(experiment))
        assert len(self.answers(columns)) == 8
        assert self.is_learned(columns)

    @pytest.mark.parametrize("precision", PRECISIONS)
    def test_it_learns_in_every_number_format(self, tmp_path: Path, precision: str) -> None:
        steps = ["--trainer.max_steps=20", "--trainer.check_val_every_n_epoch=20", "--model.optim.lr=0.01"]
        arguments = [*steps, *self.without_dropout()]
        batch = first_batch(self.experiment(tmp_path, *arguments))
        before = self.experiment(tmp_path, *arguments).model
        after = self.fit(tmp_path, *arguments, f"--trainer.precision={precision}")
        assert {parameter.dtype for parameter in after.parameters()} == {PRECISIONS[precision]}
        assert after.loss(after(batch), batch)[0] < 0.8 * before.loss(before(batch), batch)[0]

    @pytest.mark.parametrize("size", [1, 3, 11])
    def test_metrics_are_equal_for_any_batch_size(self, tmp_path: Path, size: int) -> None:
        checkpoint = self.checkpoint(tmp_path)
        expected = self.metrics(tmp_path, checkpoint, "--data.batch.size=4")
        assert self.metrics(tmp_path, checkpoint, f"--data.batch.size={size}") == pytest.approx(expected, rel=1e-5)

    def test_metrics_of_a_test_follow_from_the_stored_predictions(self, tmp_path: Path) -> None:
        checkpoint = self.checkpoint(tmp_path)
        experiment = self.experiment(tmp_path, "--trainer.max_steps=1", "--data.batch.size=4", checkpoint=checkpoint)
        logged = self.evaluate(experiment)
        assert experiment.predictions.table is not None
        own = experiment.model.scores()
        write_predictions(experiment.predictions.table, tmp_path, own, next(iter(own)))
        table = pa.parquet.read_table(tmp_path / "predictions" / "test.parquet")
        scores, main_metric = stored_scores(table) or ({}, "")
        columns = {name: table[name].to_numpy() for name in table.column_names}
        computed = {f"test/{name}": score.of(columns) for name, score in scores.items()}
        assert computed == pytest.approx(logged, rel=1e-5)
        assert main_metric in scores

    @pytest.mark.parametrize("num_processes", [2, 3])
    def test_metrics_are_equal_for_any_number_of_processes(self, tmp_path: Path, num_processes: int) -> None:
        checkpoint = self.checkpoint(tmp_path)
        one = self.metrics(tmp_path, checkpoint, "--data.batch.size=4")
        several = self.metrics(tmp_path, checkpoint, "--data.batch.size=4", *processes(num_processes))
        assert several == pytest.approx(one, rel=1e-5)

    @pytest.mark.parametrize(
        ("batch_size", "accumulation", "num_processes"), [(2, 4, 1), (3, 3, 1), (8, 1, 2), (8, 1, 3), (3, 3, 2)]
    )
    def test_however_a_batch_is_divided_the_gradient_is_the_same(
        self, tmp_path: Path, batch_size: int, accumulation: int, num_processes: int
    ) -> None:
        one_step = ["--trainer.max_steps=1", "--trainer.gradient_clip_val=null", *WITHOUT_VALIDATION]
        one_step += self.without_dropout()
        plain_step = ["--model.optim.optimizer=sgd", "--model.optim.lr=1", "--model.optim.warmup_fraction=0"]
        if "_whole" not in vars(type(self)):
            type(self)._whole = self.fit(tmp_path, *one_step, *plain_step, "--data.batch.size=8")
        whole = type(self)._whole
        divided = self.fit(
            tmp_path,
            *one_step,
            *plain_step,
            f"--data.batch.size={batch_size}",
            f"--trainer.accumulate_grad_batches={accumulation}",
            *(processes(num_processes) if num_processes > 1 else []),
        )
        for (name, expected), found in zip(whole.named_parameters(), divided.parameters(), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6, msg=name)

    def answers(self, columns: dict[str, Any]) -> list[Any]:
        """Return the prediction for each example, of the columns that `decode` returns."""
        return list(columns["prediction"])

    def is_learned(self, columns: dict[str, Any]) -> bool:
        """Return whether the model predicts all examples, of the columns that `decode` returns."""
        return bool(columns["prediction"] == columns["target"])

    def without_dropout(self) -> list[str]:
        """Return arguments that switch off every random part of the network."""
        return ["--model.encoder.dropout=0", "--model.encoder.ngram_dropout=0"]

    def checkpoint(self, folder: Path) -> Path:
        """Return that of a model that has learned a little: no metric is 0 or 1. It is trained once for each class."""
        if "_checkpoint" not in vars(type(self)):
            self.fit(folder, "--trainer.max_steps=3", "--data.batch.size=4", keep=folder / "kept")
            type(self)._checkpoint = folder / "kept" / "step=3.ckpt"
        return type(self)._checkpoint

    def metrics(self, folder: Path, checkpoint: Path, *more: str) -> dict[str, float]:
        """Return the test metrics of a checkpoint."""
        experiment = self.experiment(folder, "--trainer.max_steps=1", *more, checkpoint=checkpoint)
        return self.evaluate(experiment)

    def evaluate(self, experiment: Experiment) -> dict[str, float]:
        """Return the test metrics of an experiment."""
        experiment.trainer.test(experiment.model, datamodule=experiment.data, verbose=False)
        metrics = {name: float(value) for name, value in experiment.trainer.callback_metrics.items()}
        assert metrics
        return metrics


class NetworkContract(Contract):
    """Tests of a further network, or of other settings, of a task that keeps `TaskContract`."""

    def test_a_state_in_the_middle_of_a_run_leads_to_the_same_bits(self, tmp_path: Path) -> None:
        arguments = [*BY_EPOCHS, *EVERY_STEP, "--data.batch.size=2"]
        assert check_every_state(lambda: self.experiment(tmp_path, *arguments), tmp_path, only=[2]) >= 5


class TaskContract(Contract):
    """Tests of a task with the network that it has by default."""

    @pytest.mark.parametrize(
        ("schedule", "num_workers"),
        [
            (BY_BATCHES, 0),
            (BY_EPOCHS, 0),
            ([*BY_BATCHES, "--trainer.accumulate_grad_batches=2"], 0),
            (BY_EPOCHS, 2),
        ],
        ids=["steps", "epochs", "accumulation", "epochs with workers"],
    )
    def test_every_state_of_a_run_leads_to_the_same_bits(
        self, tmp_path: Path, schedule: list[str], num_workers: int
    ) -> None:
        arguments = [*schedule, *EVERY_STEP, "--data.batch.size=2", f"--data.batch.num_workers={num_workers}"]
        only = [1, 3, 4] if num_workers else None  # starting workers takes time
        assert check_every_state(lambda: self.experiment(tmp_path, *arguments), tmp_path, only) >= 5

    def test_a_validation_gives_the_scores_of_its_decoded_columns(self, tmp_path: Path) -> None:
        """However `update` computes them."""
        checkpoint = self.checkpoint(tmp_path)
        experiment = self.experiment(tmp_path, "--trainer.max_steps=1", "--data.batch.size=4", checkpoint=checkpoint)
        model, loader = experiment.model.eval(), experiment.data.val_dataloader()
        scores = {name: score for name, score in model.val_scores().items() if name != "loss"}
        assert model.monitor in {"val/loss", *(f"val/{name}" for name in scores)}
        found, expected = ScoreSums(scores), ScoreSums(scores)
        for batch in loader:
            with torch.inference_mode():
                model.update(found, outputs := model(batch), batch)
                expected.update(model.decode(outputs, batch))
        assert found.compute() == pytest.approx(expected.compute(), rel=1e-6, nan_ok=True)

    def test_every_figure_of_a_test_is_drawn(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        checkpoint = self.checkpoint(tmp_path)
        experiment = self.experiment(tmp_path, "--trainer.max_steps=1", checkpoint=checkpoint)
        self.evaluate(experiment)
        table = experiment.predictions.table
        assert table is not None
        write_figures(experiment.data, experiment.model, table, {"val/loss": [(1, 1.0)]}, tmp_path / "run")
        assert "cannot be drawn" not in caplog.text
        assert (tmp_path / "run" / "figures" / "learning_curves.png").stat().st_size

    def test_a_task_that_writes_text_writes_the_same_again(self, tmp_path: Path) -> None:
        model = self.experiment(tmp_path, "--trainer.max_steps=1").model
        if not isinstance(model, TextWriter):
            pytest.skip("the task writes no text")
        writer = text_model(model, "the model")
        prompt, config = writer.prompt_ids("a"), GenerationConfig(max_tokens=4, seed=1)
        first, again = (list(writer.samples(prompt, config, num_samples=2)) for _ in range(2))
        assert first == again
        assert all(len(step) == 2 for step in first)


def processes(number: int) -> list[str]:
    """Return arguments for a number of forked processes."""
    return [f"--trainer.devices={number}", "--trainer.strategy=ddp_fork"]


def first_batch(experiment: Experiment) -> Batch:
    """Return the first training batch."""
    batch: Batch = next(iter(experiment.data.train_dataloader()))
    return batch


def without_gradient(model: TaskModule, experiment: Experiment) -> list[str]:
    """Return the names of trained parameters that get no gradient from the first batch."""
    loss, _ = model.loss(*outputs_and_batch(model.train(), experiment))
    loss.backward()  # type: ignore[no-untyped-call]
    return [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.any())
    ]


def outputs_and_batch(model: TaskModule, experiment: Experiment) -> tuple[Any, Batch]:
    """Return the model's outputs for the first training batch, and the batch."""
    batch = first_batch(experiment)
    return model(batch), batch


@torch.inference_mode()
def decoded(model: TaskModule, batch: Batch) -> dict[str, Any]:
    """Return the columns of a batch's predictions, arrays as lists."""
    columns = model.decode(model(batch), batch)
    return {
        name: [own.tolist() if isinstance(own, np.ndarray) else own for own in values]
        for name, values in columns.items()
    }
