"""A run of a language model, which has losses and no answers, is stored, described and asked like any other."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes

from lightrail.lightning_modules.causal_lm import CausalLM
from lightrail.lightning_modules.networks.decoders.transformer_decoder import TransformerDecoderConfig
from lightrail.project.figures.draw import draw
from tests.support.running import FOUR_STEPS, QUIET, RecordedRun, lightrail
from tests.support.tasks.causal_lm import OURS, TEXTS, write_texts

pytestmark = pytest.mark.pictures

RANGES = np.array([[1.0, 4.0, 10], [2.0, 3.0, 10], [3.5, np.inf, 1]])


def test_the_loss_is_drawn_by_position(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    plot = Axes.plot

    def keep(axes: Axes, *values: Any, **settings: Any) -> Any:
        drawn.append([own.tolist() for own in values])
        return plot(axes, *values, **settings)

    monkeypatch.setattr(Axes, "plot", keep)
    task = CausalLM({"size": 5}, decoder=TransformerDecoderConfig(width=4, num_heads=1, depth=1))
    task.tables["loss_by_position"] = torch.from_numpy(RANGES)
    (figure,) = task.figures({}, lambda _: {})
    draw(figure, tmp_path)
    assert drawn == [[[1.0, 2.0, 3.5], [4.0, 3.0, np.inf]]]
    assert (tmp_path / "figures" / "loss_by_position.png").stat().st_size > 1000
    task.tables["loss_by_position"] = torch.zeros(0, 3)
    assert not list(task.figures({}, lambda _: {}))


def test_a_language_model_is_trained_and_asked(store: str, tmp_path: Path) -> None:
    settings = [*write_texts(tmp_path, TEXTS["train"], "--data.blocks.length=12"), *OURS]
    outcome = lightrail("fit", *settings, *FOUR_STEPS, *QUIET, f"--tracking.uri={store}")
    assert outcome.status == 0, outcome.err
    assert set(outcome.metrics) == {
        f"test/{name}" for name in ("loss", "perplexity", "bits_per_character", "bits_per_byte", "token_accuracy")
    }
    run = RecordedRun(store, outcome.run_id)
    assert {path.name for path in (run.directory / "figures").iterdir()} == {
        "learning_curves.png",
        "lengths.png",
        "loss_by_position.png",
    }
    assert (run.directory / "samples" / "highest_losses.csv").exists()
    assert "texts with the highest loss" in run.tags["mlflow.note.content"]
    assert [step for step, _ in run.history("val/bits_per_character")] == [2, 4]
    assert "".join(run.predictions["text"].to_pylist()) == "".join(TEXTS["test"])

    (tmp_path / "asked.txt").write_text("山有木\nab\n", encoding="utf-8")
    asked = lightrail(
        "predict",
        f"--tracking.uri={store}",
        f"--ckpt_path=runs:/{outcome.run_id}",
        f"--data.path={tmp_path}/asked.txt",
        *QUIET,
    )
    assert asked.status == 0, asked.err
    rows = [json.loads(line) for line in asked.out.splitlines()]
    assert [(row["line"], row["text"], row["num_targets"], row["num_bytes"]) for row in rows] == [
        (1, "山有木", 4, 9),
        (2, "ab", 3, 2),
    ]
    assert all(row["score"] == pytest.approx(np.exp(-row["loss"]), rel=1e-5) for row in rows)
