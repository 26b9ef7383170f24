"""Loggers beside MLflow: what they receive, that a resumed run continues in them, and that a failure stops nothing."""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import Logger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightrail.project.basics.errors import ConfigError
from lightrail.project.configuration import parse
from lightrail.project.loggers.further import CLASSES, check_loggers, further_loggers, show_files
from lightrail.project.loggers.guarded import GuardedLogger
from lightrail.project.tracking.run import continue_run, start_run
from lightrail.project.tracking.settings import LoggerClass, TrackingConfig
from tests.support.running import FOUR_STEPS, QUIET, RecordedRun, lightrail, runs_in
from tests.support.tasks.pinyin import TINY, write_sentences

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:wandb", "ignore::DeprecationWarning:tensorboard")


def points(run: RecordedRun, name: str) -> list[tuple[int, float]]:
    """Points of a metric in the run's CSV file."""
    with (run.directory / "loggers" / "csv" / "metrics.csv").open(encoding="utf-8", newline="") as file:
        return [(int(row["step"]), float(row[name])) for row in csv.DictReader(file) if row.get(name)]


def events(run: RecordedRun) -> EventAccumulator:
    found = EventAccumulator(str(run.directory / "loggers" / "tensorboard"), {"tensors": 0, "images": 0})
    found.Reload()
    return found


@pytest.fixture
def wandb_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_CONFIG_DIR": f"{tmp_path}/c"}.items():
        monkeypatch.setenv(name, value)
    yield tmp_path / "wandb"
    import wandb

    wandb.teardown()


def arguments(tmp_path: Path, store: str, loggers: str) -> list[str]:
    sentences = tmp_path / "sentences"
    sentences.mkdir(exist_ok=True)
    tiny = [*TINY, *write_sentences(sentences), *FOUR_STEPS, *QUIET, f"--tracking.uri={store}"]
    return [*tiny, f"--tracking.loggers={loggers}"]


class Failing(Logger):
    """A logger that fails where it is told to."""

    def __init__(self, at: str = "log_metrics") -> None:
        super().__init__()
        self.at, self.calls = at, 0
        self._do("__init__")

    def _do(self, name: str) -> None:
        self.calls += 1
        if name == self.at:
            raise RuntimeError(f"no answer in {name}")

    name, version = "failing", "0"

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self._do("log_metrics")

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self._do("log_hyperparams")

    def finalize(self, status: str) -> None:
        self._do("finalize")


def test_a_run_is_logged_to_all_and_a_failing_one_stops_nothing(
    tmp_path: Path, store: str, wandb_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = "[{class_path: tests.project.test_loggers.Failing}, tensorboard, csv, wandb]"
    outcome = lightrail("fit", *arguments(tmp_path, store, given), "--allow_modules=tests.project.test_loggers")
    assert outcome.status == 0, outcome.err
    (run,) = runs_in(store)
    expected = run.history("train/loss")
    assert points(run, "train/loss") == expected
    found = events(run)
    assert [own.value for own in found.Scalars("train/loss")] == pytest.approx([value for _, value in expected])
    assert [own.step for own in found.Scalars("train/loss")] == [step for step, _ in expected]
    assert found.Scalars("test/loss")[0].value == pytest.approx(run.metrics["test/loss"])
    assert any(name.startswith("figures/") for name in found.Tags()["images"])
    assert any(name.startswith("samples/") for name in found.Tags()["tensors"])
    (folder,) = wandb_folder.glob("offline-run-*")
    assert folder.name.endswith(run.run_id)
    assert list(folder.glob("files/media/images/figures/*.png"))
    (shown,) = folder.glob("files/media/html/samples/worst_mistakes.csv*.html")
    assert "<pre>" in shown.read_text("utf-8")
    (warning,) = [own.getMessage() for own in caplog.records if "left out from now on" in own.getMessage()]
    assert warning == "the logger Failing failed and is left out from now on: RuntimeError: no answer in log_metrics"


@pytest.mark.parametrize("at", ["__init__", "log_metrics", "log_hyperparams", "finalize", "build"])
def test_whatever_call_fails_it_is_told_once_and_no_other_call_follows(
    at: str, caplog: pytest.LogCaptureFixture
) -> None:
    built: list[Failing] = []

    def build() -> Logger:
        if at == "build":
            raise ImportError("no module")
        built.append(Failing(at))
        return built[0]

    guarded = GuardedLogger("own", build, {})
    for _ in range(2):
        guarded.log_metrics({"loss": 1.0}, step=1)
        guarded.log_hyperparams({})
        guarded.finalize("success")
    guarded.close()
    assert guarded.has_failed
    assert guarded.version is None
    assert len(caplog.records) == 1
    assert sum(own.calls for own in built) <= 4


def test_a_resumed_run_continues_in_its_loggers(tmp_path: Path, store: str) -> None:
    configuration = parse(arguments(tmp_path, store, "[csv, tensorboard]"))
    tracking = configuration.tracking()
    run = start_run(tracking, configuration.values, {})
    own = further_loggers(configuration, run, None)
    for step in range(1, 6):
        for one in own:
            one.log_metrics({"train/loss": step / 8}, step)
    with pytest.raises(KeyboardInterrupt), run.status():
        raise KeyboardInterrupt
    with (again := continue_run(run.run_id, tracking)).status():
        for one in further_loggers(configuration, again, 3):
            for step in (4, 5):
                one.log_metrics({"train/loss": float(step), "val/loss": 1.0}, step)
    recorded = RecordedRun(store, run.run_id)
    expected = [(1, 0.125), (2, 0.25), (3, 0.375), (4, 4.0), (5, 5.0)]
    assert points(recorded, "train/loss") == expected
    assert points(recorded, "val/loss") == [(4, 1.0), (5, 1.0)]
    assert [(own.step, own.value) for own in events(recorded).Scalars("train/loss")] == expected


def test_processes_other_than_the_first_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightrail.project.loggers.guarded.is_process_zero", lambda: False)
    guarded = GuardedLogger("own", lambda: pytest.fail("it was built"), {})
    guarded.log_metrics({"loss": 1.0}, step=1)
    guarded.log_hyperparams({})
    show_files([guarded], tmp_path, 0)
    assert not guarded.has_failed


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["wandb"], r"tracking\.loggers: wandb needs a package that is missing: pip install wandb\."),
        (["csv", "csv"], r"csv is given twice, for the same files"),
        ([LoggerClass(path="lightning.pytorch.loggers.mlflow.MLFlowLogger")], "every run is logged to MLflow"),
    ],
)
def test_what_cannot_log_is_refused_before_a_run_exists(
    given: list[Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_loggers(TrackingConfig(loggers=tuple(CLASSES)))  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=message):
        check_loggers(TrackingConfig(loggers=tuple(given)))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("--tracking.loggers=[tensorbord]", "there is no class 'tensorbord'"),
        ("--trainer.logger=CSVLogger", r"further loggers in tracking\.loggers"),
        ("--tracking.loggers=[{class_path: CSVLogger, init_args: {save_dir: x}}]", "save_dir cannot be set: the files"),
    ],
)
def test_a_setting_that_names_no_logger_is_refused(tmp_path: Path, store: str, setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse([*arguments(tmp_path, store, "[]"), setting])


def test_a_logger_by_class_has_its_arguments_and_the_folder_of_the_run(tmp_path: Path, store: str) -> None:
    given = "[{class_path: CSVLogger, init_args: {prefix: own}}]"
    configuration = parse(arguments(tmp_path, store, given))
    with (run := start_run(configuration.tracking(), configuration.values, {})).status():
        (own,) = further_loggers(configuration, run, None)
        own.log_metrics({"loss": 1.0}, 1)
        own.log_hyperparams({"object": object()})
    folder = run.directory / "loggers" / "CSVLogger"
    assert (folder / "metrics.csv").read_text("utf-8").splitlines() == ["own-loss,step", "1.0,1"]
