"""How two runs are told apart, and what counts as another package."""

import math
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pyarrow as pa
import pytest

from lightrail.project.basics.catalogue import ROOT
from lightrail.project.commands.reproduce import _package
from lightrail.project.reproducing.code import OWN_FILE, changed_places, present_file, present_files
from lightrail.project.reproducing.environment_changes import hardware_changes, needed_packages
from lightrail.project.reproducing.outcome import (
    History,
    MetricPair,
    Outcome,
    PredictionPair,
    compare_predictions,
    in_few_words,
    table,
)
from lightrail.project.reproducing.survey import Survey

CURVE: History = [(1, 0.5), (2, 0.25), (3, math.nan)]
SAME = PredictionPair(11, 0, {})


@pytest.mark.parametrize(
    ("now", "step"),
    [
        (CURVE, None),
        ([(1, 0.5), (2, math.nextafter(0.25, 1)), (3, math.nan)], 2),
        (CURVE[:2], 3),
        ([*CURVE, (4, 1.0)], 4),
        ([(1, 0.5), (3, 0.25), (4, math.nan)], 2),
        ([], 1),
        ([(1, 0.5), (2, 0.25), (3, 1.0)], 3),
    ],
)
def test_the_first_step_at_which_a_metric_differs(now: History, step: int | None) -> None:
    assert MetricPair("train/loss", CURVE, now).first_difference == step
    assert MetricPair("train/loss", now, CURVE).first_difference == step


def predictions(**columns: list[object]) -> pa.Table:
    rows = {"id": [0, 1], "target": ["a", "b"], "prediction": ["a", "a"], "score": [0.5, 0.75], "loss": [0.1, math.nan]}
    return pa.table({**rows, **columns})


def test_predictions_are_compared_row_by_row_and_column_by_column() -> None:
    own = predictions()
    assert compare_predictions(own, predictions()) == (2, 0, {})
    assert compare_predictions(own, predictions(prediction=["a", "b"])).num_different == 1
    assert compare_predictions(own, predictions(target=["b", "a"], id=[0, 2])).num_different == 2
    assert compare_predictions(own, own.slice(0, 1)) == (2, 1, {})
    assert compare_predictions(own, predictions(score=[0.75, 0.625])) == (2, 0, {"score": 0.25})
    assert compare_predictions(own, predictions(loss=[0.1, 2.0])) == (2, 0, {"loss": math.inf})
    assert compare_predictions(own, own.drop_columns(["prediction"])).num_different == 2


def test_the_verdict_names_the_differences() -> None:
    same, loss = MetricPair("val/loss", CURVE, CURVE), MetricPair("train/loss", CURVE, CURVE[:1])
    tested = MetricPair("test/loss", [(0, 0.1)], [(0, 0.100000001)])
    assert in_few_words(Outcome([same], SAME)) == "equal"
    assert Outcome([same], SAME).is_equal
    for metrics, answers, words in [
        ([same, loss], SAME, "train/loss from step 2"),
        (
            [loss, tested],
            PredictionPair(11, 2, {"loss": 0.5}),
            "train/loss from step 2, 1 other metric, 2 of 11 predictions",
        ),
        ([tested], SAME, "1 metric"),
        ([same], PredictionPair(11, 0, {"loss": 1e-7}), "the predictions' loss by up to 1e-07"),
    ]:
        assert in_few_words(Outcome(metrics, answers)) == words
        assert not Outcome(metrics, answers).is_equal


def test_the_table_shows_the_last_values_in_as_many_digits_as_tell_them_apart() -> None:
    metrics = [
        MetricPair("test/loss", [(0, 0.1)], [(0, 0.100000001)]),
        MetricPair("train/loss", [(1, 0.5), (2, 1 / 3)], [(1, 0.25), (2, 1 / 3)]),
        MetricPair("val/loss", [(1, 2.0)], []),
    ]
    lines = table(Outcome(metrics, PredictionPair(11, 2, {"loss": 0.5}))).splitlines()
    assert [line.split(maxsplit=3) for line in lines] == [
        ["metric", "then", "now", "equal"],
        ["test/loss", "0.1", "0.100000001", "no"],
        ["train/loss", "0.333333", "0.333333", "no, from step 1"],
        ["val/loss", "2", "-", "no"],
        ["predictions", "11", "rows", "no, 2 differ, loss by up to 0.5"],
    ]


def test_changed_places_are_numbered_as_in_the_present_text() -> None:
    then = b"a\nb\nc\nd\ne\n"
    assert changed_places(then, then) == []
    assert changed_places(then, b"new\na\nb\nC\nd\ne") == [1, 4, 6]
    assert changed_places(then, b"a\nb\nd\ne\n") == [3]
    assert changed_places(b"a\r\n", b"a\n") == [1]


def test_the_present_file_is_the_one_that_would_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("not_imported_yet.py", "no_package_file/inner/deep.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("raise RuntimeError('imported')")
    assert present_file("not_imported_yet.py") is None
    monkeypatch.chdir(tmp_path)
    assert present_file("not_imported_yet.py") == tmp_path / "not_imported_yet.py"
    assert present_file("no_package_file/inner/deep.py") == tmp_path / "no_package_file" / "inner" / "deep.py"
    assert present_file("no_package_file/inner/missing.py") is None
    ours = {"files": {"project/cli.py": "", "project/gone.py": ""}}
    assert list(present_files(ours)) == [("project/cli.py", ROOT / "project" / "cli.py"), ("project/gone.py", None)]
    theirs = {"files": {"not_imported_yet.py": ""}}
    assert list(present_files(theirs)) == [("not_imported_yet.py", tmp_path / "not_imported_yet.py")]


def test_needed_packages_are_requirements_of_requirements_and_not_the_tools_of_developers() -> None:
    needed = needed_packages()
    assert {"torch", "jinja2", "tokenizers", "typeshed-client", "snownlp"} <= needed
    assert needed & {"ruff", "mypy", "pytest", "hypothesis", "lightrail"} == set()


def test_hardware_counts_as_far_as_both_tell_it() -> None:
    now = {"cpu": "x", "threads": 2, "OMP_NUM_THREADS": None, "gpus": ["one"], "platform": "new", "memory_gib": 8}
    for name in ("physical_cores", "usable_cores", "instructions", "arithmetic", "visible_gpus"):
        now[name] = None
    assert hardware_changes(now, now) == []
    assert hardware_changes({"cpu": "x", "platform": "old"}, now) == []
    assert hardware_changes({"gpus": [], "threads": 2, "OMP_NUM_THREADS": "2"}, now) == ["GPUs: none -> one"]
    one, same, two = ({**now, "visible_gpus": names} for names in ("0", "3", "2,3"))
    assert hardware_changes(one, same) == []
    assert hardware_changes(one, two) == ["visible GPUs: 1 -> 2"]
    assert hardware_changes(now, one) == ["visible GPUs: all -> 1"]
    assert hardware_changes({}, now) == ["the run has no record of its hardware"]


def test_an_older_checkout_is_called_by_the_name_it_had(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / OWN_FILE).write_text("")
    commit = "git init --quiet && git add . && git -c user.name=a -c user.email=a@b commit --quiet -m first"
    subprocess.run(commit, shell=True, check=True, cwd=tmp_path)
    here = SimpleNamespace(here=SimpleNamespace(folder=tmp_path), commit="HEAD", is_own=True)
    found = SimpleNamespace(code=SimpleNamespace(repositories=[here]))
    assert _package(cast(Survey, found)) == "project"
    (tmp_path / "lightrail").mkdir()
    (tmp_path / "lightrail" / "__init__.py").write_text("")
    subprocess.run(commit, shell=True, check=True, cwd=tmp_path)
    assert _package(cast(Survey, found)) == "lightrail"
