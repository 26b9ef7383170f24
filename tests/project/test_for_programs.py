"""`--json`: what commands print, for programs."""

import json
from typing import Any

import pytest

from tests.support.running import Fitted, lightrail


def printed(*arguments: str) -> Any:
    outcome = lightrail(*arguments)
    assert outcome.status == 0, outcome.err
    return json.loads(outcome.out)


def test_a_run_is_trained_and_listed(fitted_classifier: Fitted, store: str) -> None:
    arguments = [*fitted_classifier.arguments, f"--tracking.uri={store}"]
    result = printed("fit", "--json", *arguments, "--tracking.run_name=mine")
    assert result["metrics"]["test/accuracy"] <= 1
    (listed,) = printed("list", "runs", "--json", f"--tracking.uri={store}")
    assert listed["run_id"] == result["run_id"]
    assert (listed["name"], listed["status"], listed["task"]) == ("mine", "FINISHED", "TextClassifier")
    assert listed["metrics"] == pytest.approx(result["metrics"])
    assert listed["started"].endswith("+00:00")


def test_a_check_gives_the_data_and_what_was_measured(fitted_classifier: Fitted, store: str) -> None:
    found = printed("check", *fitted_classifier.arguments, f"--tracking.uri={store}", "--json")
    splits = found["data"]["splits"]
    assert set(splits) == {"train", "validation", "test"}
    assert sum(splits["train"]["labels"].values()) == splits["train"]["rows"]
    assert all(finding["severity"] in ("note", "warning") for finding in found["data"]["findings"])
    assert found["measured"]["num_parameters"] > 0


def test_a_sweep_gives_json_of_its_status_alone() -> None:
    outcome = lightrail("sweep", "classifier", "--json")
    assert outcome.status == 2
    assert "--status --json" in outcome.err
