"""`lightrail reproduce`, as a person meets it: it says what has changed since the run, or makes the run again."""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from lightrail.project.provenance import recording as provenance
from lightrail.project.provenance.recording import hardware
from tests.support.running import FOUR_STEPS, QUIET, Outcome, RecordedRun, lightrail, runs_in, same_weights
from tests.support.tasks.text_classification import write_texts

COMMITTED = """\
from lightning.pytorch import Callback


class Patient(Callback):
    def __init__(self, days: int = 1) -> None:
        self.days = days
"""
MODULE = "reproduced_callback"
ALLOW = f"--allow_modules={MODULE}"
NETWORK = ["width=16", "depth=1", "num_heads=2", "ngram_orders=[2]", "ngram_buckets=64", "ngram_width=8"]
SETTINGS = [
    *(f"--model.encoder.{setting}" for setting in NETWORK),
    *("--data.tokenizer=words", "--data.min_count=1", *FOUR_STEPS, *QUIET),
    *(ALLOW, f"--trainer.callbacks={MODULE}.Patient"),
]


@dataclass(frozen=True)
class Made:
    """A run with a module of a person's own, in a repository with an uncommitted change of it."""

    run: RecordedRun
    folder: Path

    @property
    def code(self) -> Path:
        return self.folder / "repository" / "src" / f"{MODULE}.py"

    @property
    def data(self) -> Path:
        return self.folder / "train.jsonl"

    def reproduce(self, *arguments: str) -> Outcome:
        return lightrail("reproduce", self.run.run_id, f"--tracking.uri={self.run.store}", ALLOW, *arguments)

    def refused(self, *arguments: str) -> Outcome:
        """The same, and see that it does not begin."""
        before = len(runs_in(self.run.store))
        outcome = self.reproduce(*arguments)
        assert outcome.status == 2
        assert len(runs_in(self.run.store)) == before
        return outcome


@pytest.fixture(scope="module")
def made(store_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    folder = tmp_path_factory.mktemp("made")
    store = f"sqlite:///{shutil.copy(store_template, folder / 'mlflow.db')}"
    made = Made(RecordedRun(store, ""), folder)
    made.code.parent.mkdir(parents=True)
    made.code.write_text(COMMITTED)
    commit = "git init --quiet && git add . && git -c user.name=a -c user.email=a@b commit --quiet -m first"
    subprocess.run(commit, shell=True, check=True, cwd=folder / "repository")
    made.code.write_text(f"# mine\n{COMMITTED}")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder / "repository")
        patch.syspath_prepend(made.code.parent)
        for name, module in list(sys.modules.items()):  # a module of another test would be code of this run
            if str(tmp_path_factory.getbasetemp()) in str(getattr(module, "__file__", "")):
                patch.delitem(sys.modules, name)
        patch.setenv("LIGHTRAIL_CACHE", str(folder / "cache"))
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        patch.setenv("OMP_NUM_THREADS", "1")
        for name in ("MLFLOW_TRACKING_URI", "LIGHTRAIL_RUN", "LIGHTRAIL_ALLOW_MODULES"):
            patch.delenv(name, raising=False)
        outcome = lightrail("fit", *write_texts(folder), *SETTINGS, f"--tracking.uri={store}")
        yield Made(RecordedRun(store, outcome.run_id), folder)


@contextmanager
def other(file: Path, old: str, new: str) -> Iterator[None]:
    """Write something else in a file, and put it right again."""
    before = file.read_text()
    assert old in before
    file.write_text(before.replace(old, new, 1))
    try:
        yield
    finally:
        file.write_text(before)


@contextmanager
def without(file: Path) -> Iterator[None]:
    aside = file.rename(file.with_name("aside"))
    try:
        yield
    finally:
        aside.rename(file)


def test_a_changed_line_and_a_changed_row_are_named_and_refused(made: Made) -> None:
    with other(made.code, "days: int = 1", "days: int = 2"), other(made.data, "so good it is", "so bad it is"):
        outcome = made.refused()
    lines = [line.strip() for line in outcome.out.splitlines()]
    (data,) = (line for line in lines if line.startswith(f"train ({made.data}): 8 rows, digest "))
    assert " -> 8 rows, digest " in data
    # line 1 was changed too, but before the run
    assert lines[1:] == ["code", f"{MODULE}.py: line 6", "data", data]
    assert "--if_different continue" in outcome.err
    assert "--data.path" in outcome.err


def test_as_it_was_it_gives_the_same_to_the_last_bit_also_from_another_folder(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    notes = made.folder / "repository" / "notes.txt"
    notes.write_text("not code")
    outcome = made.reproduce()
    notes.unlink()
    assert outcome.status == 0, outcome.err
    again = RecordedRun(made.run.store, outcome.run_id)
    assert outcome.last_line == f"run {again.run_id} reproduces {made.run.run_id}: equal"
    assert outcome.out.startswith(f"nothing differs from run {made.run.run_id}: ")
    assert "not counted: files that are not the run's code: notes.txt\n" in outcome.out
    assert again.run_id != made.run.run_id
    assert again.histories() == made.run.histories()
    assert again.predictions.equals(made.run.predictions)
    assert same_weights(again, made.run)
    assert (again.status, again.tags["lightrail.kind"]) == ("FINISHED", "reproduction")
    assert again.tags["lightrail.reproduces"] == made.run.run_id
    assert again.params == made.run.params
    assert list(tmp_path.iterdir()) == []


def test_the_new_run_is_recorded_where_the_old_one_was_found(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = f"sqlite:///{shutil.copy(made.folder / 'mlflow.db', tmp_path / 'moved.db')}"
    before = len(runs_in(made.run.store))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", moved)
    outcome = lightrail("reproduce", made.run.run_id[:8], ALLOW)
    assert outcome.status == 0, outcome.err
    assert (len(runs_in(made.run.store)), len(runs_in(moved))) == (before, before + 1)


def test_with_other_data_it_continues_on_request_and_reports_a_different_result(made: Made) -> None:
    with other(made.data, "fine film", "dull film"):
        outcome = made.reproduce("--if_different=continue")
    assert outcome.status == 1
    assert f"does not reproduce {made.run.run_id}: train/loss from step " in outcome.last_line
    again = RecordedRun(made.run.store, outcome.run_id)
    assert again.status == "FINISHED"
    rows = {line.split()[0]: line for line in outcome.out.splitlines() if line}
    step = next(
        one[0]
        for one, two in zip(made.run.history("train/loss"), again.history("train/loss"), strict=True)
        if one != two
    )
    assert rows["train/loss"].endswith(f"no, from step {step}")
    assert rows["train/learning_rate"].endswith("yes")
    assert not any(name.startswith("throughput/") for name in rows)


def git(made: Made, *arguments: str) -> None:
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], cwd=made.code.parent, check=True)


def test_its_commands_bring_the_code_back(made: Made) -> None:
    before = made.code.read_text()
    with other(made.code, "days", "weeks"):
        git(made, "commit", "--all", "--quiet", "--message=second")
        outcome = made.refused()
        assert "commit of " in outcome.out
        *bring_back, again = [shlex.split(line) for line in outcome.err.splitlines() if line.startswith("  ")]
        for command in bring_back:
            subprocess.run(command, check=True, capture_output=True)
        worktree = Path(bring_back[0][-2])
        assert (worktree / "src" / f"{MODULE}.py").read_text() == before
        done = subprocess.run([*again, "--check_only"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.startswith("nothing differs")
    git(made, "reset", "--quiet", "HEAD^")


def test_a_data_file_that_is_missing_is_refused_with_the_folder_of_then(made: Made) -> None:
    with without(made.data), other(made.code, "days", "weeks"):
        outcome = made.refused("--if_different=continue")
    assert f"{MODULE}.py: line 6" in outcome.out, "what else differs is said all the same"
    assert f"{made.data}: no such file" in outcome.err
    assert f"was made in the folder {made.folder}/repository." in outcome.err


def test_a_copy_of_the_data_under_another_name_is_the_same_data(made: Made, tmp_path: Path) -> None:
    copy = shutil.copy(made.data, tmp_path / "copy.jsonl")
    outcome = made.reproduce(f"--data.path={copy}", "--check_only")
    assert outcome.status == 0
    assert f"not counted: data.path: {made.data} -> {copy}" in outcome.out


def test_another_setting_is_named_and_left_out_of_the_command_to_try(made: Made) -> None:
    outcome = made.refused("--model.optim.lr=0.5", "--trainer.enable_progress_bar=true")
    assert [line.strip() for line in outcome.out.splitlines()[1:]] == [
        "configuration",
        "model.optim.lr: 5e-05 -> 0.5",
        "not counted: trainer.enable_progress_bar: False -> True",
    ]
    (again,) = (line for line in outcome.err.splitlines() if line.startswith("  lightrail reproduce"))
    assert "lr" not in again
    assert ALLOW in again


def test_a_run_whose_settings_were_changed_by_a_resume_is_not_one_configuration(made: Made) -> None:
    made.run.client.set_tag(made.run.run_id, "lightrail.changed.model.init_args.optim.lr", "0.1 -> 0.2 at step 3")
    try:
        outcome = made.refused()
    finally:
        made.run.client.delete_tag(made.run.run_id, "lightrail.changed.model.init_args.optim.lr")
    assert "model.optim.lr was changed when the run was resumed: 0.1 -> 0.2 at step 3" in outcome.out
    assert "lightrail reproduce" not in outcome.err, "there is no way back to try"


def test_a_package_that_lightrail_needs_counts_and_another_is_mentioned(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = {"torch": "0.0.1", "ruff": "0.0.2"}
    installed = [
        SimpleNamespace(metadata={"Name": item.name, "Version": others.get(item.name, item.version)})
        for item in metadata.distributions()
    ]
    monkeypatch.setattr(provenance, "metadata", SimpleNamespace(distributions=lambda: installed))
    outcome = made.reproduce("--check_only")
    assert outcome.status == 1
    torch, ruff = metadata.version("torch"), metadata.version("ruff")
    assert f"packages\n  torch: {torch} -> 0.0.1\n" in outcome.out
    assert f"not counted: packages that lightrail does not need: ruff: {ruff} -> 0.0.2\n" in outcome.out


def test_other_hardware_is_a_difference_and_the_threads_of_then_can_be_had(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = hardware()
    there = {**here, "cpu": "abacus", "threads": 7, "OMP_NUM_THREADS": None}
    monkeypatch.setattr("lightrail.project.reproducing.survey.hardware", lambda: there)
    outcome = made.refused()
    assert f"  processor: {here['cpu']} -> abacus\n" in outcome.out
    assert "  threads: 1 (OMP_NUM_THREADS 1) -> 7 (OMP_NUM_THREADS not set)\n" in outcome.out
    assert f"  env OMP_NUM_THREADS=1 lightrail reproduce {made.run.run_id} " in outcome.err


def test_a_run_that_does_not_tell_its_code_is_not_taken_for_the_same(made: Made) -> None:
    with without(made.run.directory / "environment" / "code.json"):
        outcome = made.refused()
    assert "the run has no record of its code" in outcome.out


def test_a_module_that_is_not_allowed_is_refused_after_what_differs(made: Made) -> None:
    with other(made.code, "days", "weeks"):
        outcome = lightrail("reproduce", made.run.run_id, f"--tracking.uri={made.run.store}")
    assert outcome.status == 2
    assert f"{MODULE}.py: line 6" in outcome.out
    assert "--allow_modules MODULE" in outcome.err


def test_differences_are_reported_also_when_it_cannot_be_built(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise TypeError("as asked")

    monkeypatch.setattr("lightrail.project.reproducing.survey.build_any", fail)
    with other(made.code, "days", "weeks"), pytest.raises(TypeError, match="as asked") as caught:
        made.reproduce()
    assert f"{MODULE}.py: line 6" in caught.value.__notes__[0]


def test_without_the_files_of_the_run_there_is_nothing_to_compare_with(made: Made) -> None:
    with without(made.run.directory / "predictions" / "test.parquet"):
        outcome = made.refused()
    assert "its file predictions/test.parquet is missing" in outcome.err


def test_a_run_that_is_not_known_is_refused_with_the_nearest(made: Made) -> None:
    misspelt = made.run.run_id[:-1] + ("0" if made.run.run_id[-1] != "0" else "1")
    outcome = lightrail("reproduce", misspelt, f"--tracking.uri={made.run.store}")
    assert outcome.status == 2
    assert f"no run '{misspelt}': no id in {made.run.store}" in outcome.err
    assert f"Did you mean: {made.run.run_id[:8]} (" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [([], "which run?"), (["--check_only"], "which run?"), (["abcd", "--if_different=maybe"], "refuse, continue")],
)
def test_meaningless_arguments_are_refused(arguments: list[str], message: str) -> None:
    outcome = lightrail("reproduce", *arguments)
    assert outcome.status == 2
    assert message in outcome.err


def start(store: str, status: str = "FINISHED", **tags: str) -> str:
    run = RecordedRun(store, "").client.create_run(
        "0", tags={name.replace("__", "."): text for name, text in tags.items()}
    )
    RecordedRun(store, "").client.set_terminated(run.info.run_id, status)
    return str(run.info.run_id)


def test_runs_that_are_no_finished_training_are_refused_with_what_to_do(store: str) -> None:
    failed = start(store, "FAILED", lightrail__kind="fit")
    parent = start(store, lightrail__kind="seeds")
    child = start(store, lightrail__kind="fit", lightrail__seed="7", mlflow__parentRunId=parent)
    expected = {
        failed: f"Finish it with `lightrail resume {failed}`",
        parent: f"holds one run for each seed. Choose one of them: {child} (seed 7).",
        start(store, lightrail__kind="test"): "has the tag lightrail.kind 'test'",
        start(store): "was not made by lightrail",
    }
    for run_id, message in expected.items():
        outcome = lightrail("reproduce", run_id, f"--tracking.uri={store}")
        assert outcome.status == 2
        assert message in outcome.err
