"""A plain LightningModule and LightningDataModule get what a run gets, with no change to them."""

import json
from pathlib import Path

import pytest

from lightrail.project.basics.errors import ConfigError
from lightrail.project.cli import main
from lightrail.project.configuration import parse
from lightrail.project.plain_modules.best import choose
from lightrail.project.running.build import build_any
from tests.support.callbacks import ALLOW, EVERY_STEP
from tests.support.running import Fitted, RecordedRun, lightrail, runs_in, same_weights

pytestmark = pytest.mark.filterwarnings(
    "ignore:Checkpoint directory .* exists and is not empty",
    "ignore:You're resuming from a checkpoint that ended before the epoch ended",
    "ignore:The '.*_dataloader' does not have many workers",
    "ignore:The number of training batches",
    "ignore:It is recommended to use `self.log",
    "ignore:Using `DistributedSampler` with the dataloaders",
    "ignore:Attribute .activation. is an instance of `nn.Module`",
)
MODULES = "tests.support.plain_modules"
QUIET = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.log_every_n_steps=1"]
KEEP = "--tracking.checkpoint.keep_resume_state=true"
ALLOW_BOTH = f"{ALLOW},{MODULES}"


def settings(model: str = "LitModel", data: str = "LitData") -> list[str]:
    own = [f"--data={MODULES}.{data}"] if data else []
    return [f"--model={MODULES}.{model}", *own, "--trainer.max_epochs=2", *QUIET, KEEP]


@pytest.fixture(scope="module")
def fitted(world: Path) -> Fitted:
    store = f"sqlite:///{world}/mlflow.db"
    arguments = [*settings(), f"--tracking.uri={store}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(world / "repository")
        outcome = lightrail("fit", *arguments)
    assert outcome.status == 0, outcome.err
    return Fitted(store, outcome.run_id, arguments, world, outcome)


def test_a_run_has_its_metrics_by_their_own_names(fitted: Fitted) -> None:
    assert fitted.outcome.metrics.keys() == {"test_loss", "test_acc"}
    assert fitted.status == "FINISHED"
    assert fitted.tags["lightrail.task"] == "LitModel"
    assert fitted.tags["lightrail.metric"] == "val_loss"
    assert fitted.tags["lightrail.test_digest"] == "unknown"
    assert json.loads(fitted.tags["lightrail.results"]) == ["test_acc", "test_loss"]
    assert fitted.params["model.init_args.hidden"] == "8"
    losses = dict(fitted.history("val_loss"))
    assert [len(losses), len(fitted.history("train_loss"))] == [2, 12]
    best = fitted.checkpoint("best")
    assert best["task"] == f"{MODULES}.LitModel"
    assert best["hyper_parameters"] == {"hidden": 8, "lr": 0.05, "activation": None}
    assert (fitted.directory / "figures" / "learning_curves.png").is_file()
    assert "test_loss" in lightrail("list", "runs", f"--tracking.uri={fitted.store}").out


def test_a_killed_run_ends_as_if_nothing_had_been(fitted: Fitted, store: str, tmp_path: Path) -> None:
    stop = ["--trainer.callbacks=Interrupt", f"--trainer.callbacks.marker={tmp_path}/marker", ALLOW, EVERY_STEP]
    assert main(["fit", *fitted.arguments, f"--tracking.uri={store}", *stop]) == 130
    (run,) = runs_in(store)
    assert run.status == "KILLED"
    where = f"--tracking.uri={store}"
    refused = lightrail("resume", run.run_id, where, ALLOW)
    assert (refused.status, "is outside the packages" in refused.err) == (2, True)
    changed = lightrail("resume", run.run_id, where, f"--allow_modules={ALLOW_BOTH.partition('=')[2]}", "--model.lr=1")
    assert (changed.status, "a resumed run cannot change it" in changed.err) == (2, True)
    outcome = lightrail("resume", run.run_id, where, ALLOW_BOTH)
    assert outcome.status == 0, outcome.err
    assert (run.status, outcome.metrics) == ("FINISHED", fitted.outcome.metrics)
    assert same_weights(run, fitted)
    own, whole = run.histories(), fitted.histories()
    own.pop("train_acc_epoch"), whole.pop("train_acc_epoch")  # of the rest of the epoch
    assert own == whole


def test_evaluation_commands_use_the_best_weights(fitted: Fitted, tmp_path: Path) -> None:
    where = [fitted.run_id, f"--tracking.uri={fitted.store}", f"--allow_modules={MODULES}"]
    validated = lightrail("validate", *where)
    losses = dict(fitted.history("val_loss"))
    assert f"val_loss {min(losses.values()):.6f}" in validated.out.splitlines()
    file = tmp_path / "predictions.jsonl"
    assert lightrail("predict", *where, f"--output={file}").status == 0
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["id"] for row in rows] == list(range(10))
    assert all(row["label"] == max((0, 1), key=lambda place: row["scores"][place]) for row in rows)


def test_a_run_is_reproduced_and_compared_by_its_metrics(fitted: Fitted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(fitted.folder / "repository")
    where = [f"--tracking.uri={fitted.store}", f"--allow_modules={MODULES}"]
    again = lightrail("reproduce", fitted.run_id, *where, "--if_different=continue")
    assert again.status == 0, again.out + again.err
    other = again.out.splitlines()[-1].split()[1]
    compared = lightrail("compare", fitted.run_id, other, f"--tracking.uri={fitted.store}")
    assert compared.status == 0, compared.err
    assert "test_acc" in compared.out
    assert "The runs have no stored predictions" in compared.out
    assert "Whether they were tested on the same data is not known" in compared.out


def test_several_seeds_train_in_different_orders(store: str) -> None:
    outcome = lightrail("fit", *settings(), f"--tracking.uri={store}", "--seeds=2")
    assert outcome.status == 0, outcome.err
    assert {"test_loss", "test_loss_sd"} <= outcome.metrics.keys()
    assert outcome.metrics["test_loss_sd"] > 0


def test_a_module_alone_trains_with_its_own_loaders_and_callbacks(store: str) -> None:
    outcome = lightrail("fit", *settings("OwnLoadersModel", ""), f"--tracking.uri={store}")
    assert outcome.status == 0, outcome.err
    run = RecordedRun(store, outcome.run_id)
    assert outcome.metrics == {
        "best/val_acc": pytest.approx(max(value for _, value in run.history("val_acc")), abs=1e-4)
    }
    assert run.tags["lightrail.metric"] == "val_acc"
    assert {"best.ckpt", "last.ckpt"} < {file.name for file in (run.directory / "checkpoints").iterdir()}


def test_two_processes_train_and_test_as_lightning_has_them(store: str) -> None:
    devices = ["--trainer.devices=2", "--trainer.strategy=ddp_fork", "--trainer.limit_test_batches=2"]
    outcome = lightrail("fit", *settings(), *devices, f"--tracking.uri={store}")
    assert outcome.status == 0, outcome.err
    run = RecordedRun(store, outcome.run_id)
    assert (run.status, len(run.history("train_loss"))) == ("FINISHED", 6)


def test_check_tells_time_memory_and_what_is_logged() -> None:
    outcome = lightrail("check", *settings())
    assert outcome.status == 0, outcome.err
    for line in ("model        58 parameters, 32-true", "epoch        6 batches", "best         the min of val_loss"):
        assert line in outcome.out.splitlines()
    wrong = ["--trainer.callbacks=EarlyStopping", "--trainer.callbacks.monitor=val/loss"]
    assert (
        "EarlyStopping monitors 'val/loss', which the model does not log" in lightrail("check", *settings(), *wrong).err
    )


@pytest.mark.parametrize(
    ("model", "data", "match"),
    [
        ("NoEvaluation", "", "train_dataloader"),
        ("Unstorable", "TrainOnly", "cannot be loaded without running code"),
    ],
)
def test_what_cannot_run_is_refused_in_one_line(model: str, data: str, match: str, store: str) -> None:
    outcome = lightrail("fit", *settings(model, data), f"--tracking.uri={store}")
    assert outcome.status == 2
    assert match in outcome.err
    assert "Traceback" not in outcome.err


def test_a_module_without_evaluation_ends_with_its_last_weights(store: str) -> None:
    where = f"--tracking.uri={store}"
    outcome = lightrail("fit", *settings("NoEvaluation", "TrainOnly"), "--model.activation=torch.nn.ReLU", where)
    assert outcome.status == 0, outcome.err
    assert outcome.metrics.keys() == {"last/loss"}
    run = RecordedRun(store, outcome.run_id)
    assert run.checkpoint("last")["hyper_parameters"] == {"width": 4}, "a module is no plain value"
    named = f"runs:/{run.run_id}/checkpoints/last.ckpt"
    refused = lightrail("validate", named, where, f"--allow_modules={MODULES}")
    assert (refused.status, "Lightning refuses this run: " in refused.err) == (2, True)


def test_a_setting_that_a_module_cannot_use_is_refused_in_one_line(store: str) -> None:
    outcome = lightrail(
        "fit", *settings("Gan", "TrainOnly"), "--trainer.gradient_clip_val=1", f"--tracking.uri={store}"
    )
    assert outcome.status == 2
    assert "Lightning refuses this run: " in outcome.err


def test_a_loss_that_is_not_finite_ends_the_run(store: str) -> None:
    spoilt = ["--trainer.callbacks=SpoiltStep", ALLOW]
    outcome = lightrail("fit", *settings(), *spoilt, f"--tracking.uri={store}")
    assert (outcome.status, "train/loss is nan at step 3" in outcome.err) == (1, True)
    assert [run.status for run in runs_in(store)] == ["FAILED"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["val_acc", "val_loss"], ("val_loss", "min")),
        (["valid/loss", "valid/f1"], ("valid/loss", "min")),
        (["val_accuracy"], ("val_accuracy", "max")),
        (["val_quality"], None),
        (["val_acc", "val_f1"], None),
        ([], None),
    ],
)
def test_the_best_is_by_the_loss_or_by_the_only_metric(names: list[str], expected: tuple[str, str] | None) -> None:
    assert choose(names) == expected


def test_a_plain_module_and_a_task_have_the_data_that_they_need() -> None:
    with pytest.raises(ConfigError, match=r"LitData is not derived .*, whose batches the task TextClassifier"):
        build_any(parse(["--config=text_classification", f"--data={MODULES}.LitData"]), "fit")
