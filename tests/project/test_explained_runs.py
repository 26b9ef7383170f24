"""The page of a run that explains a few validation examples."""

import logging
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightrail.lightning_modules.explaining.explanation import Explanation
from lightrail.lightning_modules.text_classification import TextClassifier
from lightrail.project.configuration import parse
from lightrail.project.figures import explained
from lightrail.project.figures.explained import EXPLAINED, write_explained
from lightrail.project.running.build import build
from tests.support.running import FOUR_STEPS, QUIET, Fitted, lightrail
from tests.support.tasks import text_classification, translation

TINY = ["--model.encoder.width=8", "--model.encoder.depth=1", "--model.encoder.num_heads=2"]


@pytest.mark.parametrize("fixture", ["fitted_classifier", "fitted_pinyin"])
def test_a_run_explains_three_validation_examples(fixture: str, request: pytest.FixtureRequest) -> None:
    fitted: Fitted = request.getfixturevalue(fixture)
    page = (fitted.directory / EXPLAINED).read_text("utf-8")
    assert page.count("<h2>Text ") == 3
    assert "Integrated gradients, 16 steps" in page
    assert "<svg" not in page
    note = fitted.client.get_run(fitted.run_id).data.tags["mlflow.note.content"]
    assert f"what a few predictions were made of in `{EXPLAINED}`." in note


def test_a_run_of_an_encoder_decoder_shows_alignments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = f"--tracking.uri=sqlite:///{tmp_path}/mlflow.db"
    run_id = lightrail("fit", *translation.settings(tmp_path), *FOUR_STEPS, *QUIET, store).run_id
    (page,) = tmp_path.glob(f"mlruns/*/{run_id}/artifacts/{EXPLAINED}")
    assert page.read_text("utf-8").count("Alignment of source and target") == 3


def test_what_cannot_be_explained_is_left_out_with_a_line_and_changes_no_random_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    experiment = build(parse([*text_classification.write_texts(tmp_path), *TINY, "--trainer.max_steps=1"]), "fit")
    task, data = experiment.model, experiment.data
    task.trainer = experiment.trainer
    (tmp_path / "samples").mkdir()

    def broken(*_: Any) -> Iterator[Explanation]:
        torch.rand(1), np.random.random(), random.random()
        raise ValueError("no\nway")
        yield

    before = torch.random.get_rng_state(), np.random.get_state()[1], random.getstate()  # type: ignore[index]
    caplog.set_level(logging.INFO)
    with monkeypatch.context() as patch:
        patch.setattr(TextClassifier, "explain_batch", broken)
        write_explained(data, task, tmp_path)
    assert [own.getMessage() for own in caplog.records if own.levelno == logging.WARNING] == [
        f"{EXPLAINED} is left out: ValueError: no"
    ]
    for name, value, reason in (
        ("_MOST_WEIGHTS", 10, "it takes too long with "),
        ("_MOST_POSITIONS", 0, "no validation example has at most 0 positions"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(explained, name, value)
            write_explained(data, task, tmp_path)
        assert f"{EXPLAINED} is left out: {reason}" in caplog.records[-1].getMessage()
    assert not (tmp_path / EXPLAINED).exists()
    write_explained(data, task, tmp_path)
    assert (tmp_path / EXPLAINED).exists()
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # type: ignore[index]
    assert before[2] == random.getstate()
    assert task.training
