"""Every callback of the installed Lightning trains, or is refused in one line, as the table in the docs says."""

import re
from pathlib import Path

import pytest
from lightning.pytorch import callbacks

from lightrail.project.basics.catalogue import ROOT
from lightrail.project.basics.errors import ConfigError
from lightrail.project.configuration import parse
from lightrail.project.running.build import build
from lightrail.testing.resuming import EVERY_STEP, train
from tests.support.tasks import text_classification

NAMES = sorted(name for name, own in vars(callbacks).items() if isinstance(own, type))
ROW = re.compile(r"^\| `(\w+)` \| (.*) \|$", re.MULTILINE)
TABLE = dict(ROW.findall((ROOT / "docs" / "callbacks.md").read_text("utf-8")))
REQUIRED = {
    "EarlyStopping": "{monitor: val/loss}",
    "GradientAccumulationScheduler": "{scheduling: {0: 2}}",
    "ModelCheckpoint": "{filename: mine}",
    "ModelPruning": "{pruning_fn: l1_unstructured, amount: 0.2}",
    "OnExceptionCheckpoint": "{dirpath: exceptions}",
    "StochasticWeightAveraging": "{swa_lrs: 0.01}",
    "Timer": "{duration: '00:00:01:00'}",
}


def test_the_table_names_every_callback() -> None:
    assert sorted(TABLE) == NAMES


@pytest.mark.filterwarnings("ignore")  # of Lightning, about what a callback of a tiny training finds
@pytest.mark.parametrize("name", NAMES)
def test_a_callback_works_or_is_refused_as_the_table_says(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = f"{{class_path: lightning.pytorch.callbacks.{name}, init_args: {REQUIRED.get(name, {})}}}"
    settings = [
        *text_classification.settings(tmp_path),
        *("--trainer.accelerator=cpu", "--trainer.precision=32-true", "--trainer.max_epochs=1"),
        *("--trainer.max_steps=-1", *EVERY_STEP, f"--trainer.callbacks=[{spec}]"),
    ]
    if TABLE[name].startswith("works"):
        assert train(build(parse(settings), "fit"), tmp_path / "run").order
        return
    with pytest.raises(ConfigError, match=rf"{name} cannot be used here: ") as refused:
        build(parse(settings), "fit")
    assert "\n" not in str(refused.value)
