"""Every shipped sweep is one: each setting exists, and trials at the ends of its space can be built."""

from dataclasses import replace
from pathlib import Path

import pytest

from lightrail.project.basics.catalogue import experiment_files, sweep_files
from lightrail.sweeps.command import build_corners
from lightrail.sweeps.search.definition import Sweep, load
from lightrail.sweeps.search.warm_start import enqueued_points
from tests.support.guides import FILES, OF_THE_CHECKPOINT, QUIET, SMALL_DATA, class_name
from tests.support.tasks.causal_lm import write_gpt2

PRETRAINED = ["--model.decoder.checkpoint=gpt", *OF_THE_CHECKPOINT]


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go to a folder with small data and a small pretrained network."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def on_small_data(sweep: Sweep, folder: Path) -> Sweep:
    values = sweep.configuration({}).values
    more = [f"--data.{setting}" for setting in SMALL_DATA[class_name(values["data"])]]
    more += ["--data.split.validation_fraction=0.3", "--data.split.test_fraction=0.3", *QUIET]
    if "checkpoint" in str(values["model"]):
        write_gpt2(folder / "gpt")
        more += PRETRAINED
    return replace(sweep, base=[*sweep.base, *more])


def test_sweeps_of_every_task_are_shipped() -> None:
    assert sweep_files().keys() >= {"pinyin", "text_classification", "ner", "digits", "causal_lm", "lora_finetune"}
    assert sweep_files().keys() <= experiment_files().keys()


@pytest.mark.parametrize("name", sweep_files())
def test_trials_at_the_ends_of_a_shipped_sweep_can_be_built(name: str, small: Path) -> None:
    sweep = on_small_data(load(["--config", name]), small)
    corners = list(sweep.space.corners())
    assert len(corners) > 1
    enqueued_points(sweep)
    configurations = [(str(corner), sweep.configuration(corner).values) for corner in corners]
    assert build_corners(configurations, sweep.config.metrics) == ""


@pytest.mark.parametrize("name", sweep_files())
def test_a_shipped_sweep_varies_what_its_base_is_sensitive_to(name: str) -> None:
    sweep = load(["--config", name])
    labels = sweep.space.labels()
    settings = {label.rpartition(".")[2] for label in labels}
    assert {"lr", "warmup_fraction", "weight_decay", "dropout"} <= settings
    assert any(label.startswith("data.batch.") for label in labels)
    assert sweep.config.n_trials >= 12
    trainer = sweep.configuration({}).values["trainer"]
    validates_at = (trainer["max_steps"], trainer["val_check_interval"], trainer["check_val_every_n_epoch"])
    assert validates_at[0] == 4 * validates_at[1], "pruners compare trials at the same step, whatever their batches"
    assert validates_at[2] is None
