"""A run that is killed twenty times, at random moments and in the middle of what must not be torn, ends like one left
alone. `python -m benchmarks.chaos` does the same for longer.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.chaos import MOMENTS, differences
from lightrail.project.basics.catalogue import ROOT
from tests.support.callbacks import ALLOW
from tests.support.running import QUIET
from tests.support.tasks.pinyin import TINY, write_sentences

NUM_KILLS = 20
SETTINGS = [
    *("--trainer.max_epochs=12", "--trainer.val_check_interval=0.5", "--trainer.log_every_n_steps=1"),
    *("--data.batch.max_tokens=null", "--data.batch.size=1", "--tracking.checkpoint.every_steps=2"),
    *(ALLOW, "--trainer.callbacks=Slow", "--trainer.callbacks.seconds=0.02"),
]


@pytest.fixture(scope="module")
def survived(tmp_path_factory: pytest.TempPathFactory, store_template: Path) -> tuple[Path, str]:
    """Return the folder of both runs, and what the benchmark says."""
    folder = tmp_path_factory.mktemp("chaos")
    for name in ("alone", "disturbed"):
        (folder / name).mkdir()
        shutil.copy(store_template, folder / name / "mlflow.db")
    arguments = [*TINY, *write_sentences(folder), *QUIET, *SETTINGS]
    command = [sys.executable, "-m", "benchmarks.chaos", f"--kills={NUM_KILLS}", f"--folder={folder}", "--", *arguments]
    environment = {**os.environ, "XDG_STATE_HOME": str(folder / "state"), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    logs = "".join(file.read_text(errors="replace")[-3000:] for file in folder.glob("*/log.txt"))
    assert done.returncode == 0, done.stderr + logs
    return folder, done.stdout


def test_a_run_killed_twenty_times_ends_like_one_left_alone(survived: tuple[Path, str]) -> None:
    folder, shown = survived
    assert f"{NUM_KILLS} interruptions" in shown
    assert all(re.search(rf"^  {moment}", shown, re.MULTILINE) for moment in MOMENTS), shown
    assert differences(folder / "alone", folder / "disturbed") == []


def test_a_difference_is_found(survived: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = survived
    (checkpoint,) = (folder / "disturbed").glob("mlruns/*/*/artifacts/checkpoints/last.ckpt")
    content = checkpoint.read_bytes()
    changed = torch.load(checkpoint, weights_only=True)
    next(iter(changed["state_dict"].values())).view(-1)[0] += 1e-6
    torch.save(changed, checkpoint)
    try:
        assert differences(folder / "alone", folder / "disturbed") == ["last weights differ"]
    finally:
        checkpoint.write_bytes(content)
