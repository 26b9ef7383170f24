"""What was stored at an earlier commit is read as it was: runs, caches, exports, studies, and shipped settings.

`tests/golden/make.py` wrote the archive, `tests/golden/write.py` the texts.
"""

import filecmp
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pyarrow as pa
import pyarrow.parquet
import pytest
import yaml
from optuna.trial import TrialState

from lightrail.lightning_modules.transfer.exported import load_exported
from lightrail.project.basics.catalogue import experiment_files, sweep_files
from lightrail.project.configuration import parse
from lightrail.project.running.build import build
from lightrail.sweeps.search.definition import load
from lightrail.sweeps.search.warm_start import earlier_runs
from lightrail.testing.contract import decoded
from tests.golden.unpacking import unpack
from tests.golden.write import COMMAND, EXPERIMENTS, PARAMETERS, SWEEPS, experiment_text, sweep_text, tiny_data
from tests.support.running import Outcome, RecordedRun, lightrail, runs_in

TASKS = ["texts seed 0", "images", "entities", "pinyin", "language"]
"""The run of each, by its name."""
SWEEP = ["sweep", "--config=tiny.yaml"]


@dataclass(frozen=True)
class Golden:
    """The unpacked archive, which is the working folder."""

    folder: Path

    @property
    def store(self) -> str:
        return f"sqlite:///{self.folder}/mlflow.db"

    @property
    def runs(self) -> dict[str, RecordedRun]:
        """Those stored then, by name; a run that a test made has none of theirs."""
        return {run.tags["mlflow.runName"]: run for run in reversed(runs_in(self.store))}

    def caches(self) -> dict[str, int]:
        """The folders of encoded data, and when each was finished."""
        return {file.parent.name: file.stat().st_mtime_ns for file in self.folder.glob("cache/*/meta.json")}


@pytest.fixture
def golden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Golden:
    """Go to a folder with everything stored then."""
    unpack(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIGHTRAIL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")  # of the processes of a sweep
    return Golden(tmp_path)


def succeed(*arguments: str, status: int = 0) -> Outcome:
    outcome = lightrail(*arguments)
    assert outcome.status == status, outcome.err
    return outcome


def check_same_answers(found: pa.Table, stored: pa.Table) -> None:
    """Compare what both tables have of each example."""
    common = [name for name in stored.column_names if name in found.column_names]
    assert {"id", "score"} <= set(common)
    assert len(found) == len(stored) > 0
    for name in common:
        assert is_close(found[name].to_pylist(), stored[name].to_pylist()), name


def near(expected: Any) -> Any:
    """Another processor adds in another order."""
    return pytest.approx(expected, rel=1e-3, abs=1e-4)


def is_close(found: Any, expected: Any) -> bool:
    """Whether two answers are equal but for rounding; `predict` gives names to the numbers of a list."""
    if isinstance(expected, float):
        return bool(found == near(expected))
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and is_close([*found.values()], [*expected.values()])
    if isinstance(expected, list):
        values = [*found.values()] if isinstance(found, dict) else found
        return len(values) == len(expected) and all(map(is_close, values, expected))
    return bool(found == expected)


SPELT_ANEW = ("pinyin",)
"""Encoded anew on purpose: given syllables with tones, which were unknown tokens, are read without them since."""


@pytest.mark.parametrize("name", TASKS)
def test_a_stored_run_is_predicted_with_and_tested_as_it_was(name: str, golden: Golden) -> None:
    run, caches = golden.runs[name], golden.caches()
    settings = yaml.safe_load((run.directory / "config.yaml").read_text("utf-8"))["data"]["init_args"]
    named = f"--ckpt_path=runs:/{run.run_id}"
    succeed("predict", named, f"--data.path={settings['test_path']}", "--output=answers.parquet")
    check_same_answers(pa.parquet.read_table("answers.parquet"), run.predictions)
    again = RecordedRun(golden.store, succeed("test", named).run_id)
    expected = {metric: value for metric, value in run.metrics.items() if metric.startswith("test/")}
    assert {metric: again.metrics.get(metric) for metric in expected} == near(expected)
    check_same_answers(again.predictions, run.predictions)
    assert name in SPELT_ANEW or golden.caches() == caches, "the data was encoded anew"


def test_a_stored_run_that_was_stopped_is_finished_as_it_would_have_been(golden: Golden) -> None:
    run, whole = golden.runs["stopped"], golden.runs["pinyin"]
    assert (run.status, run.checkpoint("last")["global_step"]) == ("KILLED", 7)
    before = len(runs_in(golden.store))
    assert succeed("resume", run.run_id).run_id == run.run_id
    assert (run.status, len(runs_in(golden.store))) == ("FINISHED", before)
    assert not [tag for tag in run.tags if tag.startswith("lightrail.changed.")]
    new = {"val/text_error_rate", "test/text_error_rate"}  # since the stored run was made
    assert run.histories().keys() - new == whole.histories().keys() - new
    for name, points in whole.histories().items():
        assert run.history(name) == [(step, near(value)) for step, value in points], name
    check_same_answers(run.predictions, whole.predictions)


def test_of_a_stored_run_data_and_configuration_are_those_of_then(golden: Golden) -> None:
    outcome = succeed("reproduce", golden.runs["texts seed 0"].run_id, "--check_only", status=1)
    kinds = [line for line in outcome.out.splitlines()[1:] if line[0] != " "]
    assert "hardware" in kinds
    assert not {"data", "configuration"} & set(kinds), outcome.out


def test_a_stored_run_is_reproduced(golden: Golden) -> None:
    run = golden.runs["entities"]
    outcome = lightrail("reproduce", run.run_id, "--if_different=continue")
    again = RecordedRun(golden.store, outcome.run_id)
    assert again.tags["lightrail.reproduces"] == run.run_id
    assert again.metrics["test/loss"] == near(run.metrics["test/loss"])


def test_stored_runs_are_compared_by_their_stored_predictions(golden: Golden) -> None:
    runs = golden.runs
    names = ["texts seed 0", "texts seed 1"]
    succeed("compare", *(runs[name].run_id for name in names), "--output=c.json", "--resamples=100")
    for entry in json.loads(Path("c.json").read_text("utf-8"))["entries"]:
        stored = runs[entry["name"]].metrics
        compared = {f"test/{name}": metric["value"] for name, metric in entry["metrics"].items()}
        assert compared == near({name: stored[name] for name in compared})
        assert "test/mcc" in compared


def test_a_stored_language_model_writes_what_it_wrote(golden: Golden) -> None:
    arguments = ["--prompt=cab", "--temperature=0", "--max_tokens=5"]
    written = succeed("generate", golden.runs["language"].run_id, *arguments).out
    assert written == (golden.folder / "generated.txt").read_text("utf-8")


def test_a_stored_export_answers_as_its_run_did(golden: Golden) -> None:
    run = golden.runs["entities"]
    data = build(parse(["--config", str(run.directory / "config.yaml")]), "fit").data
    model = load_exported(golden.folder / "exported")
    batches = [(batch["id"], decoded(model, batch)) for batch in data.test_dataloader()]
    answers = {number: answer for ids, own in batches for number, answer in zip(ids, own["prediction"], strict=True)}
    stored = run.predictions.to_pydict()
    assert answers == dict(zip(stored["id"], stored["prediction"], strict=True))


@pytest.mark.parametrize("name", TASKS)
def test_a_stored_configuration_finds_its_cache_and_would_make_the_same(
    name: str, golden: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    configuration, caches = str(golden.runs[name].directory / "config.yaml"), golden.caches()
    succeed("check", "--config", configuration)
    assert name in SPELT_ANEW or golden.caches() == caches
    monkeypatch.setenv("LIGHTRAIL_CACHE", str(golden.folder / "anew"))
    succeed("check", "--config", configuration)
    (anew,) = (file.parent for file in golden.folder.glob("anew/*/meta.json"))
    assert (anew.name in caches) == (name not in SPELT_ANEW)
    (stored,) = (folder for own in caches if _about(folder := golden.folder / "cache" / own) == _about(anew))
    files = [str(file.relative_to(anew)) for file in anew.rglob("*") if file.is_file() and file.name != "about.json"]
    assert filecmp.cmpfiles(anew, stored, files, shallow=False)[0] == files


def _about(cache: Path) -> dict[str, Any]:
    """What a cache says of itself, without what was added since: counters that are 0, and the form of its files."""
    about: dict[str, Any] = json.loads((cache / "about.json").read_text("utf-8"))
    for notes in about["notes"].values():
        notes.pop("form", None)
    about["notes"] = {split: {key: own for key, own in notes.items() if own} for split, notes in about["notes"].items()}
    return about


def test_a_stored_study_goes_on(golden: Golden) -> None:
    parent = golden.runs["tiny"].run_id
    assert succeed(*SWEEP, "--n_trials=4").last_line.startswith(f"sweep {parent} finished: ")
    study = optuna.load_study(study_name="tiny", storage=f"sqlite:///{golden.folder}/sweeps.db")
    assert [trial.state for trial in study.trials] == 4 * [TrialState.COMPLETE]
    names = sorted(run.tags["mlflow.runName"] for run in runs_in(golden.store) if is_under(run, parent))
    assert names == [f"trial {number}" for number in range(4)]


def is_under(run: RecordedRun, parent: str) -> bool:
    return run.tags.get("mlflow.parentRunId") == parent


def test_a_sampler_learns_from_the_stored_trials(golden: Golden) -> None:
    study = optuna.load_study(study_name="tiny", storage="sqlite:///sweeps.db")
    found = list(earlier_runs(load(SWEEP[1:]), golden.runs["tiny"].run_id))
    assert [own and dict(own.params) for own in found] == [trial.params for trial in study.trials]
    assert [own and own.values for own in found] == [pytest.approx(trial.values) for trial in study.trials]


def test_each_shipped_experiment_and_sweep_has_a_text() -> None:
    assert {file.stem for file in EXPERIMENTS.iterdir()} == experiment_files().keys() > set()
    assert {file.stem for file in SWEEPS.iterdir()} == sweep_files().keys() > set()


@pytest.mark.parametrize("name", experiment_files())
def test_a_shipped_experiment_is_configured_and_built_as_its_text_says(name: str, tmp_path: Path) -> None:
    with tiny_data(tmp_path):
        text = experiment_text(name)
    found, kept = (own.partition(PARAMETERS) for own in (text, (EXPERIMENTS / f"{name}.txt").read_text("utf-8")))
    assert found[0] == kept[0], f"settings moved. If that is meant: {COMMAND}"
    lines, expected = ([line.rpartition(" ") for line in own[2].splitlines()] for own in (found, kept))
    assert [line[0] for line in lines] == [line[0] for line in expected], f"parameters moved. If meant: {COMMAND}"
    moved = [line[0] for line, before in zip(lines, expected, strict=True) if not is_same_sum(line[2], before[2])]
    assert moved == [], f"parameters begin with other values. If that is meant: {COMMAND}"


def is_same_sum(found: str, kept: str) -> bool:
    """Whether two sums are equal but for rounding; zeros are never rounded."""
    if "0" in (found, kept):
        return found == kept
    return bool(float(found) == pytest.approx(float(kept), rel=1e-3, abs=1e-3))


@pytest.mark.parametrize("name", sweep_files())
def test_a_shipped_sweep_is_defined_as_its_text_says(name: str) -> None:
    kept = (SWEEPS / f"{name}.txt").read_text("utf-8")
    assert sweep_text(name) == kept, f"settings moved. If that is meant: {COMMAND}"
