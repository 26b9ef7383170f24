"""Settings of the trainer that do not fit the data, and callbacks that cannot work: refused before there is a run."""

from contextlib import nullcontext
from pathlib import Path

import lightning.pytorch as pl
import pytest

from lightrail.project.basics.errors import ConfigError
from lightrail.project.configuration import parse
from lightrail.project.running.build import Experiment, Stage, build
from lightrail.project.running.limits import check_processes
from tests.support.running import QUIET
from tests.support.tasks.text_classification import write_texts

SMALL = ["width=16", "depth=1", "num_heads=2", "ngram_orders=[]"]


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Settings of a task whose training split has 4 batches, and whose other splits have 3 and 6."""
    data = write_texts(tmp_path_factory.mktemp("texts"))
    network = [f"--model.encoder.{size}" for size in SMALL]
    return [*data, *network, *QUIET, "--data.batch.max_tokens=null", "--data.batch.size=2", "--trainer.max_epochs=2"]


def built(task: list[str], *settings: str, stage: Stage = "fit") -> Experiment:
    return build(parse([*task, "--trainer.val_check_interval=1.0", *settings]), stage)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("val_check_interval=100", "val_check_interval is 100, and an epoch has"),
        ("val_check_interval=0", "val_check_interval is 0. For no validation"),
        ("val_check_interval=0.0", "val_check_interval is 0. For no validation"),
        ("val_check_interval=00:00:00:00", "val_check_interval is 0 seconds. For no validation"),
        ("val_check_interval={minutes: -1}", "val_check_interval is -60 seconds. For no validation"),
        ("barebones=true", "barebones is true: Lightning then logs nothing"),
        ("overfit_batches=2.0", "overfit_batches is 2, a share above 1"),
        ("overfit_batches=1e+308", r"overfit_batches is 1e\+308, a share above 1"),
        ("limit_train_batches=0.01", "limit_train_batches is 0.01, less than one of the"),
        ("limit_val_batches=0.01", "limit_val_batches is 0.01, less than one of the"),
        ("limit_test_batches=0.01", "limit_test_batches is 0.01, less than one of the"),
        ("overfit_batches=0.01", "overfit_batches is 0.01, less than one of the"),
        ("accumulate_grad_batches=100", "accumulate_grad_batches is 100, and an epoch has"),
        ("check_val_every_n_epoch=3", "check_val_every_n_epoch is 3, more than trainer.max_epochs"),
        ("check_val_every_n_epoch=0", "expected a whole number of at least 1 or null, found 0"),
        ("check_val_every_n_epoch=-1", "expected a whole number of at least 1 or null, found -1"),
        ("num_sanity_val_steps=-2", "expected a whole number of at least -1 or null, found -2"),
        ("log_every_n_steps=-1", "expected a whole number of at least 0 or null, found -1"),
        ("max_time=00:00:00:00", "max_time, or the duration of a Timer, is not above 0"),
        ("max_time={}", "max_time, or the duration of a Timer, is not above 0"),
        ("max_time={hours: -1}", "max_time, or the duration of a Timer, is not above 0"),
        ("max_time={hors: 1}", "trainer: 'hors' is an invalid keyword"),
        ("callbacks=[LearningRateFinder]", "LearningRateFinder cannot be used here: .*check --find lr"),
        ("callbacks=[BatchSizeFinder]", "BatchSizeFinder cannot be used here: .*check --find batch_size"),
        ("callbacks=[BackboneFinetuning]", "BackboneFinetuning cannot be used here: .* model.optim.freeze"),
        ("callbacks=[BaseFinetuning]", "BaseFinetuning cannot be used here"),
        ("callbacks=[ThroughputMonitor]", "ThroughputMonitor cannot be used here: it takes a function"),
        ("callbacks=[Timer, Timer]", "trainer: Found more than one stateful callback"),
        ("callbacks=[{class_path: ModelCheckpoint, init_args: {filename: last}}]", "cannot write last.ckpt"),
        ("callbacks=[{class_path: ModelCheckpoint, init_args: {filename: best}}]", "cannot write best.ckpt"),
    ],
)
def test_what_lightning_would_find_in_training_is_refused_before(task: list[str], setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        built(task, f"--trainer.{setting}")


FIVE_EPOCHS = "--trainer.max_epochs=5"


@pytest.mark.parametrize(
    ("callback", "arguments", "settings", "message"),
    [
        ("EarlyStopping", "monitor: val/loss", ["limit_val_batches=0"], "monitor is val/loss, and trainer.limit_val"),
        (
            "EarlyStopping",
            "monitor: val/loss, check_on_train_epoch_end: true",
            ["check_val_every_n_epoch=2"],
            "check_on_train_epoch_end is true, and trainer.check_val_every_n_epoch is 2: the first epoch ends without",
        ),
        ("StochasticWeightAveraging", "swa_lrs: [0.1]", [], "swa_lrs has 1 rates, and the optimizer has 2 groups"),
        ("StochasticWeightAveraging", "swa_lrs: 0.1, annealing_epochs: -1", [], "annealing_epochs is -1"),
        ("StochasticWeightAveraging", "swa_lrs: 0.1, device: nope", [], "device is 'nope', which cannot be used"),
        ("StochasticWeightAveraging", "swa_lrs: 0.1", ["max_epochs=-1", "max_steps=9"], "swa_epoch_start is 0.8 of"),
        ("WeightAveraging", "device: 'xla:9'", [], "device is .*, which cannot be used"),
        ("GradientAccumulationScheduler", "scheduling: {0: 2}", ["accumulate_grad_batches=2"], "scheduling is given"),
        ("ModelCheckpoint", "dirpath: /dev/null/x", [], "dirpath is '/dev/null/x', and /dev/null is no folder"),
        ("OnExceptionCheckpoint", "dirpath: /dev/null", [], "dirpath is '/dev/null'"),
        ("ModelCheckpoint", "filename: '{'", [], "filename is '{', which cannot be filled in: Single"),
        (
            "ModelCheckpoint",
            "filename: '{val/loss:d}'",
            [],
            "filename is .*, which cannot be filled in: Unknown format",
        ),
        ("ModelCheckpoint", f"filename: {'x' * 240}", [], "filename is longer than"),
        ("ModelPruning", "pruning_fn: l1_unstructured, amount: 2.0", [], "amount is 2.0. Give a share"),
        ("ModelPruning", "pruning_fn: l1_unstructured, amount: -1", [], "amount is -1. Give a share"),
        ("ModelPruning", "pruning_fn: l1_unstructured, amount: 1000000000", [], "amount is 1000000000. Give a share"),
        ("ModelSummary", "max_depth: -5", [], "max_depth is -5"),
        ("RichModelSummary", "max_depth: -5", [], "max_depth is -5"),
        ("RichProgressBar", "console_kwargs: {x: 1}", ["enable_progress_bar=true"], "console_kwargs is {'x': 1}: "),
    ],
)
def test_a_callback_whose_arguments_fail_in_training_is_refused_before(
    task: list[str], callback: str, arguments: str, settings: list[str], message: str
) -> None:
    named = f"--trainer.callbacks=[{{class_path: {callback}, init_args: {{{arguments}}}}}]"
    with pytest.raises(ConfigError, match=f"trainer.callbacks: {callback}.{message}"):
        built(task, FIVE_EPOCHS, *(f"--trainer.{setting}" for setting in settings), named)


@pytest.mark.parametrize(
    "callback",
    [
        "class_path: EarlyStopping, init_args: {monitor: val/loss, strict: false}",
        "class_path: StochasticWeightAveraging, init_args: {swa_lrs: [0.1, 0.2], device: null}",
        "class_path: EMAWeightAveraging",
        "class_path: ModelCheckpoint, init_args: {filename: '{epoch}-{val/loss:.2f}-{step:03d}-{unknown}'}",
        "class_path: ModelPruning, init_args: {pruning_fn: l1_unstructured, amount: 10}",
        "class_path: RichModelSummary, init_args: {max_depth: -1}",
    ],
)
def test_a_callback_that_can_work_is_left_as_it_is(task: list[str], callback: str) -> None:
    built(task, "--trainer.limit_val_batches=0", f"--trainer.callbacks=[{{{callback}}}]")


def test_a_network_larger_than_the_memory_is_refused(task: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"model: its weights do not fit into memory: .*allocate memory"):
        built(task, "--model.encoder.width=1000000000000000")


@pytest.mark.parametrize("setting", ["accumulate_grad_batches=100", "check_val_every_n_epoch=3"])
def test_what_is_only_of_no_use_is_allowed_where_a_run_was_trained_with_it(task: list[str], setting: str) -> None:
    build(parse([*task, "--trainer.val_check_interval=1.0", f"--trainer.{setting}"]), "fit", has_run=True)


@pytest.mark.parametrize(
    "settings",
    [
        ["limit_train_batches=0"],
        ["limit_val_batches=0", "val_check_interval=100"],
        ["val_check_interval=100", "check_val_every_n_epoch=null"],
        ["val_check_interval=00:00:00:01"],
        ["val_check_interval={seconds: 1}", "check_val_every_n_epoch=null"],
        ["max_steps=0"],
        ["max_epochs=0"],
        ["overfit_batches=1000"],
        ["fast_dev_run=true"],
        ["limit_train_batches=0.5", "limit_val_batches=1.0"],
    ],
)
def test_what_has_a_meaning_is_left_as_it_is(task: list[str], settings: list[str]) -> None:
    built(task, *(f"--trainer.{setting}" for setting in settings))


def test_a_share_of_another_split_matters_only_where_it_is_used(task: list[str]) -> None:
    built(task, "--trainer.limit_train_batches=0.01", stage="test")


class Ids(pl.Callback):
    """Notes the examples of each batch."""

    def __init__(self) -> None:
        self.of_epoch: dict[int, list[list[int]]] = {}

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: object, at: int) -> None:
        assert isinstance(batch, dict)
        self.of_epoch.setdefault(trainer.current_epoch, []).append(batch["id"])


@pytest.mark.filterwarnings("ignore:You requested to overfit", "ignore:The `srun`")
@pytest.mark.parametrize("more", [[], ["--data.batch.size=null", "--data.batch.max_tokens=32"]])
def test_overfitting_repeats_the_same_batches_in_each_epoch(task: list[str], more: list[str], tmp_path: Path) -> None:
    ids = Ids()
    experiment = built(task, "--trainer.overfit_batches=2", "--trainer.max_epochs=3", *more)
    experiment.trainer.callbacks = [ids]  # type: ignore[attr-defined]
    experiment.trainer.fit(experiment.model, datamodule=experiment.data)
    assert list(ids.of_epoch) == [0, 1, 2]
    assert ids.of_epoch[0] == ids.of_epoch[1] == ids.of_epoch[2]
    assert len(ids.of_epoch[0]) == 2


def test_a_strategy_that_divides_a_model_is_refused(task: list[str]) -> None:
    with pytest.raises(ConfigError, match="which divides a model among processes; a task of lightrail is whole on"):
        built(task, "--trainer.strategy=ModelParallelStrategy")


@pytest.mark.parametrize(("started", "is_refused"), [("2", True), ("1", False)])
def test_processes_of_torchrun_that_the_trainer_does_not_know_of_are_refused(
    task: list[str], monkeypatch: pytest.MonkeyPatch, started: str, is_refused: bool
) -> None:
    trainer = built(task).trainer
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", started)
    with (
        pytest.raises(ConfigError, match=r"torchrun started 2 .*is 1\. Give trainer\.devices=2")
        if is_refused
        else nullcontext()
    ):
        check_processes(trainer)
