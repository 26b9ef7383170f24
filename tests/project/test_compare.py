"""`lightrail compare`, with runs that were trained and with runs made up by the test."""

import json
import math
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from mlflow import MlflowClient
from mlflow.entities import Param, RunTag
from mlflow.store.artifact.artifact_repository_registry import _artifact_repository_registry

from lightrail.lightning_modules.metrics.scores import MacroF1, Score, ShareEqual, SumRatio, WeightedMean
from lightrail.project.models.predictions import with_scores
from tests.support.running import FOUR_STEPS, QUIET, Fitted, Outcome, RecordedRun, lightrail, runs_in
from tests.support.tasks.pinyin import TINY, TRANSLATOR, write_sentences
from tests.support.tracking import FarAway

SCORES: dict[str, Score] = {
    "accuracy": ShareEqual(),
    "loss": WeightedMean(column="loss", higher_is_better=False),
}
GOOD, BAD = "+" * 19 + "-", "+" * 8 + "-" * 12
NEARLY_GOOD = "+" * 18 + "--"


def predictions(answers: str, *, first_id: int = 0, target: str = "+") -> pa.Table:
    """A row for each answer, `+` or `-`."""
    losses = [0.1 if answer == "+" else 2.0 for answer in answers]
    rows = {
        "id": range(first_id, first_id + len(answers)),
        "text": [f"text {place}" for place in range(len(answers))],
        "prediction": list(answers),
        "score": pa.array([0.5] * len(answers), pa.float32()),
        "target": [target] * len(answers),
        "loss": pa.array(losses, pa.float32()),
    }
    return pa.table(rows)


@dataclass(frozen=True)
class MadeUp:
    """Writes runs into a store as `fit` does, without training any."""

    store: str
    client: MlflowClient
    experiment: str

    def run(
        self,
        name: str,
        table: pa.Table | None,
        *,
        scores: Mapping[str, Score] = SCORES,
        digest: str = "d1",
        status: str = "FINISHED",
        kind: str = "fit",
        parent: str = "",
        params: Mapping[str, str] = {},
    ) -> str:
        tags = {"lightrail.kind": kind, "lightrail.test_digest": digest, "mlflow.parentRunId": parent}
        run = self.client.create_run(
            self.experiment, run_name=name, tags={key: own for key, own in tags.items() if own}
        )
        run_id: str = run.info.run_id
        items = [Param(key, value) for key, value in params.items()]
        self.client.log_batch(run_id, params=items, tags=[RunTag("who", "test")])
        if table is not None:
            self.write(run_id, with_scores(table, scores, "accuracy") if scores else table)
        self.client.set_terminated(run_id, status)
        return run_id

    def write(self, run_id: str, table: pa.Table) -> None:
        file = RecordedRun(self.store, run_id).directory / "predictions" / "test.parquet"
        file.parent.mkdir(parents=True)
        pa.parquet.write_table(table, file)

    def compare(self, *arguments: str) -> Outcome:
        return lightrail("compare", *arguments, f"--tracking.uri={self.store}")

    def compared(self, *arguments: str) -> dict[str, Any]:
        outcome = self.compare(*arguments, "--format=json")
        assert outcome.status == 0, outcome.err
        found: dict[str, Any] = json.loads(outcome.out)
        return found

    def refusal(self, *arguments: str) -> str:
        outcome = self.compare(*arguments)
        assert (outcome.status, outcome.out) == (2, "")
        return outcome.err


@pytest.fixture
def made_up(store: str, tmp_path: Path) -> MadeUp:
    client = MlflowClient(store)
    return MadeUp(store, client, client.create_experiment("lightrail", artifact_location=f"file://{tmp_path}/runs"))


def test_trained_runs_are_compared_by_what_they_logged(fitted_classifier: Fitted, store: str, tmp_path: Path) -> None:
    arguments = [*fitted_classifier.arguments, f"--tracking.uri={store}"]
    single = lightrail("fit", *arguments, "--model.optim.lr=0.5", "--tracking.run_name=single").run_id
    group = lightrail("fit", *arguments, "--seeds=2", "--tracking.run_name=group").run_id
    outcome = lightrail("compare", "single", group[:8], f"--tracking.uri={store}", f"--output={tmp_path}/c.json")
    assert outcome.status == 0, outcome.err
    assert outcome.out == f"2 runs compared in {tmp_path}/c.json\n"
    found = json.loads((tmp_path / "c.json").read_text("utf-8"))
    assert [entry["run_id"] for entry in found["entries"]] == [single, group]
    children = [run for run in runs_in(store) if run.tags.get("mlflow.parentRunId") == group]
    for metric in ("accuracy", "f1_macro", "loss"):
        one, several = (entry["metrics"][metric] for entry in found["entries"])
        logged = [run.metrics[f"test/{metric}"] for run in children]
        assert one["value"] == pytest.approx(RecordedRun(store, single).metrics[f"test/{metric}"], rel=1e-5)
        assert several["value"] == pytest.approx(statistics.fmean(logged), rel=1e-5)
        assert several["deviation"] == pytest.approx(statistics.stdev(logged), rel=1e-4)
    assert found["main_metric"] == "accuracy"
    assert found["settings"]["model.init_args.optim.lr"] == ["0.5", "0.01"]
    assert found["num_examples"] == 11


def test_two_tasks_with_the_same_data_are_compared(store: str, tmp_path: Path) -> None:
    data = write_sentences(tmp_path)
    settings = [f"--tracking.uri={store}", *data, *FOUR_STEPS, *QUIET]
    runs = [lightrail("fit", *task, *settings).run_id for task in (TINY, TRANSLATOR)]
    outcome = lightrail("compare", *runs, f"--tracking.uri={store}", "--format=json")
    assert outcome.status == 0, outcome.err
    found = json.loads(outcome.out)
    assert [entry["run_id"] for entry in found["entries"]] == runs
    metrics = {"character_accuracy", "character_error_rate", "text_error_rate", "sentence_accuracy", "loss"}
    assert all(entry["metrics"].keys() == metrics for entry in found["entries"])
    assert (found["main_metric"], found["num_examples"]) == ("character_accuracy", 11)


def test_runs_are_named_by_id_prefix_or_name(made_up: MadeUp) -> None:
    one, other = made_up.run("one", predictions(GOOD)), made_up.run("o'ther", predictions(BAD))
    for named in ((one, other), (one[:8], other[:8]), ("one", "o'ther")):
        found = made_up.compared(*named)
        assert [entry["run_id"] for entry in found["entries"]] == [one, other]
    accuracy, loss = found["differences"]
    assert (accuracy["value"], accuracy["verdict"]) == (pytest.approx(8 / 20 - 19 / 20), "different")
    assert accuracy["p"] == pytest.approx(2 / 2**11)
    assert loss["value"] == pytest.approx(11 * 1.9 / 20, rel=1e-6)


@pytest.mark.parametrize(
    ("first", "second", "required", "said"),
    [
        (BAD, GOOD, "better", ""),
        (GOOD, BAD, "better", "second is not shown to be better: accuracy -0.5500 ["),
        (GOOD, GOOD[::-1], "better", "second is not shown to be better: accuracy +0.0000 ["),
        (NEARLY_GOOD, GOOD, "better", "second is not shown to be better: accuracy +0.0500 ["),
        (GOOD, GOOD, "not_worse:0.01", ""),
        (GOOD, NEARLY_GOOD, "not_worse:0.06", "second is not shown to be at most 0.06 worse: accuracy -0.0500 ["),
        (GOOD, BAD, "not_worse:0.1", "second is not shown to be at most 0.1 worse: accuracy -0.5500 ["),
        (BAD, GOOD, "not_worse:0", ""),
    ],
)
def test_a_comparison_is_a_gate(made_up: MadeUp, first: str, second: str, required: str, said: str) -> None:
    made_up.run("first", predictions(first))
    made_up.run("second", predictions(second))
    outcome = made_up.compare("first", "second", f"--require={required}", "--json")
    assert outcome.status == int(bool(said))
    assert said in outcome.err
    assert json.loads(outcome.out)["main_metric"] == "accuracy"


def test_less_of_a_loss_is_better_for_a_gate(made_up: MadeUp) -> None:
    made_up.run("first", predictions(BAD))
    made_up.run("second", predictions(GOOD))
    assert made_up.compare("first", "second", "--require=better", "--metric=loss").status == 0
    assert made_up.compare("second", "first", "--require=not_worse:0.5", "--metric=loss").status == 1
    made_up.run("third", predictions(NEARLY_GOOD))
    assert made_up.compare("second", "third", "--require=not_worse:0.1", "--metric=loss").status == 1
    assert made_up.compare("second", "third", "--require=not_worse:1", "--metric=loss").status == 0


@pytest.mark.parametrize("required", ["worse", "not_worse", "not_worse:-1", "not_worse:nan", "better:1"])
def test_a_gate_that_is_none_is_refused(made_up: MadeUp, required: str) -> None:
    assert "give better, or not_worse:MARGIN" in made_up.refusal("first", "second", f"--require={required}")


def test_a_name_of_several_runs_is_refused_with_their_ids(made_up: MadeUp) -> None:
    ids = [made_up.run("same", predictions(GOOD)), made_up.run("same", predictions(BAD))]
    message = made_up.refusal("same", ids[0])
    assert "2 runs are named 'same': " in message
    assert all(run_id[:8] in message for run_id in ids)


def test_a_group_represents_its_finished_runs(made_up: MadeUp) -> None:
    group = made_up.run("group", None, kind="seeds", digest="")
    runs = [made_up.run("group", predictions(own), parent=group) for own in (GOOD, GOOD[::-1], "+" * 20)]
    killed = made_up.run("group", predictions(BAD), parent=group, status="KILLED")
    made_up.run("group", predictions(BAD), parent=group, kind="test")
    made_up.run("single", predictions(BAD))
    found = made_up.compared("single", "group", "--metric", "accuracy", "loss")
    entry = found["entries"][1]
    assert (entry["run_id"], sorted(entry["runs"])) == (group, sorted(runs))
    assert entry["metrics"]["accuracy"]["value"] == pytest.approx((0.95 + 0.95 + 1) / 3)
    assert entry["metrics"]["accuracy"]["deviation"] == pytest.approx(math.sqrt(1 / 3) / 20)
    assert any(f"left out, as they are not finished: {killed[:8]} (KILLED)" in note for note in found["notes"])
    assert any("single: a single run has no spread between seeds" in note for note in found["notes"])
    assert {difference["test"] for difference in found["differences"]} == {"Student"}


def test_a_group_without_a_finished_run_is_refused(made_up: MadeUp) -> None:
    group = made_up.run("group", None, kind="seeds", digest="")
    made_up.run("group", predictions(BAD), parent=group, status="FAILED")
    message = made_up.refusal(made_up.run("one", predictions(GOOD)), group)
    assert f"none is finished. Resume it: lightrail resume {group}" in message


def test_a_run_and_the_group_it_belongs_to_are_not_compared(made_up: MadeUp) -> None:
    group = made_up.run("group", None, kind="seeds", digest="")
    runs = [made_up.run("group", predictions(own), parent=group) for own in (GOOD, BAD)]
    assert f"run {runs[1]} (group) is named twice" in made_up.refusal(group, runs[1])


def test_fewer_than_two_different_runs_are_refused(made_up: MadeUp) -> None:
    one = made_up.run("one", predictions(GOOD))
    assert "1 runs to compare. Name at least two" in made_up.refusal(one)
    assert f"run {one} (one) is named twice" in made_up.refusal(one, "one")


def test_an_unknown_run_gets_the_nearest_suggested(made_up: MadeUp) -> None:
    one = made_up.run("one", predictions(GOOD))
    wrong = ("0" if one[0] != "0" else "1") + one[1:]
    assert f"Did you mean: {one[:8]} (one, " in made_up.refusal(one, wrong)
    assert "no run 'two'" in made_up.refusal(one, "two")


def test_runs_without_predictions_are_refused(made_up: MadeUp) -> None:
    one = made_up.run("one", predictions(GOOD))
    untested = made_up.run("untested", None, status="KILLED")
    foreign = made_up.run("foreign", predictions(GOOD), digest="")
    earlier = made_up.run("earlier", predictions(GOOD), scores={})
    message = made_up.refusal(one, untested)
    assert f"run {untested} (untested, KILLED) has no predictions/test.parquet: it was not tested" in message
    assert "lightrail did not make it" in made_up.refusal(one, foreign)
    assert f"Test it again: lightrail test --ckpt_path runs:/{earlier}" in made_up.refusal(one, earlier)


def test_a_damaged_file_of_predictions_is_refused(made_up: MadeUp) -> None:
    one, other = made_up.run("one", predictions(GOOD)), made_up.run("other", predictions(BAD))
    file = RecordedRun(made_up.store, other).directory / "predictions" / "test.parquet"
    file.write_bytes(b"PAR1 and no more")
    assert f"{file} cannot be read as predictions" in made_up.refusal(one, other)


def test_runs_that_were_tested_on_different_examples_are_refused(made_up: MadeUp) -> None:
    one = made_up.run("one", predictions(GOOD))
    others = {
        "digests d1 and d2": made_up.run("a", predictions(GOOD), digest="d2"),
        "20 and 19 examples": made_up.run("b", predictions(GOOD[1:])),
        "differ in the column 'id'": made_up.run("c", predictions(GOOD, first_id=1)),
        "differ in the column 'target'": made_up.run("d", predictions(GOOD, target="-")),
    }
    for said, other in others.items():
        message = made_up.refusal(one, other)
        assert said in message
        assert one[:8] in message
        assert other[:8] in message


def test_only_metrics_that_all_runs_share_are_compared(made_up: MadeUp) -> None:
    f1 = {"f1": MacroF1(labels=("+", "-")), **SCORES}
    one = made_up.run("one", predictions(GOOD), scores={**f1, "own": SumRatio(numerator="loss", denominator="id")})
    other = made_up.run("other", predictions(BAD), scores={**f1, "f1": MacroF1(labels=("+", "-", "0"))})
    found = made_up.compared(one, other)
    assert list(found["entries"][0]["metrics"]) == ["accuracy", "loss"]
    assert found["notes"] == ["f1 is left out: the runs compute it differently."]
    strange = made_up.run("strange", predictions(BAD), scores={"other": ShareEqual()})
    assert "share no metric: accuracy, loss" in made_up.refusal(made_up.run("x", predictions(GOOD)), strange)


def test_metrics_are_chosen_and_corrected_for_alone(made_up: MadeUp) -> None:
    one, other = made_up.run("one", predictions(GOOD)), made_up.run("other", predictions(BAD))
    for named in ("loss", "test/loss"):
        (difference,) = made_up.compared(one, other, "--metric", named)["differences"]
        assert difference["metric"] == "loss"
        assert difference["corrected_p"] == difference["p"]
    verdicts = {own["metric"]: own["verdict"] for own in made_up.compared(one, other)["differences"]}
    assert verdicts == {"accuracy": "different", "loss": "not tested"}
    both = made_up.compared(one, other, "--metric", "loss", "accuracy")
    assert both["main_metric"] == "loss"
    assert both["differences"][0]["p"] == difference["p"], "whatever else is compared"
    message = made_up.refusal(one, other, "--metric", "acuracy")
    assert "--metric acuracy: the runs share no such metric. Did you mean accuracy?" in message


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--output=x.pdf"], "--output 'x.pdf': unknown format. End the name in .md, .html, .json"),
        (["--format=xml"], "invalid choice: 'xml'"),
        (["--resamples=5"], "--resamples 5: give at least 100"),
        (["--resamples=many"], "invalid int value: 'many'"),
        (["--num_examples=-1"], "--num_examples -1: give 0 or more"),
        (["--out=x.md"], "no option --out. Did you mean --output?"),
    ],
)
def test_options_that_make_no_sense_are_refused(made_up: MadeUp, arguments: Sequence[str], said: str) -> None:
    assert said in made_up.refusal("one", "other", *arguments)


def test_the_format_follows_the_name_of_the_file(made_up: MadeUp, tmp_path: Path) -> None:
    one, other = made_up.run("one", predictions(GOOD)), made_up.run("other", predictions(BAD))
    beginnings = {"a.md": "# one / other", "b.html": "<!doctype html>", "c.json": "{", "d.txt": "<!doctype html>"}
    for name, beginning in beginnings.items():
        more = ["--format=html"] if name == "d.txt" else []
        assert made_up.compare(one, other, f"--output={tmp_path / name}", *more).status == 0
        assert (tmp_path / name).read_text("utf-8").startswith(beginning)
    assert made_up.compare(one, other).out == (tmp_path / "a.md").read_text("utf-8")


def test_a_file_that_cannot_be_written_is_refused(made_up: MadeUp, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.md").mkdir()
    one, other = made_up.run("one", predictions(GOOD)), made_up.run("other", predictions(BAD))
    assert "cannot write there" in made_up.refusal(one, other, f"--output={tmp_path}/file/x.md")
    assert "Is a directory" in made_up.refusal(one, other, f"--output={tmp_path}/folder.md")


def test_predictions_of_a_remote_store_are_downloaded(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_artifact_repository_registry._registry, "faraway", FarAway)
    client = MlflowClient(store)
    far = MadeUp(store, client, client.create_experiment("far", artifact_location=f"faraway://{tmp_path}/remote"))
    runs = []
    for name, answers in (("one", GOOD), ("other", BAD)):
        run_id = far.run(name, None)
        file = tmp_path / name / "test.parquet"
        file.parent.mkdir()
        pa.parquet.write_table(with_scores(predictions(answers), SCORES, "accuracy"), file)
        client.log_artifact(run_id, str(file), "predictions")
        runs.append(run_id)
    assert far.compared(*runs)["entries"][0]["metrics"]["accuracy"]["value"] == pytest.approx(0.95)


def test_an_unfinished_run_is_named(made_up: MadeUp) -> None:
    one, other = made_up.run("one", predictions(GOOD)), made_up.run("other", predictions(BAD), status="FAILED")
    assert made_up.compared(one, other)["notes"] == [f"{other[:8]} (other) is FAILED, not FINISHED."]


def test_options_may_stand_between_the_runs(made_up: MadeUp) -> None:
    one, other = made_up.run("one", predictions(GOOD)), made_up.run("other", predictions(BAD))
    found = made_up.compared(one, "--num_examples=2", other, "--resamples", "100")
    assert len(found["examples"]) == 2
    assert "100 paired bootstrap resamples" in found["method"]


def test_help_and_refusals_import_nothing_heavy() -> None:
    code = (
        "import sys; from lightrail.project.cli import main; status = main(['compare', 'one']);"
        "sys.exit(status if not {'mlflow', 'torch', 'scipy', 'numpy'} & set(sys.modules) else 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
