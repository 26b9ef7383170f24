"""What `lightrail list` finds, here and in made-up source folders."""

import os
from pathlib import Path

import pytest

from lightrail.project.basics import catalogue
from lightrail.project.basics.catalogue import Component, Entry, components
from lightrail.project.basics.errors import ConfigError
from lightrail.project.commands.list import listing, run
from lightrail.project.tracking.run import start_run
from lightrail.project.tracking.settings import TrackingConfig
from tests.support.running import lightrail


@pytest.fixture
def root(tmp_path: Path) -> Path:
    files = {
        "project/experiments/small.yaml": "#  \n# A small one. \n# More.\nmodel: Tagger\n",
        "project/experiments/bare.yaml": "model: Tagger # no comment line\n",
        "lightning_modules/base.py": "class TaskModule(LightningModule): pass",
        "lightning_modules/tagging.py": '''
@final
class Tagger(base.TaskModule):
    """Tags words.

    More.
    """

class Helper: pass
class Aligner(TaskModule[int]): pass
''',
        "lightning_modules/networks/encoder.py": "class EncoderConfig(ABC): pass",
        "lightning_modules/networks/more/deep.py": 'class DeepConfig(EncoderConfig):\n    """Deep."""',
        "lightning_modules/networks/shared.py": "class SharedConfig(EncoderConfig, ABC): pass",
        "lightning_modules/networks/wide.py": 'class WideConfig(SharedConfig):\n    """Wide."""',
        "lightning_modules/metrics/other.py": "class Nested(TaskModule): pass",
        "datamodules/lines.py": 'class Lines(DataModule):\n    """A line each."""',
        "datamodules/reading/embedded.py": """
EMBEDDED: dict[str, EmbeddedSet] = {
    "news": EmbeddedSet(columns=("a",), description="News\\nof 1998.", read=lambda: rows("x")),
    "poems": EmbeddedSet("Poems.", ("text",)),
    "plain": "Just a text.",
    "none": EmbeddedSet(read=poems),
}
""",
    }
    for name, text in files.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")
    return tmp_path


def test_experiments_are_listed_by_their_first_comment(root: Path) -> None:
    assert catalogue.experiments(root) == [Entry("bare", ""), Entry("small", "A small one.")]


def test_tasks_networks_and_data_are_listed_by_their_docstring(root: Path) -> None:
    assert catalogue.tasks(root) == [Entry("Aligner", ""), Entry("Nested", ""), Entry("Tagger", "Tags words.")]
    assert catalogue.networks(root) == [Entry("DeepConfig", "Deep."), Entry("WideConfig", "Wide.")]
    assert catalogue.data_modules(root) == [Entry("Lines", "A line each.")]


def test_embedded_sets_are_listed_by_their_description(root: Path) -> None:
    described = [Entry("news", "News"), Entry("poems", "Poems."), Entry("plain", "Just a text."), Entry("none", "")]
    assert catalogue.embedded_sets(root) == described


def test_nothing_is_found_where_nothing_is(tmp_path: Path) -> None:
    finders = (catalogue.experiments, catalogue.tasks, catalogue.networks, catalogue.data_modules)
    assert [find(tmp_path) for find in (*finders, catalogue.embedded_sets)] == [[]] * 5


def test_components_know_the_module_they_are_imported_from(root: Path) -> None:
    (root / "datamodules/inner").mkdir()
    (root / "datamodules/inner/__init__.py").write_text("class Reader: pass")
    found = {component.name: component for component in components(root / "datamodules", root=root)}
    assert found["Reader"].module == "lightrail.datamodules.inner"
    assert found["Lines"] == Component("Lines", "lightrail.datamodules.lines", ("DataModule",), "A line each.")


def test_what_ships_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 0
    shown = capsys.readouterr().out
    assert shown == listing()
    assert any(line.split()[:1] == ["TextClassifier"] and "label" in line for line in shown.splitlines())
    assert any(line.split()[:1] == ["TextCnnConfig"] for line in shown.splitlines())
    for name in ("text_classification", "TransformerConfig", "TextClassificationData", "peoples_daily"):
        assert f"\n  {name} " in shown
    assert "none" not in shown.split()


def test_everything_listed_has_a_summary() -> None:
    finders = (catalogue.experiments, catalogue.tasks, catalogue.networks, catalogue.data_modules)
    for find in (*finders, catalogue.embedded_sets):
        entries = find()
        assert entries
        assert all(entry.summary for entry in entries)


def test_list_takes_no_arguments() -> None:
    with pytest.raises(ConfigError, match="takes no arguments, or `runs`; found 'tasks --all'"):
        run(["tasks", "--all"])


def test_the_last_runs_are_listed_and_one_whose_process_is_gone_is_closed(store: str) -> None:
    process = os.fork()
    if process == 0:
        start_run(TrackingConfig(uri=store, run_name="gone"), {}, {"lightrail.kind": "fit"})
        os._exit(0)
    os.waitpid(process, 0)
    finished = start_run(TrackingConfig(uri=store, run_name="done"), {}, {"lightrail.task": "Tagger"})
    with finished.status():
        finished.logger.log_metrics({"test/f1": 0.25}, step=0)
    head, *rows = lightrail("list", "runs", f"--tracking.uri={store}").out.splitlines()
    assert head.split() == ["run", "status", "started", "name", "result"]
    shown = {tuple(row.split()[1:2] + row.split()[4:]) for row in rows}
    assert shown == {("FAILED", "gone"), ("FINISHED", "done", "f1", "0.2500")}
    assert finished.run_id[:8] in {row.split()[0] for row in rows}


def test_a_line_has_the_metric_of_selection_and_counts_the_runs_below_it(store: str) -> None:
    tracking = TrackingConfig(uri=store, run_name="a name of many more characters than fit")
    parent = start_run(tracking, {}, {"lightrail.kind": "sweep"})
    with parent.status():
        parent.logger.log_metrics({"best/accuracy": 0.75, "trials/complete": 2.0}, step=0)
        for number in range(2):
            child = start_run(
                TrackingConfig(uri=store, run_name=f"trial {number}"), {}, {"mlflow.parentRunId": parent.run_id}
            )
            with child.status():
                pass
    alone = start_run(TrackingConfig(uri=store, run_name="alone"), {}, {"lightrail.metric": "f1"})
    with alone.status():
        alone.logger.log_metrics({"test/accuracy": 0.5, "test/f1": 0.25, "test/loss": 1.0}, step=0)

    _, first, second = lightrail("list", "runs", f"--tracking.uri={store}").out.splitlines()
    assert first.endswith("  alone                 f1 0.2500")
    assert second.endswith("  a name of many mo...  2 runs, accuracy 0.7500")
    assert max(len(first), len(second)) <= 80
    assert len(lightrail("list", "runs", "--number=1", f"--tracking.uri={store}").out.splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tracking.url=1"], "no option --tracking.url. Did you mean --tracking.uri?"),
        (["x"], "unexpected argument 'x'"),
    ],
)
def test_an_option_of_list_runs_that_there_is_not_is_refused(arguments: list[str], message: str) -> None:
    outcome = lightrail("list", "runs", *arguments)
    assert outcome.status == 2
    assert message in outcome.err
