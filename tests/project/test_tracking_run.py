"""A run, read back through MLflow's own client."""

import errno
import json
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Callback, Trainer
from mlflow import MlflowClient

from lightrail.datamodules.base import SplitSummary
from lightrail.project.basics.errors import ConfigError
from lightrail.project.tracking import run as starting
from lightrail.project.tracking.journal import Ending
from lightrail.project.tracking.logger import flatten, log_inputs
from lightrail.project.tracking.processes import Terminated
from lightrail.project.tracking.run import TrackedRun, continue_run, start_run
from lightrail.project.tracking.settings import TrackingConfig
from tests.support.tracking import fit

CONFIGURATION = {"seed_everything": 7, "model": {"class_path": "Tiny", "init_args": {"lr": 0.1, "name": "中文"}}}


@pytest.fixture
def run(store: str) -> TrackedRun:
    config = TrackingConfig(uri=store, experiment="试验 one", run_name="first", tags={"mine": "yes"})
    return start_run(config, CONFIGURATION, {"lightrail.task": "tiny"})


@pytest.fixture
def client(store: str) -> MlflowClient:
    return MlflowClient(store)


def points(client: MlflowClient, run: TrackedRun, key: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in client.get_metric_history(run.run_id, key)]


def log_and_raise(run: TrackedRun, losses: dict[int, float], error: BaseException) -> None:
    for step, loss in losses.items():
        run.logger.log_metrics({"train/loss": loss}, step)
    raise error


def test_a_started_run_is_running_and_holds_params_tags_and_files(run: TrackedRun, client: MlflowClient) -> None:
    found = client.get_run(run.run_id)
    assert found.info.status == "RUNNING"
    assert found.info.run_name == "first"
    assert found.data.params == {
        "seed_everything": "7",
        "model.class_path": "Tiny",
        "model.init_args.lr": "0.1",
        "model.init_args.name": "中文",
    }
    assert found.data.tags["lightrail.task"] == "tiny"
    assert found.data.tags["mine"] == "yes"
    assert found.data.tags["lightrail.version"]
    assert {item.path for item in client.list_artifacts(run.run_id)} == {
        "config.yaml",
        "environment",
        "checkpoints",
    }
    assert yaml.safe_load((run.directory / "config.yaml").read_text(encoding="utf-8")) == CONFIGURATION
    assert "torch==" in (run.directory / "environment" / "packages.txt").read_text()
    assert json.loads((run.directory / "environment" / "hardware.json").read_text())["usable_cores"] >= 1


def test_a_folder_of_checkpoints_names_its_run(run: TrackedRun, store: str) -> None:
    identity = json.loads((run.directory / "checkpoints" / "run.json").read_text(encoding="utf-8"))
    assert identity == {"run_id": run.run_id, "experiment": "试验 one", "store": store}


def test_the_experiment_opens_in_model_training_mode(run: TrackedRun, client: MlflowClient) -> None:
    experiment = client.get_experiment(run.experiment_id)
    assert experiment.name == "试验 one"
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"


def test_the_directory_is_the_artifact_folder_and_metrics_wait_outside_it(run: TrackedRun, tmp_path: Path) -> None:
    (run.directory / "samples").mkdir()
    (run.directory / "samples" / "text.txt").write_text("hello")
    run.logger.log_metrics({"train/loss": 1.0}, step=0)
    assert run.directory.is_relative_to(tmp_path / "mlruns")
    assert not run.logger.journal.path.is_relative_to(run.directory)


def test_a_value_over_the_limit_is_split_and_none_is_cut(store: str, client: MlflowClient) -> None:
    long = "".join(chr(65 + index % 26) for index in range(14_000))
    run = start_run(TrackingConfig(uri=store), {"data": {"long": long, "words": ["x"] * 3000}}, {})
    params = client.get_run(run.run_id).data.params
    assert "".join(params[f"data.long.part{part}"] for part in (1, 2, 3)) == long
    words = [params[name] for name in sorted(params) if name.startswith("data.words.part")]
    assert json.loads("".join(words)) == ["x"] * 3000


def test_many_params_are_all_stored(store: str, client: MlflowClient) -> None:
    run = start_run(TrackingConfig(uri=store), {"many": {f"key{number}": number for number in range(250)}}, {})
    assert len(client.get_run(run.run_id).data.params) == 250


def test_a_section_with_keys_that_mlflow_refuses_is_one_json_value() -> None:
    assert flatten({"freeze": {"layer.*": True}}) == {"freeze": '{"layer.*": true}'}
    assert flatten({"a": {}, "b": [], "c": None}) == {"a": "{}", "b": "[]", "c": "None"}
    assert flatten({"callbacks": [{"class_path": "X"}, 3]}) == {"callbacks.0.class_path": "X", "callbacks.1": "3"}


def test_runs_that_start_simultaneously_all_record_their_data(store: str, client: MlflowClient) -> None:
    runs = [start_run(TrackingConfig(uri=store), {}, {}).run_id for _ in range(6)]
    moment = threading.Barrier(len(runs))

    def record(run_id: str) -> None:
        own = MlflowClient(store)
        moment.wait()
        log_inputs(own, run_id, [SplitSummary("train", 10, "a" * 32, "data.csv")])

    with ThreadPoolExecutor(len(runs)) as executor:
        list(executor.map(record, runs))
    assert all(len(client.get_run(run_id).inputs.dataset_inputs) == 1 for run_id in runs)


def test_each_split_is_an_input_with_digest_source_and_rows(store: str, client: MlflowClient) -> None:
    splits = [SplitSummary("train", 10, "a" * 64, "data/训练.csv"), SplitSummary("validation", 2, "b" * 64, "hub/name")]
    run = start_run(TrackingConfig(uri=store), {}, {}, splits)
    inputs = {item.dataset.name: item for item in client.get_run(run.run_id).inputs.dataset_inputs}
    assert set(inputs) == {"train", "validation"}
    assert inputs["train"].dataset.digest == "a" * 36
    assert json.loads(inputs["train"].dataset.source) == {"uri": "data/训练.csv"}
    assert json.loads(inputs["train"].dataset.profile) == {"num_rows": 10}
    assert [(tag.key, tag.value) for tag in inputs["validation"].tags] == [("mlflow.data.context", "validation")]


def test_a_block_left_normally_is_finished_with_all_its_metrics(run: TrackedRun, client: MlflowClient) -> None:
    with run.status():
        for step in range(1200):
            run.logger.log_metrics({"train/loss": torch.tensor(1.0 / (step + 1)), "lr": 0.5}, step)
    assert client.get_run(run.run_id).info.status == "FINISHED"
    assert len(points(client, run, "train/loss")) == 1200
    assert points(client, run, "lr")[-1] == (1199, 0.5)
    assert {path.name for path in run.directory.parent.iterdir()} == {"artifacts"}


def test_an_exception_fails_the_run_and_keeps_its_metrics(run: TrackedRun, client: MlflowClient) -> None:
    with pytest.raises(ZeroDivisionError), run.status():
        log_and_raise(run, {3: float("nan")}, ZeroDivisionError("by zero\nin detail"))
    found = client.get_run(run.run_id)
    assert found.info.status == "FAILED"
    assert found.data.tags["lightrail.error"] == "ZeroDivisionError: by zero"
    assert [step for step, _ in points(client, run, "train/loss")] == [3]
    assert run.logger.journal.is_sent
    assert [step for step, _ in run.logger.journal.series()["train/loss"]] == [3]


def test_control_c_kills_the_run(run: TrackedRun, client: MlflowClient) -> None:
    with pytest.raises(KeyboardInterrupt), run.status():
        log_and_raise(run, {3: 1.0}, KeyboardInterrupt())
    assert client.get_run(run.run_id).info.status == "KILLED"
    assert points(client, run, "train/loss") == [(3, 1.0)]


def test_sigterm_kills_the_run_and_exits_with_143(run: TrackedRun, client: MlflowClient) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated) as stopped, run.status():
        os.kill(os.getpid(), signal.SIGTERM)
    assert stopped.value.code == 143
    assert client.get_run(run.run_id).info.status == "KILLED"
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, None), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
    ids=["INT", "TERM", "HUP"],
)
@pytest.mark.parametrize("error", [ValueError("Invalid bounding box"), None], ids=["another_error", "no_error"])
def test_a_signal_whose_exception_is_swallowed_kills_the_run(
    run: TrackedRun, client: MlflowClient, number: int, status: int | None, error: Exception | None
) -> None:
    """C code of matplotlib drops the exception of the handler, and may raise one of its own."""
    before = signal.getsignal(number)

    def swallow() -> None:
        with suppress(KeyboardInterrupt, Terminated):
            os.kill(os.getpid(), number)
        if error is not None:
            raise error

    with pytest.raises((KeyboardInterrupt, Terminated)) as stopped, run.status():
        swallow()
    assert getattr(stopped.value, "code", None) == status
    found = client.get_run(run.run_id)
    assert (found.info.status, "lightrail.error" in found.data.tags) == ("KILLED", False)
    assert signal.getsignal(number) is before


def test_a_hangup_that_nohup_ignores_is_ignored(run: TrackedRun, client: MlflowClient) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with run.status():
        os.kill(os.getpid(), signal.SIGHUP)
    assert client.get_run(run.run_id).info.status == "FINISHED"


def test_the_end_of_a_run_has_its_space_on_a_full_disk(run: TrackedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Space is kept as long as the run may need it, and is free before the end is written and sent."""
    kept = run.directory.parent / "run.reserve"
    append, seen = run.logger.journal.append_ending, list[bool]()

    def ends(ending: Ending) -> None:
        seen.append(kept.exists())
        append(ending)

    monkeypatch.setattr(run.logger.journal, "append_ending", ends)
    assert kept.stat().st_blocks * 512 >= 2**20
    with pytest.raises(OSError, match="full"), run.status():
        raise OSError(errno.ENOSPC, "the disk is full")
    assert seen == [False]
    assert not kept.exists()


def test_one_point_per_step_and_steps_never_go_back(run: TrackedRun, client: MlflowClient) -> None:
    with run.status():
        for step, value in [(1, 1.0), (2, 2.0), (2, 2.0), (2, 9.0), (1, 9.0), (5, 5.0)]:
            run.logger.log_metrics({"val/loss": value}, step)
    assert points(client, run, "val/loss") == [(1, 1.0), (2, 2.0), (5, 5.0)]


def test_a_metric_name_that_mlflow_refuses_is_refused_at_once(run: TrackedRun) -> None:
    with pytest.raises(ValueError, match="val/f1@5"):
        run.logger.log_metrics({"val/f1@5": 1.0}, step=0)


def test_a_continued_run_is_running_and_drops_the_steps_it_repeats(
    run: TrackedRun, client: MlflowClient, store: str
) -> None:
    with pytest.raises(RuntimeError), run.status():
        log_and_raise(run, {step: float(step) for step in range(6)}, RuntimeError("out of memory"))
    again = continue_run(run.run_id, TrackingConfig(uri=store))
    found = client.get_run(run.run_id)
    assert found.info.status == "RUNNING"
    assert found.data.tags["lightrail.resumed"] == "1"
    assert "lightrail.error" not in found.data.tags
    assert again.directory == run.directory
    with again.status():
        for step in range(3, 9):
            again.logger.log_metrics({"train/loss": float(step)}, step)
    assert points(client, run, "train/loss") == [(step, float(step)) for step in range(9)]
    assert client.get_run(run.run_id).info.status == "FINISHED"


def test_other_processes_of_a_run_write_nothing(
    run: TrackedRun, client: MlflowClient, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_utilities.core.rank_zero.rank_zero_only.rank", 1)
    attached = start_run(TrackingConfig(uri=store), CONFIGURATION, {})
    with attached.status():
        attached.logger.log_metrics({"train/loss": 1.0}, step=1)
        attached.set_tags({"mine": "no"})
        attached.upload_soon("config.yaml")
    assert (attached.run_id, attached.directory, attached.address) == (run.run_id, run.directory, run.address)
    assert len(client.search_runs([run.experiment_id])) == 1
    assert client.get_run(run.run_id).info.status == "RUNNING"
    assert not run.logger.journal.path.exists()


def test_a_store_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("in the way")
    with pytest.raises(ConfigError, match=r"file: cannot write there .*tracking\.uri"):
        start_run(TrackingConfig(uri=f"sqlite:///{blocker}/mlflow.db"), {}, {})
    with pytest.raises(ConfigError, match="file is not a database"):
        start_run(TrackingConfig(uri=f"sqlite:///{blocker}"), {}, {})
    with pytest.raises(ConfigError, match="is not an MLflow store"):
        start_run(TrackingConfig(uri="./mlruns"), {}, {})


def test_an_artifact_folder_that_cannot_be_written_leaves_no_run(
    store: str, client: MlflowClient, tmp_path: Path
) -> None:
    (tmp_path / "mlruns").write_text("in the way")
    with pytest.raises(ConfigError, match=r"mlruns.*cannot write there"):
        start_run(TrackingConfig(uri=store), {}, {})
    assert not client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])


def test_a_failure_while_starting_leaves_no_run(
    store: str, client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(folder: Path) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(starting, "write_environment", fail)
    with pytest.raises(ConfigError, match="could not be started: no space left"):
        start_run(TrackingConfig(uri=store), {}, {})
    assert not client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert list((tmp_path / "mlruns" / "lightrail").iterdir()) == []


def test_a_server_that_does_not_respond_is_refused_without_showing_its_password() -> None:
    with pytest.raises(ConfigError, match=r"http://me:\*\*\*@127.0.0.1:9 does not respond"):
        start_run(TrackingConfig(uri="http://me:secret@127.0.0.1:9"), {}, {})


def test_a_deleted_experiment_is_refused(run: TrackedRun, store: str, client: MlflowClient) -> None:
    client.delete_experiment(run.experiment_id)
    with pytest.raises(ConfigError, match=f"was deleted.*--experiment-id {run.experiment_id}"):
        start_run(TrackingConfig(uri=store, experiment="试验 one"), {}, {})


@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")
class TestInsideATrainer:
    def test_the_run_is_still_running_after_fit_and_has_its_metrics(
        self, run: TrackedRun, client: MlflowClient
    ) -> None:
        fit(run)
        assert client.get_run(run.run_id).info.status == "RUNNING"
        assert [step for step, _ in points(client, run, "train/loss")] == [0, 1]

    @pytest.mark.parametrize(
        ("number", "raised"), [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)], ids=["TERM", "INT"]
    )
    def test_a_signal_in_fit_kills_the_run(
        self, run: TrackedRun, client: MlflowClient, number: int, raised: type[BaseException]
    ) -> None:
        with pytest.raises(raised), run.status():
            fit(run, SignalAt(number, step=2), num_steps=4)
        assert client.get_run(run.run_id).info.status == "KILLED"
        assert points(client, run, "train/loss")[0][0] == 0

    def test_an_exception_in_fit_fails_the_run(self, run: TrackedRun, client: MlflowClient) -> None:
        with pytest.raises(RuntimeError, match="broken"), run.status():
            fit(run, RaiseAt(step=1), num_steps=4)
        found = client.get_run(run.run_id)
        assert (found.info.status, found.data.tags["lightrail.error"]) == ("FAILED", "RuntimeError: broken")


class At(Callback):
    def __init__(self, action: Callable[[], None], step: int) -> None:
        self.action = action
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_step == self.step:
            self.action()


class SignalAt(At):
    def __init__(self, number: int, step: int) -> None:
        super().__init__(lambda: os.kill(os.getpid(), number), step)


class RaiseAt(At):
    def __init__(self, step: int) -> None:
        super().__init__(self.break_down, step)

    def break_down(self) -> None:
        raise RuntimeError("broken")
