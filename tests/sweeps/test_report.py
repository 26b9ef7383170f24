"""What a sweep leaves in MLflow is read back as others would: by the client, as YAML, CSV, HTML and pictures."""

import csv
import re
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from mlflow import MlflowClient
from optuna.trial import FixedTrial
from PIL import Image

from lightrail.project.commands.sweep import run as run_command
from lightrail.project.configuration import parse
from lightrail.project.tracking.run import TrackedRun
from lightrail.sweeps.report.concluding import conclude
from lightrail.sweeps.report.description import WIDTH, status_table
from lightrail.sweeps.report.figures import redrawn, write_figures
from lightrail.sweeps.report.tables import short_names, write_best
from lightrail.sweeps.search.definition import Sweep
from lightrail.sweeps.search.outcomes import best_outcomes, figures_of, outcomes_of
from lightrail.sweeps.search.study import HALVED, WARM_START, open_storage, open_study
from tests.support.made_studies import ACCURACY, LOSS, SPACE, STEPS, Story, make_parent, make_sweep

pytestmark = [pytest.mark.pictures, pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")]

VALUES = [[0.5], [0.9], [0.4], [0.7], [0.8], [0.6], [0.3], [0.65]]
TWO_METRICS: dict[str, Any] = {"metric": [ACCURACY, LOSS], "direction": ["maximize", "minimize"]}
FIGURES = ["intermediate_values", "optimization_history", "parallel_coordinate", "param_importances", "slice"]


@dataclass(frozen=True)
class Done:
    """A sweep that is over."""

    study: optuna.Study
    sweep: Sweep
    parent: TrackedRun
    last_line: str


def concluded(study: optuna.Study, story: Story, parent: TrackedRun) -> str:
    with parent.status():
        return conclude(study, story.sweep, parent)


@pytest.fixture
def parent(store: str) -> TrackedRun:
    return make_parent(store)


@pytest.fixture
def story(tmp_path: Path, store: str, parent: TrackedRun) -> Story:
    """Eight finished trials: 2 is pruned, 3 crashes, 4 is interrupted and goes on, 1 is the best."""
    sweep = make_sweep(tmp_path, store)
    return Story(sweep, VALUES, pruned=[2], failed=[3], interrupted=[4], parent=parent)


@pytest.fixture(scope="module")
def done(store_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """The same in a SQLite file, concluded."""
    folder = tmp_path_factory.mktemp("done")
    shutil.copy(store_template, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        store = f"sqlite:///{folder}/mlflow.db"
        sweep, parent = make_sweep(folder, store, storage=f"sqlite:///{folder}/sweeps.db"), make_parent(store)
        story = Story(sweep, VALUES, pruned=[2], failed=[3], interrupted=[4], parent=parent)
        study = story.tell(open_study(sweep, open_storage(sweep)))
        return Done(study, sweep, parent, concluded(study, story, parent))


def run_of(study: optuna.Study, number: int) -> str:
    return str(study.trials[number].user_attrs["runs"]["0"])


def rows_of(parent: TrackedRun) -> list[dict[str, str]]:
    with (parent.directory / "trials.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_parent_run_holds_the_study(done: Done) -> None:
    client = MlflowClient(done.parent.logger.uri)
    run = client.get_run(done.parent.run_id)
    assert done.last_line == (
        f"sweep {done.parent.run_id} finished: best/character_accuracy=0.9000 "
        "trials/complete=6 trials/pruned=1 trials/fail=1"
    )
    assert run.data.metrics["best/character_accuracy"] == 0.9
    assert (run.data.metrics["trials/pruned"], run.data.metrics["trials/fail"]) == (1, 1)
    names = {item.path for item in client.list_artifacts(done.parent.run_id, "figures")}
    assert names == {f"figures/{name}.png" for name in FIGURES}
    note = run.data.tags["mlflow.note.content"]
    assert "Best trial 1: val/character_accuracy **0.9000**" in note
    assert "`lightrail fit --config best.yaml`" in note
    assert "- `model.optim.lr=" in note


def test_best_yaml_is_the_best_trials_configuration(done: Done) -> None:
    settings = done.sweep.space.suggest(FixedTrial(done.study.trials[1].params))
    again = parse([f"--config={done.parent.directory}/best.yaml"])
    assert again == done.sweep.configuration(settings, done.sweep.seeds[0])
    assert again.values["model"]["init_args"]["optim"]["lr"] == done.study.trials[1].params["model.optim.lr"]


def test_best_yaml_has_the_half_batches_of_a_trial_that_ran_out_of_memory(done: Done, tmp_path: Path) -> None:
    whole = yaml.safe_load((done.parent.directory / "best.yaml").read_text("utf-8"))
    best = best_outcomes(outcomes_of(done.study, done.sweep), done.sweep)[0]
    best.trial.user_attrs[HALVED] = True
    write_best([best], done.sweep, tmp_path)
    halved = yaml.safe_load((tmp_path / "best.yaml").read_text("utf-8"))
    sizes = [own["data"]["init_args"]["batch"]["size"] for own in (whole, halved)]
    assert sizes[1] * 2 == sizes[0]
    assert [own["trainer"]["accumulate_grad_batches"] for own in (whole, halved)] == [1, 2]


def test_the_table_counts_an_interrupted_trial_once(done: Done) -> None:
    rows = rows_of(done.parent)
    assert [row["trial"] for row in rows] == ["0", "1", "2", "3", "4", "6", "7", "8"]
    assert [row["state"] for row in rows].count("complete") == 6
    by_number = {row["trial"]: row for row in rows}
    assert (by_number["4"]["state"], by_number["4"][ACCURACY]) == ("complete", "0.8")
    assert (by_number["2"]["state"], by_number["2"]["last_step"]) == ("pruned", str(STEPS[1]))
    assert by_number["3"]["failure"] == "RuntimeError: it <crashed>"
    widths = "network.lstm.model.encoder.width", "network.transformer.model.encoder.depth"
    for row in rows:
        assert bool(row[widths[0]]) == (row["network"] == "lstm") != bool(row[widths[1]])


def test_the_best_run_is_tagged_and_registered(done: Done) -> None:
    client = MlflowClient(done.parent.logger.uri)
    assert client.get_run(run_of(done.study, 1)).data.tags["lightrail.best"] == "true"
    version = client.get_model_version_by_alias("tiny", "best")
    assert version.run_id == run_of(done.study, 1)
    assert Path(version.source.removeprefix("file://")).read_bytes() == b"weights"
    assert version.tags["lightrail.trial"] == "1"


def test_a_study_that_grew_has_one_best_run_and_no_version_twice(story: Story, parent: TrackedRun) -> None:
    study = story.tell()
    concluded(study, story, parent)
    conclude(study, story.sweep, parent)
    client = MlflowClient(parent.logger.uri)
    assert len(client.search_model_versions("name='tiny'")) == 1
    more = Story(story.sweep, [*VALUES, [0.95]], parent=parent)
    more.study = study
    study.optimize(more._objective, n_trials=1)
    conclude(study, story.sweep, parent)
    tagged = client.search_runs([parent.experiment_id], "tags.`lightrail.best` = 'true'")
    assert [run.info.run_id for run in tagged] == [run_of(study, 9)]
    assert client.get_model_version_by_alias("tiny", "best").run_id == run_of(study, 9)


def test_a_store_without_a_registry_is_only_a_warning(
    story: Story, parent: TrackedRun, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from mlflow.exceptions import MlflowException

    def refuse(*_: Any, **__: Any) -> None:
        raise MlflowException("this store has no model registry")

    monkeypatch.setattr(MlflowClient, "search_registered_models", refuse)
    assert "finished:" in concluded(story.tell(), story, parent)
    assert "the best model is not registered: this store has no model registry" in caplog.text


def test_the_report_stands_alone_with_one_plotly_and_escapes_what_trials_say(done: Done) -> None:
    report = (done.parent.directory / "report.html").read_text("utf-8")
    assert not re.search(r"<(?:script|link|img|iframe)[^>]*(?:src|href)\s*=", report)
    assert report.count("<script>/**") == 1
    assert 3_000_000 < len(report) < 7_000_000  # plotly itself is inside, once
    assert not list(done.parent.directory.rglob("figures/*.html"))
    assert "RuntimeError: it &lt;crashed&gt;" in report
    assert report.count("Plotly.newPlot(  ") == len(FIGURES)
    assert report.count('<tr class="best"><td>1</td>') == 1


def test_figures_show_something(done: Done) -> None:
    for name in FIGURES:
        with Image.open(done.parent.directory / "figures" / f"{name}.png") as image:
            assert min(image.size) > 300
            assert len(image.convert("RGB").getcolors(1_000_000) or []) > 10


def test_reports_of_pruned_trials_are_seen(done: Done) -> None:
    text = (done.parent.directory / "report.html").read_text("utf-8")
    for label in ("trial 1 (best)", "trial 2 (pruned)", "trial 3 (failed)"):
        assert label in text
    assert not re.search(r"trial 5\b", text)  # the number under which 4 went on


@pytest.mark.parametrize("values", [[], [[0.5]], [[0.5], [0.5], [0.5], [0.5]]], ids=["none", "one", "equal"])
def test_what_cannot_be_drawn_is_left_out(
    tmp_path: Path,
    store: str,
    parent: TrackedRun,
    values: list[list[float]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    sweep = make_sweep(tmp_path, store, space={"model.optim.lr": {"low": 0.01, "high": 0.01}})
    story = Story(sweep, values, parent=parent)
    last = concluded(story.tell(), story, parent)
    names = {file.stem for file in (parent.directory / "figures").glob("*")}
    assert names == ({"optimization_history", "intermediate_values"} if values else set())
    assert last.endswith(f"trials/complete={len(values)} trials/pruned=0 trials/fail=0")
    assert ("omitted" if values else "no complete trial") in caplog.text
    assert (parent.directory / "best.yaml").exists() == bool(values)


@pytest.mark.parametrize(
    ("values", "ended", "why"),
    [
        ([[0.5], [0.6]], {"failed": [1], "pruned": [0]}, "trial 1 failed: RuntimeError: it <crashed>"),
        ([[0.5]], {"pruned": [0]}, "all were pruned"),
        ([], {}, "none was started"),
        ([[0.5], [0.6]], {"failed": [1]}, ""),
    ],
)
def test_a_sweep_without_one_complete_trial_ends_with_status_1_and_says_why(
    tmp_path: Path,
    store: str,
    parent: TrackedRun,
    values: list[list[float]],
    ended: dict[str, list[int]],
    why: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sweep = make_sweep(tmp_path, store, space={"model.optim.lr": {"low": 0.01, "high": 0.01}})
    story = Story(sweep, values, parent=parent, **ended)
    last = concluded(story.tell(), story, parent)
    monkeypatch.setattr("lightrail.sweeps.command.run_sweep", lambda _: last)
    assert run_command([]) == (1 if why else 0)
    assert (f"no trial was trained to the end; {why}" in caplog.text) == bool(why)


def test_a_figure_that_fails_does_not_end_the_sweep_badly(
    story: Story, parent: TrackedRun, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no ink")

    monkeypatch.setattr("lightrail.sweeps.report.figures.slices", fail)
    concluded(story.tell(), story, parent)
    assert "the figure slice is omitted: RuntimeError: no ink" in caplog.text
    assert (parent.directory / "figures" / "param_importances.png").exists()


def test_a_pareto_front_has_a_configuration_for_each_point(
    tmp_path: Path,
    store: str,
    parent: TrackedRun,
) -> None:
    sweep = make_sweep(tmp_path, store, **TWO_METRICS)
    values = [[0.5, 0.5], [0.9, 0.4], [0.8, 0.2], [0.9, 0.4], [0.7, 0.3], [0.95, 0.9]]
    story = Story(sweep, values, parent=parent)
    study = story.tell()
    last = concluded(study, story, parent)
    assert "best/character_accuracy=0.9500 best/loss=0.2000" in last
    assert {file.name for file in (parent.directory / "best").iterdir()} == {"01.yaml", "02.yaml", "05.yaml"}
    for number in (1, 2, 5):
        settings = sweep.space.suggest(FixedTrial(study.trials[number].params))
        own = parse([f"--config={parent.directory}/best/{number:02}.yaml"])
        assert own == sweep.configuration(settings, sweep.seeds[0])
    assert {trial.number for trial in study.best_trials} >= {1, 2, 5}  # Optuna agrees
    figures = {file.name for file in (parent.directory / "figures").iterdir()}
    assert {"pareto_front.png", "slice_loss.png", "param_importances_loss.png"} <= figures
    client = MlflowClient(store)
    for number in (1, 2, 5):
        assert client.get_model_version_by_alias("tiny", f"best-{number}").run_id == run_of(study, number)


def test_several_metrics_are_explained_each_in_its_own_direction(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, **TWO_METRICS, space={name: SPACE[name] for name in ("model.optim.lr",)})
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=optuna.samplers.RandomSampler(seed=0))

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        rate = sweep.space.suggest(trial)["model.optim.lr"]
        other = trial.suggest_float("other", 0, 1)
        return (other if other > 0.8 else 0.1 * rate), rate

    study.optimize(objective, n_trials=60)
    pages = write_figures(outcomes_of(study, sweep), sweep, None, tmp_path / "figures")
    bars = {page.layout.title.text: page.data[0] for page in pages}
    for metric, most in ((ACCURACY, "other"), (LOSS, "lr")):
        own = bars[f"Importance of the settings: {metric}"]
        assert max(zip(own.x, own.y, strict=True))[1] == most


def test_several_seeds_are_several_runs_of_one_trial(
    tmp_path: Path,
    store: str,
    parent: TrackedRun,
) -> None:
    sweep = make_sweep(tmp_path, store, seeds=2)
    story = Story(sweep, [[0.5], [0.9], [0.7]], parent=parent)
    study = story.tell()
    concluded(study, story, parent)
    runs = set(study.trials[1].user_attrs["runs"].values())
    tagged = MlflowClient(store).search_runs([parent.experiment_id], "tags.`lightrail.best` = 'true'")
    assert {run.info.run_id for run in tagged} == runs
    assert len(runs) == 2
    assert MlflowClient(store).get_model_version_by_alias("tiny", "best").run_id in runs


def test_trials_that_the_sampler_has_learnt_from_are_not_reported(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path)
    study = Story(sweep, [[0.5], [0.6]]).tell()
    earlier = optuna.trial.create_trial(
        params=study.trials[0].params,
        distributions=study.trials[0].distributions,
        value=0.99,
        user_attrs={WARM_START: "trial 3 of another"},
    )
    study.add_trial(earlier)
    outcomes = outcomes_of(study, sweep)
    assert [own.number for own in outcomes] == [0, 1]
    assert figures_of(outcomes, sweep)["best/character_accuracy"] == 0.6


def test_redrawn_trials_keep_the_numbers_under_which_they_began(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path)
    study = Story(sweep, [[0.5], [0.6], [0.7]], interrupted=[1]).tell()
    assert [trial.number for trial in study.trials if trial.state.name == "COMPLETE"] == [0, 2, 3]
    drawn = redrawn(outcomes_of(study, sweep), sweep)
    assert [(t.number, t.value) for t in drawn.trials if t.state.name == "COMPLETE"] == [(0, 0.5), (1, 0.6), (3, 0.7)]
    assert drawn.trials[0].intermediate_values == pytest.approx({2: 0.4, 4: 0.45, 6: 0.5})


def test_status_shows_every_trial_in_the_width_of_a_terminal(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path)
    study = Story(sweep, VALUES, pruned=[2], failed=[3], interrupted=[4]).tell()
    study.ask()
    text = status_table(study, sweep)
    lines = text.splitlines()
    assert lines[0] == "sweep tiny: 8 of 8 trials are finished (6 complete, 1 fail, 1 pruned, 1 running)"
    assert max(map(len, lines)) <= WIDTH
    rows = {line.split("|")[1].strip(): line for line in lines if line.startswith("|")}
    assert "0.9000" in rows["1"]
    assert "(0.3600)" in rows["2"]  # what it had reached when it was given up
    assert "running" in rows["9"]
    head = [name.strip() for name in rows["trial"].strip("|").split("|")]
    assert head == ["trial", "state", "character_accuracy", "seconds", "lr", "size", "network", "width", "depth"]
    assert "best: trial 1 with val/character_accuracy=0.9000 (run run-1-0)" in text
    assert "trial 3 failed: RuntimeError: it <crashed>" in text


def test_status_with_many_settings_shares_one_column_among_them(tmp_path: Path) -> None:
    names = ["optim.lr", "optim.weight_decay", "optim.warmup_fraction", "encoder.dropout", "encoder.width"]
    names += ["optim.layer_decay", "label_smoothing", "encoder.ngram_buckets", "encoder.token_dropout_probability"]
    space = {f"model.{name}": {"low": 0.1, "high": 0.2} for name in names}
    sweep = make_sweep(tmp_path, space=space)
    study = optuna.create_study(direction="maximize")
    study.optimize(lambda trial: sum(sweep.space.suggest(trial).values()), n_trials=2)
    lines = status_table(study, sweep).splitlines()
    assert max(map(len, lines)) <= WIDTH
    head = next(line for line in lines if line.startswith("| trial"))
    assert head.rstrip(" |").endswith("settings")
    for name in names:
        assert sum(line.startswith("|") and f"{name.split('.')[-1]}=" in line for line in lines) == 2


def test_status_of_a_study_without_trials(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path)
    study = optuna.create_study(direction="maximize")
    assert status_table(study, sweep) == "sweep tiny: 0 of 8 trials are finished"


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["model.optim.lr", "data.batch.size"], ["lr", "size"]),
        (["model.encoder.dropout", "model.head.dropout"], ["encoder.dropout", "head.dropout"]),
        (["network.lstm.model.encoder.depth", "network.cnn.model.encoder.depth"], ["lstm…depth", "cnn…depth"]),
        (["a.x.b.z", "c.x.d.z"], ["b.z", "d.z"]),
        (["network", "network.lstm.network"], ["network", "lstm.network"]),
    ],
)
def test_names_are_cut_to_what_tells_them_apart(names: list[str], short: list[str]) -> None:
    assert list(short_names(names).values()) == short
