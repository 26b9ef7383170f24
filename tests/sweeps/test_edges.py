"""A setting that is best at an end of its range is a finding of the sweep, beside those of the best trial's run."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow import MlflowClient
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import create_trial

from lightrail.project.findings.finding import Finding
from lightrail.project.findings.rules import write_findings
from lightrail.sweeps.report.concluding import conclude
from lightrail.sweeps.report.edges import setting_at_edge
from lightrail.sweeps.search.outcomes import Outcome
from tests.support.made_studies import Story, make_parent, make_sweep

RATE = FloatDistribution(1e-4, 1e-1, log=True)


def outcomes(distribution: BaseDistribution, values: Sequence[Any]) -> list[Outcome]:
    """Complete trials with these values of one setting, the best first."""
    trials = [
        create_trial(params={"x": value}, distributions={"x": distribution}, value=1 - place / 10)
        for place, value in enumerate(values)
    ]
    return [Outcome(number, own, [own.value or 0.0], 1.0) for number, own in enumerate(trials)]


@pytest.mark.parametrize(
    ("distribution", "values", "side"),
    [
        (RATE, [0.09, 0.05, 0.03, 1e-3, 1e-2, 1e-4], "high"),
        (RATE, [1.5e-4, 3e-4, 4e-4, 1e-3, 1e-2, 1e-1], "low"),
        (IntDistribution(2, 5), [5, 5, 5, 2, 3, 4], "high"),
        (IntDistribution(2, 5), [5, 4, 5, 2, 3, 4], None),
        (RATE, [0.09, 1e-3, 0.03, 1e-3, 1e-2, 1e-4], None),  # one that is lucky
        (RATE, [0.03, 0.09, 0.09, 1e-3, 1e-2, 1e-4], None),
        (RATE, [0.09, 0.05, 0.03, 1e-3, 1e-2], None),  # too few trials
        (FloatDistribution(0, 0.5), [0, 0.01, 0.01, 0.2, 0.3, 0.4], None),  # a dropout cannot be lower
        (FloatDistribution(0.1, 1), [1, 0.95, 0.99, 0.2, 0.3, 0.4], None),
        (IntDistribution(1, 4), [1, 1, 1, 2, 3, 4], None),
        (IntDistribution(4, 4), [4, 4, 4, 4, 4, 4], None),
        (CategoricalDistribution([16, 32]), [16, 16, 16, 16, 16, 16], None),
    ],
)
def test_a_number_is_at_an_edge_when_the_best_trials_share_it(
    distribution: BaseDistribution, values: list[Any], side: str | None, tmp_path: Path
) -> None:
    own = outcomes(distribution, values)
    found = setting_at_edge(own, own[0], make_sweep(tmp_path))
    assert (found is not None) == (side is not None)
    assert side is None or f"at the {side} end of" in str(found)


@pytest.mark.pictures
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_report_shows_the_findings_of_the_sweep_and_of_its_best_trial(tmp_path: Path, store: str) -> None:
    parent = make_parent(store)
    sweep = make_sweep(tmp_path, store, space={"model.optim.lr": {"low": 1e-4, "high": 1e-1, "log": True}})
    rates = [0.09, 0.05, 0.06, 1e-3, 1e-2, 1e-4]
    story = Story(sweep, [[0.9 - place / 10] for place in range(6)], parent=parent)
    study = optuna.create_study(study_name=sweep.name, directions=["maximize"])
    for rate in rates:
        study.enqueue_trial({"model.optim.lr": rate})
    story.tell(study)
    client = MlflowClient(store)
    best = client.get_run(study.trials[0].user_attrs["runs"]["0"])
    folder = Path(best.info.artifact_uri.removeprefix("file://"))
    for name, value in write_findings([Finding("over-fitted", "warning", "it is.")], folder).items():
        client.set_tag(best.info.run_id, name, value)
    with parent.status():
        conclude(study, sweep, parent)
    tags = client.get_run(parent.run_id).data.tags
    assert tags["lightrail.findings"] == "setting-at-edge over-fitted"
    edge = "the best trials have model.optim.lr=0.09 at the high end of 0.0001 to 0.1. Widen the range there."
    assert f"- note **setting-at-edge**: {edge} " in tags["mlflow.note.content"]
    assert "- warning **over-fitted**: trial 0: it is. " in tags["mlflow.note.content"]
    assert [own["message"] for own in json.loads((parent.directory / "findings.json").read_text("utf-8"))] == [
        edge,
        "trial 0: it is.",
    ]
    assert f"setting-at-edge: {edge}" in (parent.directory / "report.html").read_text("utf-8")
